// A device for test kernels, as kvm-unit-tests and others drive it: it behaves as QEMU's pc-testdev, but for the port that flushes a
// page from QEMU's own mappings, which takes its writes and does nothing.
//
// Ports 0xe0-0xe3 are a register of 32 bits, 0xe4-0xe7 the flush; each of the ports 0x2000-0x2017 drives the interrupt line of its
// number (an ISA line below 16, a pin of the IO-APIC above), high for any value but 0. 64 KiB of memory lie at 0xff000000.
#pragma once

#include <array>

#include "vmm/board/device_type.h"
#include "vmm/board/interrupt_wiring.h"
#include "vmm/bus.h"

namespace retrovisor {

class PcTestdev final : public Device {
 public:
  static constexpr uint16_t kRegister = 0xe0, kFlush = 0xe4, kLines = 0x2000;
  static constexpr unsigned kLineCount = 24;
  static constexpr uint64_t kMemory = 0xff000000, kMemorySize = 0x10000;

  explicit PcTestdev(InterruptWiring& wiring) : wiring_(wiring) {}

  std::string_view name() const override { return "pc_testdev"; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;

 private:
  InterruptWiring& wiring_;
  uint32_t register_ = 0;
  std::array<uint8_t, kMemorySize> memory_{};
};

extern const DeviceType kPcTestdevDevice;

}  // namespace retrovisor
