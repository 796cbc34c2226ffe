// What some hosts' KVM does otherwise than documented, found by trying it once at start, never by the host's name. Every
// work-around of this room stands here or asks here, so that it can be removed in one place.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/cpu/state.h"
#include "vmm/kvm/kvm_api.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor::kvm {

struct HostQuirks {
  // KVM_SET_SREGS (and SREGS2) take CR0.PG without EFER.LMA and forget it: neither 32-bit nor PAE paging. Seen with
  // kvm_pvm. The soft engine has to run such stretches; StateCarrier::load refuses them.
  bool no_legacy_paging = false;
  // KVM_SET_REGS takes RFLAGS.VM and forgets it: no virtual-8086 mode. Seen with kvm_pvm. As above.
  bool no_vm86 = false;

  // The processor saves and restores FIP, FDP and FOP only while an unmasked x87 exception waits (FSW.ES), as AMD's did
  // before CPUID 80000008h EBX[2] (APM 3 appendix E). Whether KVM_GET_XSAVE shows a pointer or zero then depends on when
  // the host last switched threads, so without ES it is not looked at: from_xsave().
  bool drops_fpu_pointers = false;

  // KVM_SET_CPUID2 adds features of the host to the table: leaves 1, 7 and Dh read back with bits that were not set, AVX
  // and its XSAVE components among them, while KVM_GET_SUPPORTED_CPUID lists fewer than guests can use. Seen with
  // kvm_pvm. The guest may then switch on components that CpuState does not have; storing such a state is an error
  // (StateCarrier::store), and a recording needs a guest that keeps to what it is told.
  bool adds_host_cpuid = false;

  // KVM_EXIT_IRQ_WINDOW_OPEN comes later than directly behind the instruction after STI (SDM 2B, STI; 3C 25.2), at a point
  // that depends on the host, or not at all before the next other exit. Seen with kvm_pvm, in ring 0. Such an exit is then
  // nothing but an interruption, and who wants the first possible place has to find it himself.
  bool late_interrupt_window = false;

  // Those of unchecked_msrs() that the guest would write in KVM otherwise (written_msrs(), msr_filter.h).
  std::vector<uint32_t> unchecked_msrs;
};

// MSRs of which the guest's WRMSR takes a value that no processor takes: a non-canonical address, reserved bits, a memory type
// that does not exist, a change of EFER.LME with paging on (SDM 4; 2B WRMSR). KVM sign-extends addresses for SYSENTER_ESP and
// SYSENTER_EIP wherever it runs; kvm_pvm does not look at PAT and SFMASK.
Result<std::vector<uint32_t>> unchecked_msrs(const Kvm& kvm, std::span<const uint32_t> asked);

// HostQuirks::drops_fpu_pointers, which concerns this thread's processor and not KVM.
bool drops_fpu_pointers();

// KVM_GET_VCPU_EVENTS never shows a #BP or #OF that waits to be delivered: KVM's API has no place for the length of the
// instruction, and with RIP still at it, nothing is lost. kvm_pvm moves RIP first, at INT3 and INTO in ring 3. So a vCPU that was
// interrupted directly behind one may have such an exception or not: true then. What to do: let it run on. Nothing happens
// where it has none, nor on hosts that do as documented. `last_exception`: Surroundings' of this very interruption.
bool may_hide_exception(uint8_t last_exception, const CpuState& s, GuestMemory& memory);

// Tries fresh VMs of `kvm`. Costs a few milliseconds.
Result<HostQuirks> probe_quirks(const Kvm& kvm);

}  // namespace retrovisor::kvm
