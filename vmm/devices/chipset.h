// All devices of the machine and how they are wired. A new device is one line in chipset.cc.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "vmm/boundary.h"
#include "vmm/platform.h"
#include "vmm/vcpu.h"

namespace retrovisor {

class ApicBus;
class Rtc;
class Uart16550;

class Chipset {
 public:
  // Builds the devices on the platform's buses and connects every vCPU to its local APIC.
  // `output`: where the serial port's and the debug consoles' bytes go.
  using Output = std::function<void(Channel, std::span<const uint8_t>)>;
  Chipset(const Platform& platform, std::span<const std::unique_ptr<Vcpu>> vcpus, Output output);
  ~Chipset();

  // Power-on state of all devices; `wall_clock` in seconds since 1970 seeds the RTC.
  void reset(uint64_t wall_clock);
  // How many bytes the serial port can take now (0 while its FIFO is full), and taking them.
  size_t input_room(Channel channel) const;
  void input(Channel channel, std::span<const uint8_t> bytes);

  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  template <class D, class... Args>
  D& add(Args&&... args);

  std::vector<std::unique_ptr<Device>> devices_;  // in order of registration: the order of state
  std::unique_ptr<ApicBus> apic_bus_;             // messages between the IO-APIC and the local APICs
  std::unique_ptr<IrqSink> pic_output_;           // fans INTR of the PICs out to LINT0 of every local APIC and the IO-APIC
  std::unique_ptr<IrqSink> isa_irqs_;             // fans each ISA line out to the PICs and the IO-APIC
  Uart16550* serial_ = nullptr;
  Rtc* rtc_ = nullptr;
};

}  // namespace retrovisor
