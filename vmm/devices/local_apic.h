// Local APIC of one vCPU, in xAPIC mode. Source: SDM 3A chapter 10; register names are its own.
//
// Every local APIC answers its own vCPU alone, all at the same page. A guest may move it, but not over RAM, which keeps priority.
// x2APIC mode is absent: IA32_APIC_BASE.EXTD cannot be set and its MSRs raise #GP. The lines of LINT0 (INTR of the 8259A pair) are carried as asserted or not: polarity has no effect.
//
// The boot vCPU starts as firmware leaves it, in virtual wire mode (MultiProcessor Specification 1.4, 3.6.2.2): enabled,
// LINT0 ExtINT, LINT1 NMI. INIT gives the state of SDM 3A 10.4.7.3.
#pragma once

#include <array>
#include <string>

#include "vmm/board/device_context.h"
#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/devices/apic_bus.h"
#include "vmm/devices/apic_timer.h"
#include "vmm/devices/ext_int.h"
#include "vmm/vcpu.h"

namespace retrovisor {

class LocalApic final : public Device, public IrqSink, public VcpuInterrupts {
 public:
  // Connects itself to `bus` and to `vcpu`.
  LocalApic(const Clock& clock, Deadlines& deadlines, Vcpu& vcpu, ApicBus& bus, ExtIntController& pic);
  // Where its registers are.
  void set_page(MmioClaim page) { page_ = page; }

  std::string_view name() const override { return name_; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;

  uint8_t acknowledge() override;
  InterruptSource source() const override;
  void tsc_changed() override { update_timer(); }
  uint8_t cr8() const override { return static_cast<uint8_t>(tpr_ >> 4); }
  void set_cr8(uint8_t value) override;
  bool apic_enabled() const override { return enabled(); }
  bool read_msr(uint32_t index, uint64_t& value) override;
  bool write_msr(uint32_t index, uint64_t value) override;

  // For the APIC bus.
  bool is_destination(const ApicMessage& message) const;
  bool receive(const ApicMessage& message);  // false: not taken
  // The processor's reset line is pulsed: INIT, and its local APIC as firmware leaves it. The boot processor takes a start-up IPI then.
  void reset_processor(uint8_t start_vector);
  bool software_enabled() const;
  uint8_t processor_priority() const;        // PPR
  // LINT0: INTR of the 8259A pair.
  void set_irq(unsigned line, bool level) override;

 private:
  // The 256 bits of ISR, TMR and IRR.
  struct VectorSet {
    std::array<uint32_t, 8> bits{};
    void set(uint8_t v) { bits[v >> 5] |= 1u << (v & 31); }
    void clear(uint8_t v) { bits[v >> 5] &= ~(1u << (v & 31)); }
    bool has(uint8_t v) const { return (bits[v >> 5] >> (v & 31) & 1) != 0; }
    int highest() const;  // -1: empty
  };
  enum Lvt : unsigned { TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR, kLvts };

  bool enabled() const;  // IA32_APIC_BASE.EN
  bool masked(Lvt entry) const;
  DeliveryMode lvt_mode(Lvt entry) const;
  bool ext_int_ready() const;
  int deliverable() const;  // vector above the processor priority, or -1
  uint8_t arbitration_priority() const;
  void update_intr() { vcpu_.intr = ext_int_ready() || deliverable() >= 0; }

  void init_registers();
  void virtual_wire();
  void receive_init();
  bool accept(uint8_t vector, bool level);
  void deliver_lvt(Lvt entry);
  void service_lint0_level();
  void end_of_interrupt();
  void error(uint32_t bit);
  void send_ipi();

  uint64_t now() const { return clock_.now().value; }
  uint64_t tsc() const { return now() + vcpu_.state.tsc_offset; }
  bool tsc_deadline_mode() const;
  void timer_fired(uint64_t deadline);
  void update_timer();

  uint32_t read_register(unsigned index);
  void write_register(unsigned index, uint32_t value);
  void write_lvt(Lvt entry, uint32_t value);
  void write_svr(uint32_t value);
  bool write_base(uint64_t value);
  void map_page();

  Vcpu& vcpu_;
  ApicBus& bus_;
  ExtIntController& pic_;
  MmioClaim page_;
  const Clock& clock_;
  Deadlines& deadlines_;
  const std::string name_;
  const Deadlines::Timer timer_;

  uint64_t base_ = 0;      // IA32_APIC_BASE
  uint8_t id_ = 0;
  uint8_t tpr_ = 0;
  uint8_t ldr_ = 0;
  uint8_t dfr_ = 0xf;      // model: 0xf flat, 0 cluster
  uint32_t svr_ = 0;
  VectorSet isr_, tmr_, irr_;
  uint32_t esr_ = 0;
  uint32_t errors_ = 0;    // since the last write of ESR
  bool error_armed_ = true;
  uint32_t icr_low_ = 0;
  uint8_t icr_destination_ = 0;
  std::array<uint32_t, kLvts> lvt_{};
  ApicTimer count_;
  uint64_t tsc_deadline_ = 0;
  bool lint0_ = false;
  bool ext_int_pending_ = false;  // an ExtINT message waits for its acknowledge
};

extern const DeviceType kLocalApicDevice;

}  // namespace retrovisor
