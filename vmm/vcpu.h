// A virtual CPU: its architectural state, and the lines that come to it from the interrupt controllers.
#pragma once

#include <memory>

#include "vmm/cpu/state.h"
#include "vmm/journal.h"
#include "vmm/types.h"

namespace retrovisor {

// What a vCPU asks of its interrupt controller. Implemented by the local APIC device (and, through it, the PIC on LINT0).
class VcpuInterrupts {
 public:
  virtual ~VcpuInterrupts() = default;
  // Interrupt acknowledge: the vector to deliver. Only called while Vcpu::intr is set.
  virtual uint8_t acknowledge() = 0;
  // Who would answer acknowledge() now; ask before (for the journal).
  virtual InterruptSource source() const { return InterruptSource::local_apic; }
  // The vCPU's tsc_offset has changed: a TSC deadline is due at another time.
  virtual void tsc_changed() {}
  // IA32_APIC_BASE.EN, which CPUID leaf 1 shows.
  virtual bool apic_enabled() const { return true; }
  // CR8: bits 7-4 of the task priority register.
  virtual uint8_t cr8() const = 0;
  virtual void set_cr8(uint8_t value) = 0;
  // IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range. False: #GP.
  virtual bool read_msr(uint32_t index, uint64_t& value) = 0;
  virtual bool write_msr(uint32_t index, uint64_t value) = 0;
};

struct Vcpu {
  explicit Vcpu(VcpuId vcpu_id = VcpuId{}) : id(vcpu_id), own_state(std::make_unique<CpuState>()), state(*own_state) {}
  // The engine that runs this vCPU owns the storage and works on it in place.
  Vcpu(VcpuId vcpu_id, CpuState& engine_state) : id(vcpu_id), state(engine_state) {}

  VcpuId id;
  std::unique_ptr<CpuState> own_state;  // null if an engine owns it
  CpuState& state;
  // INTR: an interrupt is ready to be delivered (its priority is above the task priority). Level; set by the local APIC.
  bool intr = false;
  // Whether an interrupt may be delivered now. Always, but under TimeSource::events: then only where the machine says so, and
  // the engine clears it when it has delivered one.
  bool may_deliver = true;
  VcpuInterrupts* interrupts = nullptr;
};

// --- what lets a vCPU run -------------------------------------------------------------------------------------------

// Does an interrupt wait that the program lets through? (Whether the machine does, too: Vcpu::may_deliver.)
inline bool interrupt_waits(const Vcpu& v) { return v.intr && (v.state.rflags & flag::IF) != 0; }
// The same, and the machine has decided that it is delivered.
inline bool interrupt_due(const Vcpu& v) { return interrupt_waits(v) && v.may_deliver; }

// Is there something that makes a vCPU execute that does not? `interrupt`: interrupt_waits() for whoever decides about delivery,
// interrupt_due() for whoever delivers. Of a halted one that is also an NMI or INIT (SDM 2, HLT), of one that waits for a
// start-up IPI nothing else (SDM 3A 8.4.4.1); one that has shut down stays so.
inline bool woken(const Vcpu& v, bool interrupt) {
  switch (v.state.activity) {
    case Activity::running:
    case Activity::shutdown: return false;
    case Activity::wait_for_sipi: return v.state.sipi_pending;
    case Activity::halted: return interrupt || v.state.nmi_due() || v.state.init_pending;
  }
  return false;
}
// Has it instructions to execute, now or as soon as what waits is delivered? What schedulers ask.
inline bool has_work(const Vcpu& v) { return v.state.activity == Activity::running || woken(v, interrupt_waits(v)); }
// Can an interrupt still come that wakes it? Without that a HLT ends only by NMI, INIT or reset.
inline bool interrupts_wake(const Vcpu& v) { return v.state.activity == Activity::halted && (v.state.rflags & flag::IF) != 0; }

}  // namespace retrovisor
