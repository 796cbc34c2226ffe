#include "vmm/devices/acpi_pm.h"

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"
#include "vmm/devices/ticks.h"

namespace retrovisor {
namespace {

namespace pm1_sts {
constexpr uint16_t TMR = 1, RTC = 0x400, WAK = 0x8000;  // the others (bus master, global lock, buttons) have nothing behind them
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

AcpiPm::AcpiPm(const Clock& clock, Deadlines& deadlines, MachineControl& control, IrqLine sci, std::optional<Suspend> s3)
    : clock_(clock), deadlines_(deadlines), control_(control), sci_(sci),
      timer_(deadlines.add("acpi_pm.timer", [this](VirtualTime) {
        sync(clock_.now().value);
        update();
      })),
      s3_(std::move(s3)) {}

void AcpiPm::reset(const PowerOn&) {
  status_ = enable_ = 0;
  asleep_ = rtc_line_ = false;
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
  if (asleep_ && (status_ & enable_) != 0) wake();
}

void AcpiPm::set_irq(unsigned line, bool level) {
  if (line != machine_map::kRtcIrq) return;
  if (level && !rtc_line_) status_ |= pm1_sts::RTC;
  rtc_line_ = level;
  sync(clock_.now().value);
  update();
}

void AcpiPm::enter_sleep_state(uint16_t type) {
  if (type == machine_map::kSleepTypeS5) control_.request_stop({StopReason::power_off, 0});
  if (type != machine_map::kSleepTypeS3 || !s3_) return;
  asleep_ = true;
  s3_->stop_processors();
}

// Firmware without a place to go on at starts the machine anew.
void AcpiPm::wake() {
  asleep_ = false;
  status_ |= pm1_sts::WAK;
  if (!s3_->wake()) control_.request_stop({StopReason::reset, 0});
}

uint16_t AcpiPm::status_bits() const { return s3_ ? pm1_sts::TMR | pm1_sts::RTC | pm1_sts::WAK : pm1_sts::TMR; }

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
    if ((written & pm1_cnt::SLP_EN) != 0)
      enter_sleep_state(static_cast<uint16_t>((written & pm1_cnt::SLP_TYP) >> pm1_cnt::slp_typ_shift));
  }
  update();
}

void AcpiPm::save(StateWriter& out) const {
  out.section(name());
  out.u16("PM1_STS", status_);
  out.u16("PM1_EN", enable_);
  out.u16("PM1_CNT", control_register_);
  out.u64("synced", synced_);
  if (!s3_) return;
  out.boolean("asleep", asleep_);
  out.boolean("RTC_line", rtc_line_);
}

void AcpiPm::restore(StateReader& in) {
  in.section(name());
  in.u16("PM1_STS", status_);
  in.check("PM1_STS", (status_ & ~status_bits()) == 0);
  in.u16("PM1_EN", enable_);
  in.check("PM1_EN", (enable_ & ~pm1_en::writable) == 0);
  in.u16("PM1_CNT", control_register_);
  in.check("PM1_CNT", (control_register_ & ~pm1_cnt::writable) == 0);
  in.u64("synced", synced_);
  in.check("synced", synced_ < kMaxRestoredTime);
  if (!s3_) return;
  in.boolean("asleep", asleep_);
  in.boolean("RTC_line", rtc_line_);
}

namespace {

constexpr OptionType kOptions[] = {
    {.name = "s3", .kind = OptionKind::flag, .standard = "off",
     .help = "sleep to RAM (S3), from which the real-time clock's alarm and the timer wake"},
};

}  // namespace

constinit const DeviceType kAcpiPmDevice{
    .name = "acpi-pm",
    .help = "ACPI fixed hardware: power management events, timer and soft-off",
    .options = kOptions,
    .make =
        [](DeviceContext& c) {
          const bool s3 = c.options().flag("s3");
          auto& pm = c.add<AcpiPm>(c.guest_clock(), c.deadlines(), c.control(), c.irq(machine_map::kSciIrq),
                                   s3 ? std::optional(Suspend(c)) : std::nullopt);
          if (s3) c.wiring().isa.add(pm);
          c.claim_ports({.first = machine_map::kPm1aEvent, .count = 6, .device = &pm});
          c.claim_ports({.first = machine_map::kPmTimer, .count = 4, .device = &pm});
        },
    .firmware =
        [](const DeviceOptions& options, FirmwareTables& tables) {
          using namespace aml;
          const bool s3 = options.flag("s3");
          tables.fixed_hardware = {.pm1_event = machine_map::kPm1aEvent,
                                   .pm1_control = machine_map::kPm1aControl,
                                   .pm_timer = machine_map::kPmTimer,
                                   .pm_timer_bits = machine_map::kPmTimerBits,
                                   .sci = machine_map::kSciIrq,
                                   .rtc_wakes = s3};
          tables.overrides.push_back({.line = machine_map::kSciIrq, .gsi = machine_map::kSciGsi, .level = true});
          if (s3)
            tables.root = join({tables.root, name("_S3_", package({integer(machine_map::kSleepTypeS3), integer(machine_map::kSleepTypeS3),
                                                                 integer(0), integer(0)}))});
          // \\_S5: SLP_TYP of PM1a_CNT and PM1b_CNT, two reserved (ACPI 6.5, 7.4.2).
          tables.root = join({tables.root, name("_S5_", package({integer(machine_map::kSleepTypeS5), integer(machine_map::kSleepTypeS5),
                                                               integer(0), integer(0)}))});
        },
    .single = true,
};

}  // namespace retrovisor
