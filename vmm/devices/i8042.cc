#include "vmm/devices/i8042.h"

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

namespace sts {  // status register
constexpr uint8_t OBF = 1, system = 4, command = 8, not_locked = 0x10, aux = 0x20, time_out = 0x40;
}
namespace ctr {  // command byte
constexpr uint8_t keyboard_int = 1, aux_int = 2, system = 4, keyboard_disabled = 0x10, aux_disabled = 0x20, translate = 0x40;
}
namespace port {  // output port
constexpr uint8_t not_reset = 1, A20 = 2, keyboard_obf = 0x10, aux_obf = 0x20, writable = 0xcf;
}
namespace port92 {
constexpr uint8_t reset = 1, A20 = 2;
}
constexpr uint8_t kResend = 0xfe;      // what a device that does not answer amounts to
constexpr uint8_t kSelfTestOk = 0x55;
constexpr uint8_t kInputPort = 0x80;   // keyboard not inhibited

}  // namespace

I8042::I8042(Restart restart, IrqLine keyboard_irq, IrqLine aux_irq)
    : restart_(restart), keyboard_irq_(keyboard_irq), aux_irq_(aux_irq) {}

void I8042::reset(const PowerOn&) {
  ram_.fill(0);
  ram_[0] = ctr::system | ctr::keyboard_disabled | ctr::aux_disabled | ctr::translate;
  queue_.fill({});
  queued_ = 0;
  last_data_ = 0;
  last_was_command_ = expects_data_ = false;
  command_ = 0;
  output_port_ = port::not_reset | port::A20;
  update(false);
}

uint8_t I8042::status() const {
  uint8_t value = sts::not_locked;
  if (queued_ != 0) value = static_cast<uint8_t>(value | sts::OBF | queue_[0].flags);
  if ((ram_[0] & ctr::system) != 0) value |= sts::system;
  if (last_was_command_) value |= sts::command;
  return value;
}

void I8042::update(bool next) {
  const bool aux = queued_ != 0 && (queue_[0].flags & sts::aux) != 0;
  const bool keyboard = queued_ != 0 && !aux;
  if (next) {
    keyboard_irq_.set(false);
    aux_irq_.set(false);
  }
  keyboard_irq_.set(keyboard && (ram_[0] & ctr::keyboard_int) != 0);
  aux_irq_.set(aux && (ram_[0] & ctr::aux_int) != 0);
}

// Bytes that find the queue full are lost; a guest that never reads cannot make it grow.
void I8042::answer(uint8_t data, uint8_t flags) {
  if (queued_ < kQueueSize) queue_[queued_++] = {data, flags};
}

void I8042::write_output_port(uint8_t value) {
  output_port_ = value & port::writable;
  if ((value & port::not_reset) == 0) restart_.reset_processors(value);
}

void I8042::write_port92(uint8_t value) {
  output_port_ = static_cast<uint8_t>((output_port_ & ~port::A20) | ((value & port92::A20) != 0 ? port::A20 : 0));
  if ((value & port92::reset) != 0) restart_.reset_processors(value);
}

void I8042::command(uint8_t value) {
  expects_data_ = false;
  if (value >= 0x20 && value < 0x40) return answer(ram_[value & 0x1f]);
  if (value >= 0x60 && value < 0x80) {
    expects_data_ = true;
    command_ = value;
    return;
  }
  switch (value) {
    case 0xa4: return answer(0xf1);  // no password installed
    case 0xa7: ram_[0] |= ctr::aux_disabled; return;
    case 0xa8: ram_[0] &= static_cast<uint8_t>(~ctr::aux_disabled); return;
    case 0xa9: return answer(0);     // auxiliary interface test: no error
    case 0xaa:
      queued_ = 0;
      ram_[0] |= ctr::system | ctr::keyboard_disabled | ctr::aux_disabled;
      return answer(kSelfTestOk);
    case 0xab: return answer(0);     // keyboard interface test: no error
    case 0xad: ram_[0] |= ctr::keyboard_disabled; return;
    case 0xae: ram_[0] &= static_cast<uint8_t>(~ctr::keyboard_disabled); return;
    case 0xc0: return answer(kInputPort);
    case 0xd0: {
      const bool aux = queued_ != 0 && (queue_[0].flags & sts::aux) != 0;
      return answer(static_cast<uint8_t>(output_port_ | (queued_ == 0 ? 0 : aux ? port::aux_obf : port::keyboard_obf)));
    }
    case 0xd1: case 0xd2: case 0xd3: case 0xd4:
      expects_data_ = true;
      command_ = value;
      return;
    case 0xdd: output_port_ &= static_cast<uint8_t>(~port::A20); return;
    case 0xdf: output_port_ |= port::A20; return;
    default: break;
  }
  // Pulses those of output port bits 3-0 that are 0 in the command; bit 0 is the reset line.
  if (value >= 0xf0 && (value & port::not_reset) == 0) restart_.reset_processors(value);
}

void I8042::data(uint8_t value) {
  if (!expects_data_) {  // to the keyboard, which this enables
    ram_[0] &= static_cast<uint8_t>(~ctr::keyboard_disabled);
    return answer(kResend, sts::time_out);
  }
  expects_data_ = false;
  switch (command_) {
    case 0xd1: return write_output_port(value);
    case 0xd2: return answer(value);
    case 0xd3: return answer(value, sts::aux);
    case 0xd4:
      ram_[0] &= static_cast<uint8_t>(~ctr::aux_disabled);
      return answer(kResend, sts::aux | sts::time_out);
    default: ram_[command_ & 0x1f] = value; break;  // 0x60-0x7f
  }
}

uint64_t I8042::read(const BusAccess& access) {
  const auto port = static_cast<uint16_t>(access.address);
  if (port == machine_map::kI8042Command) return status();
  if (port == machine_map::kSystemControlA) return output_port_ & port92::A20;
  if (queued_ == 0) return last_data_;
  last_data_ = queue_[0].data;
  for (unsigned i = 1; i < queued_; ++i) queue_[i - 1] = queue_[i];
  queue_[--queued_] = {};
  update(true);
  return last_data_;
}

void I8042::write(const BusAccess& access, uint64_t wide) {
  const auto port = static_cast<uint16_t>(access.address);
  const auto value = static_cast<uint8_t>(wide);
  if (port == machine_map::kSystemControlA) return write_port92(value);
  last_was_command_ = port == machine_map::kI8042Command;
  if (last_was_command_) {
    command(value);
  } else {
    data(value);
  }
  update(false);
}

void I8042::save(StateWriter& out) const {
  out.section(name());
  out.bytes("ram", ram_);
  std::array<uint8_t, 2 * kQueueSize> raw{};
  for (unsigned i = 0; i < kQueueSize; ++i) {
    raw[2 * i] = queue_[i].data;
    raw[2 * i + 1] = queue_[i].flags;
  }
  out.bytes("queue", raw);
  out.u8("queued", queued_);
  out.u8("last_data", last_data_);
  out.boolean("last_was_command", last_was_command_);
  out.boolean("expects_data", expects_data_);
  out.u8("command", command_);
  out.u8("output_port", output_port_);
}

void I8042::restore(StateReader& in) {
  in.section(name());
  in.bytes("ram", ram_);
  std::array<uint8_t, 2 * kQueueSize> raw{};
  in.bytes("queue", raw);
  for (unsigned i = 0; i < kQueueSize; ++i) {
    queue_[i] = {raw[2 * i], raw[2 * i + 1]};
    in.check("queue", (queue_[i].flags & ~(sts::aux | sts::time_out)) == 0);
  }
  in.u8("queued", queued_);
  in.check("queued", queued_ <= kQueueSize);
  if (!in.ok()) queued_ = 0;
  in.u8("last_data", last_data_);
  in.boolean("last_was_command", last_was_command_);
  in.boolean("expects_data", expects_data_);
  in.u8("command", command_);
  in.u8("output_port", output_port_);
  in.check("output_port", (output_port_ & ~port::writable) == 0);
}

constinit const DeviceType kI8042Device{
    .name = "i8042",
    .help = "keyboard controller with nothing plugged in, and port 0x92",
    .make =
        [](DeviceContext& c) {
          auto& keyboard = c.add<I8042>(Restart(c), c.irq(machine_map::kKeyboardIrq), c.irq(machine_map::kAuxIrq));
          for (const uint16_t port : {machine_map::kI8042Data, machine_map::kI8042Command, machine_map::kSystemControlA})
            c.claim_ports({.first = port, .count = 1, .device = &keyboard});
        },
    .single = true,
};

}  // namespace retrovisor
