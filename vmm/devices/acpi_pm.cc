#include "vmm/devices/acpi_pm.h"

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"
#include "vmm/devices/ticks.h"

namespace retrovisor {
namespace {

namespace pm1_sts {
constexpr uint16_t TMR = 1;  // the others (bus master, global lock, buttons, RTC, wake) have nothing behind them
}
namespace pm1_en {
constexpr uint16_t TMR = 1, GBL = 0x20, PWRBTN = 0x100, SLPBTN = 0x200, RTC = 0x400;
constexpr uint16_t writable = TMR | GBL | PWRBTN | SLPBTN | RTC;
}
namespace pm1_cnt {
constexpr uint16_t SCI_EN = 1, BM_RLD = 2, SLP_TYP = 0x1c00, SLP_EN = 0x2000;
constexpr uint16_t writable = SCI_EN | BM_RLD | SLP_TYP;
constexpr unsigned slp_typ_shift = 10;
}
constexpr TickClock kTimer(machine_map::kPmTimerHz);
constexpr unsigned kCarryBit = machine_map::kPmTimerBits - 1;

constexpr uint16_t with_byte(uint16_t old, unsigned index, uint8_t value) {
  return static_cast<uint16_t>((old & ~(0xffu << index * 8)) | static_cast<unsigned>(value) << index * 8);
}

}  // namespace

AcpiPm::AcpiPm(const Clock& clock, Deadlines& deadlines, MachineControl& control, IrqLine sci)
    : clock_(clock), deadlines_(deadlines), control_(control), sci_(sci),
      timer_(deadlines.add("acpi_pm.timer", [this](VirtualTime) {
        sync(clock_.now().value);
        update();
      })) {}

void AcpiPm::reset(const PowerOn&) {
  status_ = enable_ = 0;
  control_register_ = pm1_cnt::SCI_EN;
  synced_ = clock_.now().value;
  update();
}

uint64_t AcpiPm::carries(uint64_t now) const { return kTimer.ticks(VirtualTime(now)) >> kCarryBit; }

void AcpiPm::sync(uint64_t now) {
  if (now <= synced_) return;
  if (carries(now) != carries(synced_)) status_ |= pm1_sts::TMR;
  synced_ = now;
}

void AcpiPm::update() {
  sci_.set((status_ & enable_) != 0 && (control_register_ & pm1_cnt::SCI_EN) != 0);
  VirtualTime when = kNever;
  if ((enable_ & pm1_en::TMR) != 0 && (status_ & pm1_sts::TMR) == 0)
    when = kTimer.time_of((carries(synced_) + 1) << kCarryBit);
  if (deadlines_.deadline(timer_) != when) deadlines_.arm(timer_, when);
}

uint64_t AcpiPm::read(const BusAccess& access) {
  const auto port = static_cast<uint16_t>(access.address);
  const uint64_t now = clock_.now().value;
  if (port >= machine_map::kPmTimer)
    return static_cast<uint8_t>(kTimer.ticks(VirtualTime(now)) >> (port - machine_map::kPmTimer) * 8);
  sync(now);
  update();
  const unsigned offset = port - machine_map::kPm1aEvent;
  const uint16_t value = offset < 2 ? status_ : offset < 4 ? enable_ : control_register_;
  return static_cast<uint8_t>(value >> (offset & 1) * 8);
}

void AcpiPm::write(const BusAccess& access, uint64_t wide) {
  const auto port = static_cast<uint16_t>(access.address);
  const auto value = static_cast<uint8_t>(wide);
  if (port >= machine_map::kPmTimer) return;  // read only
  sync(clock_.now().value);
  const unsigned offset = port - machine_map::kPm1aEvent;
  const unsigned byte = offset & 1;
  if (offset < 2) {
    status_ &= static_cast<uint16_t>(~with_byte(0, byte, value));  // write one to clear
  } else if (offset < 4) {
    enable_ = with_byte(enable_, byte, value) & pm1_en::writable;
  } else {
    const uint16_t written = with_byte(control_register_, byte, value);
    control_register_ = written & pm1_cnt::writable;
    if ((written & pm1_cnt::SLP_EN) != 0 &&
        (written & pm1_cnt::SLP_TYP) >> pm1_cnt::slp_typ_shift == machine_map::kSleepTypeS5)
      control_.request_stop({StopReason::power_off, 0});
  }
  update();
}

void AcpiPm::save(StateWriter& out) const {
  out.section(name());
  out.u16("PM1_STS", status_);
  out.u16("PM1_EN", enable_);
  out.u16("PM1_CNT", control_register_);
  out.u64("synced", synced_);
}

void AcpiPm::restore(StateReader& in) {
  in.section(name());
  in.u16("PM1_STS", status_);
  in.check("PM1_STS", (status_ & ~pm1_sts::TMR) == 0);
  in.u16("PM1_EN", enable_);
  in.check("PM1_EN", (enable_ & ~pm1_en::writable) == 0);
  in.u16("PM1_CNT", control_register_);
  in.check("PM1_CNT", (control_register_ & ~pm1_cnt::writable) == 0);
  in.u64("synced", synced_);
  in.check("synced", synced_ < kMaxRestoredTime);
}

constinit const DeviceType kAcpiPmDevice{
    .name = "acpi-pm",
    .help = "ACPI fixed hardware: power management events, timer and soft-off",
    .make =
        [](DeviceContext& c) {
          auto& pm = c.add<AcpiPm>(c.guest_clock(), c.deadlines(), c.control(), c.irq(machine_map::kSciIrq));
          c.claim_ports({.first = machine_map::kPm1aEvent, .count = 6, .device = &pm});
          c.claim_ports({.first = machine_map::kPmTimer, .count = 4, .device = &pm});
        },
    .acpi =
        [](const DeviceOptions&, AcpiNames& names) {
          using namespace aml;
          // \\_S5: SLP_TYP of PM1a_CNT and PM1b_CNT, two reserved (ACPI 6.5, 7.4.2).
          names.root = join({names.root, name("_S5_", package({integer(machine_map::kSleepTypeS5), integer(machine_map::kSleepTypeS5),
                                                               integer(0), integer(0)}))});
        },
    .single = true,
};

}  // namespace retrovisor
