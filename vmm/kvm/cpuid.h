// Our CPUID model (vmm/cpu/cpuid.h) as a table for KVM_SET_CPUID2. Source: Documentation/virt/kvm/api.rst; SDM 2A "CPUID".
//
// A table is fixed while the model looks at the state. The differences, all of them small:
// - OSXSAVE follows CR4 (KVM sees to that), the APIC bit follows IA32_APIC_BASE;
// - SYSCALL is shown in every mode;
// - the leaves do not shrink when the guest sets IA32_MISC_ENABLE bit 22;
// - leaves of hypervisors beyond 40000000h, which the model answers with zeros, read as the highest basic leaf does.
// KVM's own leaves (clock, steal time, asynchronous page faults) are not in it, and with KVM_CAP_ENFORCE_PV_FEATURE_CPUID
// their MSRs and hypercalls are not there either.
#pragma once

#include <string>
#include <vector>

#include "vmm/cpu/cpuid.h"
#include "vmm/kvm/kvm_api.h"

namespace retrovisor::kvm {

// The table of vCPU `id` among `vcpus`.
std::vector<kvm_cpuid_entry2> cpuid_table(VcpuId id, uint32_t vcpus);

// Sets the table and reads back what is in force (KVM adjusts a few fields); for the trace's header.
Result<std::vector<kvm_cpuid_entry2>> install_cpuid(const KvmVcpu& vcpu, std::span<const kvm_cpuid_entry2> table);

// What a guest of `table` reads for a leaf, by KVM's rules for leaves that are not in it.
CpuidResult lookup_cpuid(std::span<const kvm_cpuid_entry2> table, uint32_t leaf, uint32_t subleaf);

// Features of our model that this host's KVM does not offer, by name; a guest that uses one would fault or worse. Where
// HostQuirks::adds_host_cpuid holds, KVM_GET_SUPPORTED_CPUID lists too little: then it is no more than a warning.
std::vector<std::string> missing_features(std::span<const kvm_cpuid_entry2> supported);

}  // namespace retrovisor::kvm
