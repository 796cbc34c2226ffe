// A device type from outside of vmm/devices: a lamp with a port, a register in memory, a timer, an interrupt and an endpoint. Being
// registered, it is all there is to it.
#pragma once

#include <string>

#include "vmm/board/device_context.h"
#include "vmm/board/device_type.h"
#include "vmm/bus.h"

namespace retrovisor::test {

// Port +0: brightness. Memory +0: blinking period in ns, 0 for none; +8: how often it has blinked. Each time the light goes on the
// interrupt line is raised, until the count is read, and '*' goes out; what comes in is the brightness.
class Led final : public Device, public EndpointReceiver {
 public:
  Led(std::string name, DeviceContext& context, unsigned irq);

  std::string_view name() const override { return name_; }
  void reset(const PowerOn&) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;
  size_t room() const override { return 1; }
  void receive(std::span<const uint8_t> bytes) override { brightness_ = bytes[0]; }

  void connect(EndpointOutput output) { output_ = std::move(output); }
  static inline uint64_t accesses = 0;  // of all of them, for tests of who finds them
  static inline VcpuId last_vcpu;
  static inline Position last_position;

 private:
  void blink(VirtualTime when);

  const std::string name_;
  Deadlines& deadlines_;
  const Clock& clock_;
  const IrqLine irq_;
  const Deadlines::Timer timer_;
  EndpointOutput output_;
  uint8_t brightness_ = 0;
  uint64_t period_ = 0;
  uint64_t blinks_ = 0;
};

extern const DeviceType kLedDevice;
inline constexpr uint16_t kLedPort = 0x320;
inline constexpr uint64_t kLedMemory = 0xfd000000;

}  // namespace retrovisor::test
