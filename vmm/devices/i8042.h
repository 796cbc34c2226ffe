// Keyboard controller (8042) with nothing plugged into either port, and port 0x92. Source: IBM PS/2 Technical Reference,
// "Keyboard and Auxiliary Device Controller"; port 92h: PIIX4 / ISA System Architecture "System Control Port A".
//
// Bytes sent to the absent devices come back as 0xfe with the time-out bit, as from a controller whose device does not
// clock. The A20 gate is a bit that can be written and read; addresses are never masked by it.
#pragma once

#include <array>

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/devices/restart.h"

namespace retrovisor {

class I8042 final : public Device {
 public:
  I8042(Restart restart, IrqLine keyboard_irq, IrqLine aux_irq);

  std::string_view name() const override { return "i8042"; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  // Ports 0x60, 0x64 and 0x92.
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;

 private:
  static constexpr unsigned kQueueSize = 8;
  // A byte on its way to the output buffer; flags are those of the status register.
  struct Answer {
    uint8_t data = 0;
    uint8_t flags = 0;
  };

  void answer(uint8_t data, uint8_t flags = 0);
  uint8_t status() const;
  void command(uint8_t value);
  void data(uint8_t value);
  void write_output_port(uint8_t value);
  void write_port92(uint8_t value);
  // `next`: another byte has moved into the output buffer, which is a new edge.
  void update(bool next);

  Restart restart_;
  const IrqLine keyboard_irq_, aux_irq_;

  std::array<uint8_t, 32> ram_{};   // byte 0 is the command byte
  std::array<Answer, kQueueSize> queue_{};
  uint8_t queued_ = 0;
  uint8_t last_data_ = 0;           // what port 0x60 shows while nothing is there
  bool last_was_command_ = false;   // status bit 3
  bool expects_data_ = false;       // `command_` waits for its byte at port 0x60
  uint8_t command_ = 0;
  uint8_t output_port_ = 0;
};

extern const DeviceType kI8042Device;

}  // namespace retrovisor
