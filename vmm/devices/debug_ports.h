// Ports for the benefit of whoever debugs a guest: a port that ends the run with an exit code, and debug consoles.
// They behave as QEMU's isa-debug-exit (iobase 0xf4, iosize 4), the Bochs console (0xe9) and isa-debugcon (0x402).
#pragma once

#include "vmm/board/device_type.h"
#include "vmm/endpoint.h"
#include "vmm/bus.h"
#include "vmm/platform.h"

namespace retrovisor {

// Writes of 1, 2 or 4 bytes at 0xf4 end the run with exit code (value << 1) | 1; reads give 0.
class DebugExit final : public Device {
 public:
  static constexpr unsigned kPorts = 4;
  explicit DebugExit(MachineControl& control) : control_(control) {}

  std::string_view name() const override { return "debug_exit"; }
  void reset(const PowerOn&) override {}
  void save(StateWriter&) const override {}
  void restore(StateReader&) override {}
  uint64_t read(const BusAccess&) override { return 0; }
  void write(const BusAccess& access, uint64_t value) override;

 private:
  MachineControl& control_;
};

// Bytes written go out at once; reads give 0xe9, which tells the guest that the console is there.
class DebugConsole final : public Device {
 public:
  static constexpr uint8_t kPresent = 0xe9;
  explicit DebugConsole(EndpointOutput output) : output_(std::move(output)) {}

  std::string_view name() const override { return "debug_console"; }
  void reset(const PowerOn&) override {}
  void save(StateWriter&) const override {}
  void restore(StateReader&) override {}
  uint64_t read(const BusAccess&) override { return kPresent; }
  void write(const BusAccess& access, uint64_t value) override;

 private:
  const EndpointOutput output_;
};

extern const DeviceType kDebugExitDevice;
extern const DeviceType kDebugConsoleDevice;

}  // namespace retrovisor
