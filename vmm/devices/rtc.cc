#include "vmm/devices/rtc.h"

#include <algorithm>

#include "vmm/board/device_context.h"
#include "vmm/devices/calendar.h"
#include "vmm/devices/machine_map.h"
#include "vmm/devices/ticks.h"

namespace retrovisor {
namespace {

enum Register : unsigned {
  SECONDS = 0,
  SECONDS_ALARM = 1,
  MINUTES = 2,
  MINUTES_ALARM = 3,
  HOURS = 4,
  HOURS_ALARM = 5,
  WEEKDAY = 6,
  DAY = 7,
  MONTH = 8,
  YEAR = 9,
  A = 10,
  B = 11,
  C = 12,
  D = 13,
  SHUTDOWN = 15,
  CENTURY = 0x32,
};
namespace reg_a {
constexpr uint8_t UIP = 0x80, DV = 0x70, RS = 0x0f, running = 0x20, divider_reset = 0x60;
}
namespace reg_b {
constexpr uint8_t SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, DM = 4, hours24 = 2;
}
namespace reg_c {
constexpr uint8_t IRQF = 0x80, PF = 0x40, AF = 0x20, UF = 0x10, all = 0xf0;
}
constexpr uint8_t kVrt = 0x80;  // register D: memory and time are valid
constexpr uint8_t kPm = 0x80;   // hours, 12-hour mode
constexpr uint8_t kDontCare = 0xc0;
constexpr uint64_t kUpdateNs = (244 + 1984) * 1000;  // UIP goes up 244 us before an update cycle of 1984 us
constexpr uint64_t kSecondsPerDay = 86400;
constexpr TickClock kChain(32768);

}  // namespace

Rtc::Rtc(const Clock& clock, Deadlines& deadlines, IrqLine irq8, uint64_t memory_size)
    : clock_(clock),
      deadlines_(deadlines),
      irq_(irq8),
      memory_size_(memory_size),
      periodic_(deadlines.add("rtc.periodic", [this](VirtualTime) { fire(); })),
      alarm_(deadlines.add("rtc.alarm", [this](VirtualTime) { fire(); })),
      update_ended_(deadlines.add("rtc.update", [this](VirtualTime) { fire(); })) {}

void Rtc::reset(const PowerOn& at) {
  ram_.fill(0);
  ram_[A] = reg_a::running | 6;  // 1024 Hz, as PC firmware sets it
  ram_[B] = reg_b::hours24;      // BCD
  ram_[D] = kVrt;
  index_ = 0;
  nmi_masked_ = false;
  second_ = 0;
  weekday_ = 0;
  origin_ = synced_ = clock_.now().value;
  fill_memory_size();
  set_time(at.wall_clock);
}

// Memory sizes where PC firmware leaves them: base memory in KiB, memory above 1 MiB in KiB, above 16 MiB and above 4 GiB in
// 64 KiB.
void Rtc::fill_memory_size() {
  const auto put = [this](unsigned low, uint64_t value) {
    ram_[low] = static_cast<uint8_t>(value);
    ram_[low + 1] = static_cast<uint8_t>(value >> 8);
  };
  constexpr uint64_t kLowRam = 0xc0000000;
  const uint64_t low = std::min(memory_size_, kLowRam);
  const uint64_t extended = std::min<uint64_t>((std::max<uint64_t>(low, 1 << 20) - (1 << 20)) >> 10, 0xffff);
  put(0x15, 640);
  put(0x17, extended);
  put(0x30, extended);
  put(0x34, (std::max<uint64_t>(low, 16 << 20) - (16 << 20)) >> 16);
  const uint64_t high = memory_size_ - low;
  put(0x5b, high >> 16);
  ram_[0x5d] = static_cast<uint8_t>(high >> 32);
  ram_[0x14] = 0x02;  // equipment: an FPU, no floppy drive
  unsigned sum = 0;
  for (unsigned i = 0x10; i <= 0x2d; ++i) sum += ram_[i];
  ram_[0x2e] = static_cast<uint8_t>(sum >> 8);
  ram_[0x2f] = static_cast<uint8_t>(sum);
}

void Rtc::set_time(uint64_t wall_clock) {
  // Four digits of year are what the registers can say.
  constexpr uint64_t kEpoch = days_from_civil(1970, 1, 1) * kSecondsPerDay;
  second_ = (kEpoch + wall_clock % kCalendarSeconds) % kCalendarSeconds;
  weekday_ = static_cast<uint8_t>(weekday_of(second_ / kSecondsPerDay));
  origin_ = synced_ = clock_.now().value;
  to_registers();
  update();
}

bool Rtc::dividing() const { return (ram_[A] & reg_a::DV) == reg_a::running; }
bool Rtc::counting() const { return dividing() && (ram_[B] & reg_b::SET) == 0; }

// Period of the periodic interrupt in cycles of 32768 Hz; 0: none (table 5).
uint64_t Rtc::period_ticks() const {
  const unsigned rate = ram_[A] & reg_a::RS;
  if (rate == 0 || !dividing()) return 0;
  return uint64_t{1} << (rate < 3 ? rate + 6 : rate - 1);
}

uint64_t Rtc::chain_seconds(uint64_t t) const { return t <= origin_ ? 0 : (t - origin_) / kNsPerSecond; }
uint64_t Rtc::chain_ticks(uint64_t t) const { return t <= origin_ ? 0 : kChain.ticks(VirtualTime(t - origin_)); }

uint8_t Rtc::encode(unsigned value) const {
  return static_cast<uint8_t>((ram_[B] & reg_b::DM) != 0 ? value : value / 10 % 10 << 4 | value % 10);
}
unsigned Rtc::decode(uint8_t raw) const { return (ram_[B] & reg_b::DM) != 0 ? raw : (raw >> 4) * 10u + (raw & 0xfu); }

uint8_t Rtc::encode_hour(unsigned hour) const {
  if ((ram_[B] & reg_b::hours24) != 0) return encode(hour);
  const unsigned h = hour % 12;
  return encode(h == 0 ? 12 : h) | (hour >= 12 ? kPm : uint8_t{0});
}
unsigned Rtc::decode_hour(uint8_t raw) const {
  if ((ram_[B] & reg_b::hours24) != 0) return decode(raw);
  return decode(raw & static_cast<uint8_t>(~kPm)) % 12 + ((raw & kPm) != 0 ? 12 : 0);
}

void Rtc::to_registers() {
  const Civil date = civil_from_days(second_ / kSecondsPerDay);
  const auto time = static_cast<unsigned>(second_ % kSecondsPerDay);
  ram_[SECONDS] = encode(time % 60);
  ram_[MINUTES] = encode(time / 60 % 60);
  ram_[HOURS] = encode_hour(time / 3600);
  ram_[WEEKDAY] = encode(weekday_ + 1u);
  ram_[DAY] = encode(date.day);
  ram_[MONTH] = encode(date.month);
  ram_[YEAR] = encode(date.year % 100);
  ram_[CENTURY] = static_cast<uint8_t>((date.year / 1000) << 4 | date.year / 100 % 10);  // always BCD
}

// What the guest has set becomes the time. Values that no clock shows are brought into range.
void Rtc::from_registers() {
  const unsigned century = std::min((ram_[CENTURY] >> 4) * 10u + (ram_[CENTURY] & 0xfu), 99u);
  const unsigned year = century * 100 + decode(ram_[YEAR]) % 100;
  const unsigned month = std::clamp(decode(ram_[MONTH]), 1u, 12u);
  const unsigned day = std::clamp(decode(ram_[DAY]), 1u, days_in_month(year, month));
  second_ = days_from_civil(year, month, day) * kSecondsPerDay + decode_hour(ram_[HOURS]) % 24 * 3600u +
            decode(ram_[MINUTES]) % 60 * 60u + decode(ram_[SECONDS]) % 60;
  weekday_ = static_cast<uint8_t>((decode(ram_[WEEKDAY]) + 6) % 7);
}

uint64_t Rtc::seconds_to_alarm() const {
  const uint8_t sa = ram_[SECONDS_ALARM], ma = ram_[MINUTES_ALARM], ha = ram_[HOURS_ALARM];
  const auto start = static_cast<unsigned>(second_ % kSecondsPerDay);
  // A value that no second or minute has never matches.
  const auto possible = [this](uint8_t value) {
    for (unsigned v = 0; v < 60; ++v)
      if (value == encode(v)) return true;
    return value >= kDontCare;
  };
  if (!possible(sa) || !possible(ma)) return 0;
  // At most a day ahead; hours and minutes that cannot match are skipped whole.
  for (uint64_t ahead = 1; ahead <= kSecondsPerDay;) {
    const auto at = static_cast<unsigned>((start + ahead) % kSecondsPerDay);
    if (ha < kDontCare && ha != encode_hour(at / 3600)) {
      ahead += 3600 - at % 3600;
    } else if (ma < kDontCare && ma != encode(at / 60 % 60)) {
      ahead += 60 - at % 60;
    } else if (sa < kDontCare && sa != encode(at % 60)) {
      ++ahead;
    } else {
      return ahead;
    }
  }
  return 0;
}

void Rtc::sync(uint64_t now) {
  if (now <= synced_) return;
  uint8_t flags = 0;
  if (const uint64_t period = period_ticks(); period != 0 && chain_ticks(now) / period != chain_ticks(synced_) / period)
    flags |= reg_c::PF;
  if (counting()) {
    const uint64_t passed = chain_seconds(now) - chain_seconds(synced_);
    if (passed != 0) {
      flags |= reg_c::UF;
      const uint64_t alarm = seconds_to_alarm();
      if (alarm != 0 && alarm <= passed) flags |= reg_c::AF;
      const uint64_t day = second_ / kSecondsPerDay;
      second_ = (second_ + passed % kCalendarSeconds) % kCalendarSeconds;
      const uint64_t days = (second_ / kSecondsPerDay + kCalendarDays - day) % kCalendarDays;
      weekday_ = static_cast<uint8_t>((weekday_ + days) % 7);
      to_registers();
    }
  }
  ram_[C] |= flags;
  synced_ = now;
}

void Rtc::arm(Deadlines::Timer timer, uint64_t when, bool wanted) {
  const VirtualTime t = wanted ? VirtualTime(when) : kNever;
  if (deadlines_.deadline(timer) != t) deadlines_.arm(timer, t);
}

// Called after sync(): `synced_` is the present.
void Rtc::update() {
  const uint8_t b = ram_[B];
  uint8_t& c = ram_[C];
  c &= reg_c::PF | reg_c::AF | reg_c::UF;
  if ((c & b & (reg_c::PF | reg_c::AF | reg_c::UF)) != 0) c |= reg_c::IRQF;  // the enables have the flags' bit numbers
  irq_.set((c & reg_c::IRQF) != 0);

  const uint64_t period = period_ticks();
  const bool periodic = period != 0 && (b & reg_b::PIE) != 0 && (c & reg_c::PF) == 0;
  uint64_t next_period = 0;
  if (periodic) next_period = origin_ + kChain.time_of((chain_ticks(synced_) / period + 1) * period).value;
  arm(periodic_, next_period, periodic);

  const uint64_t boundary = origin_ + chain_seconds(synced_) * kNsPerSecond;
  arm(update_ended_, boundary + kNsPerSecond, counting() && (b & reg_b::UIE) != 0 && (c & reg_c::UF) == 0);
  const bool alarm = counting() && (b & reg_b::AIE) != 0 && (c & reg_c::AF) == 0;
  const uint64_t ahead = alarm ? seconds_to_alarm() : 0;
  arm(alarm_, boundary + ahead * kNsPerSecond, ahead != 0);
}

void Rtc::fire() {
  sync(clock_.now().value);
  update();
}

uint8_t Rtc::read_register(unsigned index) {
  switch (index) {
    case A: {
      const uint64_t left = kNsPerSecond - (synced_ - std::min(origin_, synced_)) % kNsPerSecond;
      return ram_[A] | (counting() && left <= kUpdateNs ? reg_a::UIP : uint8_t{0});
    }
    case C: {
      const uint8_t value = ram_[C];
      ram_[C] = 0;
      return value;
    }
    default: return ram_[index];
  }
}

void Rtc::write_a(uint8_t value) {
  const bool held = (ram_[A] & reg_a::divider_reset) == reg_a::divider_reset;
  const bool was_dividing = dividing();
  ram_[A] = value & (reg_a::DV | reg_a::RS);
  if (was_dividing || !dividing()) return;
  // The chain starts: the first update cycle is half a second after the divider reset is taken away, otherwise a second.
  origin_ = synced_ - (held ? std::min(synced_, kNsPerSecond / 2) : 0);
}

void Rtc::write_b(uint8_t value) {
  const bool was_set = (ram_[B] & reg_b::SET) != 0;
  ram_[B] = value;
  if ((value & reg_b::SET) != 0) ram_[B] &= static_cast<uint8_t>(~reg_b::UIE);  // SET clears UIE
  if (was_set && (value & reg_b::SET) == 0) from_registers();
  // A change of format does not convert what is there; the next update writes the new format.
}

void Rtc::write_register(unsigned index, uint8_t value) {
  switch (index) {
    case A: write_a(value); break;
    case B: write_b(value); break;
    case C: case D: break;  // read only
    case SECONDS: case MINUTES: case HOURS: case WEEKDAY: case DAY: case MONTH: case YEAR: case CENTURY:
      ram_[index] = value;
      if ((ram_[B] & reg_b::SET) == 0) from_registers();
      break;
    default: ram_[index] = value; break;
  }
}

uint64_t Rtc::read(const BusAccess& access) {
  const auto port = static_cast<uint16_t>(access.address);
  if (port != machine_map::kRtcData) return 0xff;
  sync(clock_.now().value);
  const uint8_t value = read_register(index_);
  update();
  return value;
}

void Rtc::write(const BusAccess& access, uint64_t wide) {
  const auto port = static_cast<uint16_t>(access.address);
  const auto value = static_cast<uint8_t>(wide);
  if (port != machine_map::kRtcData) {
    index_ = value & (kSize - 1);
    nmi_masked_ = (value & 0x80) != 0;
    return;
  }
  sync(clock_.now().value);
  write_register(index_, value);
  update();
}

uint8_t Rtc::shutdown_code() const { return ram_[SHUTDOWN]; }
void Rtc::clear_shutdown_code() { ram_[SHUTDOWN] = 0; }

void Rtc::save(StateWriter& out) const {
  out.section(name());
  out.bytes("ram", ram_);
  out.u8("index", index_);
  out.boolean("nmi_masked", nmi_masked_);
  out.u64("second", second_);
  out.u8("weekday", weekday_);
  out.u64("origin", origin_);
  out.u64("synced", synced_);
}

void Rtc::restore(StateReader& in) {
  in.section(name());
  in.bytes("ram", ram_);
  in.check("ram", (ram_[A] & reg_a::UIP) == 0 && (ram_[C] & ~reg_c::all) == 0 && ram_[D] == kVrt);
  in.u8("index", index_);
  in.check("index", index_ < kSize);
  index_ &= kSize - 1;
  in.boolean("nmi_masked", nmi_masked_);
  in.u64("second", second_);
  in.check("second", second_ < kCalendarSeconds);
  second_ %= kCalendarSeconds;
  in.u8("weekday", weekday_);
  in.check("weekday", weekday_ < 7);
  weekday_ %= 7;
  in.u64("origin", origin_);
  in.check("origin", origin_ < kMaxRestoredTime);
  in.u64("synced", synced_);
  in.check("synced", synced_ < kMaxRestoredTime && origin_ <= synced_);
}

constinit const DeviceType kRtcDevice{
    .name = "rtc",
    .help = "MC146818A real-time clock and CMOS memory",
    .make =
        [](DeviceContext& c) {
          auto& rtc = c.add<Rtc>(c.guest_clock(), c.deadlines(), c.irq(machine_map::kRtcIrq), c.memory_size());
          c.claim_ports({.first = machine_map::kRtcIndex, .count = 2, .device = &rtc});
          c.offer<ShutdownCode>(rtc);
        },
    .firmware =
        [](const DeviceOptions&, FirmwareTables& tables) {
          using namespace aml;
          tables.cmos_clock = true;
          tables.devices["RTC0"] = join({name("_HID", eisa_id("PNP0B00")),
                                         name("_CRS", resources(join({io(machine_map::kRtcIndex, 2), irq(machine_map::kRtcIrq)})))});
        },
    .single = true,
};

}  // namespace retrovisor
