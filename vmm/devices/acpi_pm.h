// ACPI fixed hardware: PM1a event and control registers and the power management timer. Source: ACPI 6.5, 4.8.3.
//
// There is no SMI_CMD port: SCI_EN is set from the start. There are no buttons and no wake events, so the timer is the one
// source of SCI. Of the sleep states only S5 exists; writes of SLP_EN with another type do nothing.
#pragma once

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/clock.h"
#include "vmm/platform.h"

namespace retrovisor {

class AcpiPm final : public Device {
 public:
  AcpiPm(const Clock& clock, Deadlines& deadlines, MachineControl& control, IrqLine sci);

  std::string_view name() const override { return "acpi_pm"; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  // Ports 0x600-0x605 and 0x608-0x60b.
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;

 private:
  // How often bit 31 of the timer has changed up to `now`.
  uint64_t carries(uint64_t now) const;
  void sync(uint64_t now);
  void update();

  const Clock& clock_;
  Deadlines& deadlines_;
  MachineControl& control_;
  const IrqLine sci_;
  const Deadlines::Timer timer_;

  uint16_t status_ = 0;
  uint16_t enable_ = 0;
  uint16_t control_register_ = 0;
  uint64_t synced_ = 0;  // up to when TMR_STS is known, ns
};

extern const DeviceType kAcpiPmDevice;

}  // namespace retrovisor
