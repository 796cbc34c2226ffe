// Sleep to RAM (S3): what becomes of the processors, and where firmware lets them go on. Source: ACPI 6.5, 5.2.10 and 16.1.
//
// A machine that sleeps is one whose boot processor waits for a start-up IPI, as no other thing makes it wait. Memory and devices stay as
// they are; processors and local APICs are reset when it wakes.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "vmm/devices/restart.h"
#include "vmm/vcpu.h"

namespace retrovisor {

class Suspend {
 public:
  explicit Suspend(DeviceContext& context);
  void stop_processors();
  // Goes on at the firmware waking vector of the FACS, which is found as firmware finds it. False: there is none that real mode reaches.
  bool wake();

 private:
  std::optional<uint32_t> waking_vector() const;

  const std::span<const std::unique_ptr<Vcpu>> vcpus_;
  DmaPort& dma_;
  Restart restart_;
};

}  // namespace retrovisor
