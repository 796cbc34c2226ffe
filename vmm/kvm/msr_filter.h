// Which MSRs the guest reaches without us. Source: Documentation/virt/kvm/api.rst, KVM_X86_SET_MSR_FILTER.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/kvm/kvm_api.h"

namespace retrovisor::kvm {

// The registers that the guest reads and writes in KVM, in ascending order: those of msrs_kept_by_cpu() (vmm/cpu/msr.h) that
// this host's KVM lists, so that StateCarrier moves them. All others are exits (KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR),
// answered by our CPU model. So nothing of the host is visible: no TSC, no counters, no microcode revision, no paravirtual
// clock. A register of msrs_kept_by_cpu() can be an exit too, not listed, with a value that KVM refuses, or because KVM would
// take any value: it is answered like the others, but is no event of the machine.
std::vector<uint32_t> passed_msrs(const HostCapabilities& host);
// Those of them that the guest writes in KVM: what kernels write all the time. The others are written once, when a kernel
// starts, and KVM does not check them as a processor does (SYSENTER_EIP of a non-canonical address is stored sign-extended, by
// every KVM): write_msr() does, before the value reaches the guest's state. `unchecked`: HostQuirks::unchecked_msrs, not either.
std::vector<uint32_t> written_msrs(const HostCapabilities& host, std::span<const uint32_t> unchecked);

// Those that KVM keeps in SREGS, and that StateCarrier moves with them.
bool msr_in_sregs(uint32_t index);

// Denies all but these and makes what is denied, unknown or refused an exit. Before the first KVM_RUN. Not covered
// by a filter, by KVM's design: the x2APIC range (it needs the in-kernel APIC, which a VM of ours does not have).
Result<void> install_msr_filter(const KvmVm& vm, const HostCapabilities& host, std::span<const uint32_t> unchecked = {});

}  // namespace retrovisor::kvm
