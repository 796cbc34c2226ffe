// Ports for the benefit of whoever debugs a guest: a port that ends the run with an exit code, and debug consoles.
// They behave as QEMU's isa-debug-exit (iobase 0xf4, iosize 4), the Bochs console (0xe9) and isa-debugcon (0x402).
#pragma once

#include <functional>
#include <span>

#include "vmm/bus.h"
#include "vmm/platform.h"

namespace retrovisor {

// Writes of 1, 2 or 4 bytes at 0xf4 end the run with exit code (value << 1) | 1; reads give 0.
class DebugExit final : public PortDevice {
 public:
  static constexpr unsigned kPorts = 4;
  explicit DebugExit(MachineControl& control) : control_(control) {}

  std::string_view name() const override { return "debug_exit"; }
  void reset() override {}
  void save(StateWriter&) const override {}
  void restore(StateReader&) override {}
  uint32_t read(uint16_t, unsigned) override { return 0; }
  void write(uint16_t port, unsigned size, uint32_t value) override;
  unsigned port_width() const override { return 4; }

 private:
  MachineControl& control_;
};

// Bytes written go out at once; reads give 0xe9, which tells the guest that the console is there.
class DebugConsole final : public PortDevice {
 public:
  using Output = std::function<void(std::span<const uint8_t>)>;
  static constexpr uint8_t kPresent = 0xe9;
  explicit DebugConsole(Output output) : output_(std::move(output)) {}

  std::string_view name() const override { return "debug_console"; }
  void reset() override {}
  void save(StateWriter&) const override {}
  void restore(StateReader&) override {}
  uint32_t read(uint16_t, unsigned) override { return kPresent; }
  void write(uint16_t port, unsigned size, uint32_t value) override;

 private:
  const Output output_;
};

}  // namespace retrovisor
