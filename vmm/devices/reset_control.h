// Reset control register, port 0xcf9. Source: Intel 82371SB (PIIX3) data sheet 2.5.3 (RC).
//
// The register is a byte inside the port range of PCI configuration mechanism 1: wider accesses to 0xcf8-0xcfb pass it by.
#pragma once

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/devices/restart.h"
#include "vmm/platform.h"

namespace retrovisor {

class ResetControl final : public Device {
 public:
  ResetControl(MachineControl& control, Restart restart) : control_(control), restart_(restart) {}

  std::string_view name() const override { return "reset_control"; }
  void reset(const PowerOn&) override { value_ = 0; }
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;

 private:
  MachineControl& control_;
  Restart restart_;
  uint8_t value_ = 0;
};

extern const DeviceType kResetControlDevice;

}  // namespace retrovisor
