// IO-APIC with 24 pins. Source: Intel 82093AA data sheet (290566); register and bit names are its own.
//
// Lines are carried as asserted or not, so the polarity bit is kept and has no effect.
#pragma once

#include <array>

#include "vmm/bus.h"
#include "vmm/devices/apic_bus.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {

class IoApic final : public MmioDevice, public IrqSink {
 public:
  static constexpr unsigned kPins = machine_map::kIoApicPins;

  explicit IoApic(ApicBus& bus) : bus_(bus) { bus.connect(*this); }

  std::string_view name() const override { return "ioapic"; }
  void reset() override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint64_t mmio_read(uint64_t offset, unsigned size) override;
  void mmio_write(uint64_t offset, unsigned size, uint64_t value) override;
  // Lines are pins (global system interrupts) 0-23.
  void set_irq(unsigned line, bool level) override;
  void end_of_interrupt(uint8_t vector);

 private:
  uint32_t read_register(uint8_t index) const;
  void write_register(uint8_t index, uint32_t value);
  bool send(unsigned pin);
  // Sends the interrupt of a level-triggered pin that is asserted and not yet accepted.
  void service_level(unsigned pin);

  ApicBus& bus_;
  uint8_t select_ = 0;  // IOREGSEL
  uint8_t id_ = 0;      // IOAPICID bits 27-24
  uint32_t pins_ = 0;   // levels
  std::array<uint64_t, kPins> redirection_{};  // IOREDTBL
};

}  // namespace retrovisor
