// IO-APIC with 24 pins. Source: Intel 82093AA data sheet (290566); register and bit names are its own.
//
// Lines are carried as asserted or not, so the polarity bit is kept and has no effect.
#pragma once

#include <array>

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/devices/apic_bus.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {

class IoApic final : public Device, public IrqSink {
 public:
  static constexpr unsigned kPins = machine_map::kIoApicPins;

  explicit IoApic(ApicBus& bus) : bus_(bus) { bus.connect(*this); }

  std::string_view name() const override { return "ioapic"; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;
  // Lines are pins (global system interrupts) 0-23.
  void set_irq(unsigned line, bool level) override;
  void end_of_interrupt(uint8_t vector);
  // Where the lines of the ISA bus, and INTR of the 8259A pair, come in.
  IrqSink& isa_pins() { return isa_pins_; }
  IrqSink& pic_pin() { return pic_pin_; }

 private:
  struct IsaPins final : IrqSink {
    explicit IsaPins(IoApic& owner) : io_apic(owner) {}
    void set_irq(unsigned line, bool level) override {
      io_apic.set_irq(line == machine_map::kPitIrq ? machine_map::kPitGsi : line, level);
    }
    IoApic& io_apic;
  };
  struct PicPin final : IrqSink {
    explicit PicPin(IoApic& owner) : io_apic(owner) {}
    void set_irq(unsigned, bool level) override { io_apic.set_irq(machine_map::kPicGsi, level); }
    IoApic& io_apic;
  };

  uint32_t read_register(uint8_t index) const;
  void write_register(uint8_t index, uint32_t value);
  bool send(unsigned pin);
  // Sends the interrupt of a level-triggered pin that is asserted and not yet accepted.
  void service_level(unsigned pin);

  ApicBus& bus_;
  IsaPins isa_pins_{*this};
  PicPin pic_pin_{*this};
  uint8_t select_ = 0;  // IOREGSEL
  uint8_t id_ = 0;      // IOAPICID bits 27-24
  uint32_t pins_ = 0;   // levels
  std::array<uint64_t, kPins> redirection_{};  // IOREDTBL
};

extern const DeviceType kIoApicDevice;

}  // namespace retrovisor
