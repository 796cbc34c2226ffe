// 16550A serial port. Source: National Semiconductor PC16550D data sheet (register names and numbers are its own).
//
// Sending takes no time: THR and the transmitter are empty as soon as they are written, and the byte is out. Receiving is
// from outside through input(); the receive time-out runs at the programmed character time. A terminal is always connected
// (CTS, DSR and DCD are on). As on a PC, the interrupt output is gated by OUT2, which is off in loopback mode.
#pragma once

#include <array>
#include <span>
#include <string>

#include "vmm/board/device_type.h"
#include "vmm/endpoint.h"
#include "vmm/bus.h"
#include "vmm/clock.h"

namespace retrovisor {

class Uart16550 final : public Device, public EndpointReceiver {
 public:
  static constexpr unsigned kPorts = 8;
  static constexpr unsigned kFifoSize = 16;

  Uart16550(std::string name, const Clock& clock, Deadlines& deadlines, IrqLine irq);
  // Where what it sends goes.
  void connect(EndpointOutput output) { output_ = std::move(output); }

  std::string_view name() const override { return name_; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;

  // How many bytes the receiver can take now: 0 in loopback mode, where it is cut off from the line.
  size_t room() const override;
  // Bytes beyond the room are lost and set the overrun flag, as on the line.
  void receive(std::span<const uint8_t> bytes) override;

 private:
  bool fifo_enabled() const;
  bool loopback() const;
  unsigned depth() const { return fifo_enabled() ? kFifoSize : 1; }
  unsigned trigger() const;
  uint64_t timeout_ns() const;
  bool timed_out() const;
  uint8_t pending() const;  // IIR bits 3-0
  uint8_t modem_lines() const;

  void take(uint8_t byte);
  void transmit(uint8_t byte);
  uint8_t read_rbr();
  void write_fcr(uint8_t value);
  void write_mcr(uint8_t value);
  void clear_receiver();
  void update();

  const std::string name_;
  const Clock& clock_;
  Deadlines& deadlines_;
  const IrqLine irq_;
  const Deadlines::Timer timeout_;
  EndpointOutput output_;

  uint8_t ier_ = 0;
  uint8_t fcr_ = 0;            // FIFO enable and trigger level
  uint8_t lcr_ = 0;
  uint8_t mcr_ = 0;
  uint8_t scr_ = 0;
  uint16_t divisor_ = 0;
  uint8_t msr_delta_ = 0;      // MSR bits 3-0
  bool overrun_ = false;       // LSR bit 1
  bool thre_pending_ = false;  // the THRE interrupt is due
  std::array<uint8_t, kFifoSize> fifo_{};
  uint8_t fifo_head_ = 0;
  uint8_t fifo_count_ = 0;
  uint8_t last_rbr_ = 0;       // what RBR shows while nothing is there
  uint64_t last_activity_ = 0; // when a byte last came or was read, ns
};

extern const DeviceType kUart16550Device;

}  // namespace retrovisor
