// The state of a vCPU between CpuState and KVM. Source: Documentation/virt/kvm/api.rst; SDM 1 13, 3A 3.4, 3C 26.3.
//
// KVM keeps less than CpuState has, and in other forms. The rule for both directions: a register of CpuState changes only if
// what KVM shows differs from what KVM would show for the present value. So storing after loading, with nothing executed in
// between, changes no bit, whatever KVM made of it.
//
// What KVM does not carry, and storing never touches:
//   activity, init_pending, sipi_*   the engine emulates HLT, INIT and start-up
//   tsc_offset, tsc_adjust           the engine answers the TSC
//   pending_debug                    debug traps held back by MOV SS; an engine that loads a state with one lets the soft
//                                    engine run the next instruction
//   xss                              always zero in this CPU model
//   MSRs that are not in StateCarrier::msrs(): msr_filter.h sends them to user space, so only user space changes them
//   pdpte                            while PAE paging is off, and on hosts without KVM_CAP_SREGS2 (KVM then loads them
//                                    from memory when SREGS are set)
//   x87.fip, x87.fdp, x87.fop        on hosts with HostQuirks::drops_fpu_pointers, while FSW.ES is clear
//   x87.fcs, x87.fds                 zero once the guest has executed an x87 instruction that moves FIP or FDP
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/cpu/state.h"
#include "vmm/kvm/host_quirks.h"
#include "vmm/kvm/kvm_api.h"

namespace retrovisor::kvm {

// An event whose delivery KVM has begun and will finish at the next entry. CpuState has no such thing: the engine runs the
// vCPU on (or hands the event to the soft engine) until there is none before it calls a state complete.
struct Delivery {
  bool exception = false;
  uint8_t exception_vector = 0;
  bool has_error_code = false;
  uint32_t error_code = 0;
  bool interrupt = false;
  bool soft_interrupt = false;     // INT n
  uint8_t interrupt_vector = 0;
  bool nmi = false;
  bool any() const { return exception || interrupt || nmi; }
  bool operator==(const Delivery&) const = default;
};

// What belongs to a vCPU's state for KVM but is not in CpuState.
struct Surroundings {
  uint8_t cr8 = 0;                    // VcpuInterrupts::cr8()
  uint64_t apic_base = 0xfee00900;    // IA32_APIC_BASE; its enable bit shows in CPUID leaf 1
  bool trap_tsc = false;              // CR4.TSD is set in KVM, whatever CpuState has
  Delivery delivery;
  uint8_t last_exception = 0;         // kvm_vcpu_events::exception.nr, of one that waits or not; see may_hide_exception()
};

// --- conversions -----------------------------------------------------------------------------------------------------

kvm_regs to_regs(const CpuState& s);
void from_regs(const kvm_regs& in, CpuState& s);

enum class SegmentKind : uint8_t { cs, ss, data /* ES, DS */, based /* FS, GS */, ldtr, tr };
// Segments that no processor has (CS.L outside of long mode, a task register without a busy TSS) become the nearest that one
// has; entering a guest with them fails on some hosts.
kvm_segment to_segment(const Segment& g, SegmentKind kind, bool long_mode);
// The rule above. `long_mode`: EFER.LMA, as it was for to_segment() and as it is with `seen`.
void from_segment(const kvm_segment& seen, SegmentKind kind, bool was_long_mode, bool long_mode, Segment& g);

kvm_sregs to_sregs(const CpuState& s, const Surroundings& around);
void from_sregs(const kvm_sregs& in, CpuState& s, Surroundings& around);
// Is PAE paging in use? Then PDPTEs are state.
bool pae_paging(const CpuState& s);
kvm_sregs2 to_sregs2(const CpuState& s, const Surroundings& around);
void from_sregs2(const kvm_sregs2& in, CpuState& s, Surroundings& around);

// The standard form; x87 and SSE only: other components become what they are after reset, and the guest cannot reach them.
void to_xsave(const CpuState& s, XsaveArea& out);
// `drops_pointers`: HostQuirks::drops_fpu_pointers. FIP, FDP and FOP then stay if the rest of the x87 state has not
// changed, and are zero if it has, but while FSW.ES is set.
void from_xsave(const XsaveArea& in, CpuState& s, bool drops_pointers = false);

kvm_debugregs to_debugregs(const CpuState& s);
void from_debugregs(const kvm_debugregs& in, CpuState& s);

kvm_vcpu_events to_events(const CpuState& s, const Surroundings& around);
void from_events(const kvm_vcpu_events& in, CpuState& s, Surroundings& around);

// All MSRs that CpuState holds and KVM does not keep in SREGS, in ascending order.
std::span<const uint32_t> state_msrs();
// The value of one of state_msrs(); null for others.
const uint64_t* msr_field(const CpuState& s, uint32_t index);
uint64_t* msr_field(CpuState& s, uint32_t index);

// --- transfer --------------------------------------------------------------------------------------------------------

// Parts of the state; the cheap ones can move alone.
namespace part {
inline constexpr uint32_t regs = 1, sregs = 2, events = 4, fpu = 8 /* XSAVE, XCR0 */, msrs = 16, debug = 32;
inline constexpr uint32_t core = regs | sregs | events;  // what KVM_CAP_SYNC_REGS moves without a system call
inline constexpr uint32_t all = core | fpu | msrs | debug;
}  // namespace part

// Moves states to and from vCPUs of this host.
class StateCarrier {
 public:
  StateCarrier(const HostCapabilities& host, const HostQuirks& quirks);

  // The MSRs that are moved: state_msrs() that the host's KVM lists.
  std::span<const uint32_t> msrs() const { return msrs_; }

  // Can this host run a vCPU in the mode that `s` is in? False: only the soft engine can, and loading is an error.
  bool carries(const CpuState& s) const;

  // Not while the vCPU is in KVM_RUN, nor after an exit that KVM completes at the next entry (port and MMIO accesses,
  // MSRs): enter once more with immediate_exit first, or the access happens on top of the loaded state, and the stored
  // one lacks it. Needs the vCPU's CPUID table, since KVM checks CR4 and XCR0 against it. If loading fails, the vCPU's
  // state is mixed; if storing fails, so is `s`.
  Result<void> load(KvmVcpu& vcpu, const CpuState& s, const Surroundings& around, uint32_t parts = part::all) const;
  Result<void> store(const KvmVcpu& vcpu, CpuState& s, Surroundings& around, uint32_t parts = part::all) const;

  // The same for part::core through the shared page: the next KVM_RUN takes the registers, and after it (an exit or
  // EINTR, but not another error) they lie there, as far as asked for: part::core, or part::regs alone, which is cheaper.
  // With PAE paging these fall back to ioctls for SREGS, as the page has no PDPTEs.
  void ask_for_sync(KvmVcpu& vcpu, uint32_t parts = part::core) const;
  Result<void> load_synced(KvmVcpu& vcpu, const CpuState& s, const Surroundings& around) const;
  Result<void> store_synced(const KvmVcpu& vcpu, CpuState& s, Surroundings& around) const;

 private:
  Result<void> check_mode(const CpuState& s) const;

  // What store_synced() has taken over already, with no other SREGS loaded or stored since.
  mutable std::optional<kvm_sregs> taken_;
  std::vector<uint32_t> msrs_;
  bool sregs2_ = false;
  HostQuirks quirks_;
};

}  // namespace retrovisor::kvm
