// ACPI fixed hardware: PM1a event and control registers and the power management timer. Source: ACPI 6.5, 4.8.3.
//
// There is no SMI_CMD port: SCI_EN is set from the start. There are no buttons, so the timer is the one source of SCI, and S5 the one
// sleep state; writes of SLP_EN with another type do nothing. With s3=on there is S3, too, and the real-time clock's interrupt sets
// RTC_STS (as in the 82371AB, 7.2.1); a status bit that is enabled wakes, and WAK_STS tells of it.
#pragma once

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/clock.h"
#include "vmm/devices/suspend.h"
#include "vmm/platform.h"

namespace retrovisor {

class AcpiPm final : public Device, public IrqSink {
 public:
  AcpiPm(const Clock& clock, Deadlines& deadlines, MachineControl& control, IrqLine sci, std::optional<Suspend> s3 = std::nullopt);

  std::string_view name() const override { return "acpi_pm"; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  // Ports 0x600-0x605 and 0x608-0x60b.
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;
  // The ISA bus's lines, of which the clock's can wake.
  void set_irq(unsigned line, bool level) override;

 private:
  // How often bit 31 of the timer has changed up to `now`.
  uint64_t carries(uint64_t now) const;
  void sync(uint64_t now);
  void update();
  void enter_sleep_state(uint16_t type);
  void wake();
  uint16_t status_bits() const;

  const Clock& clock_;
  Deadlines& deadlines_;
  MachineControl& control_;
  const IrqLine sci_;
  const Deadlines::Timer timer_;
  std::optional<Suspend> s3_;

  uint16_t status_ = 0;
  uint16_t enable_ = 0;
  uint16_t control_register_ = 0;
  uint64_t synced_ = 0;  // up to when TMR_STS is known, ns
  // With S3 only, in the saved state too.
  bool asleep_ = false;
  bool rtc_line_ = false;
};

extern const DeviceType kAcpiPmDevice;

}  // namespace retrovisor
