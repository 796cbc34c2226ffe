// Counters of the 8254: see pit8254.h.
#include <string>

#include "vmm/devices/pit8254.h"

namespace retrovisor {
namespace {

constexpr uint32_t from_bcd(uint16_t v) {
  return (v & 0xfu) + 10 * (v >> 4 & 0xfu) + 100 * (v >> 8 & 0xfu) + 1000 * (v >> 12 & 0xfu);
}
constexpr uint16_t to_bcd(uint32_t v) {
  return static_cast<uint16_t>(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}
constexpr uint64_t kNoEdge = UINT64_MAX;

}  // namespace

void PitCounter::reset(bool gate) {
  *this = PitCounter{};
  gate_ = gate;
}

// The count that CR stands for: 0 is the largest (65536, or 10000 in BCD). 1 is illegal in modes 2 and 3; taken as 2.
uint32_t PitCounter::reload() const {
  const uint32_t n = bcd_ ? from_bcd(cr_) : cr_;
  if (n == 0) return wrap();
  return periodic() && n == 1 ? 2 : n;
}

uint64_t PitCounter::half(bool high) const { return high ? (start_ + 1) / 2 : start_ / 2; }

void PitCounter::load(uint64_t tick) {
  before_ = count(tick);
  base_ = tick + 1;
  start_ = reload();
  active_ = true;
  expired_ = false;
  high_ = true;
  null_count_ = false;
}

void PitCounter::advance(uint64_t tick) {
  if (!active_ || frozen_ || tick < base_) return;
  switch (mode_) {
    case 2:
      if (tick - base_ >= start_) {
        base_ += start_;
        start_ = reload();
        null_count_ = false;
        base_ += (tick - base_) / start_ * start_;
      }
      break;
    case 3: {
      // A new count is taken up at the end of the current half cycle.
      const uint64_t first = half(high_);
      if (tick - base_ < first) break;
      base_ += first;
      high_ = !high_;
      start_ = reload();
      null_count_ = false;
      base_ += (tick - base_) / start_ * start_;
      if (tick - base_ >= half(high_)) {
        base_ += half(high_);
        high_ = !high_;
      }
      break;
    }
    default:
      // In modes 4 and 5 OUT is low during the tick of the terminal count.
      if (tick - base_ >= start_ + (mode_ >= 4 ? 1u : 0u)) expired_ = true;
      break;
  }
}

bool PitCounter::out(uint64_t tick) const {
  if (!active_) return mode_ != 0;  // the level the control word sets
  if (tick < base_) return before_out_;
  PitCounter at = *this;
  at.advance(tick);
  if (frozen_ || at.expired_) return mode_ != 0 || at.expired_;
  switch (mode_) {
    case 0: case 1: return false;
    case 2: return tick - at.base_ != at.start_ - 1u;
    case 3: return at.high_;
    default: return tick - at.base_ != at.start_;
  }
}

uint64_t PitCounter::next_edge(uint64_t tick) const {
  if (!active_ || frozen_ || expired_) return kNoEdge;
  if (tick < base_ && out(base_) != before_out_) return base_;
  PitCounter at = *this;
  at.advance(tick);
  const uint64_t t = std::max(tick, at.base_);
  switch (mode_) {
    case 0: case 1: return t < at.base_ + at.start_ ? at.base_ + at.start_ : kNoEdge;
    case 2: return t < at.base_ + at.start_ - 1 ? at.base_ + at.start_ - 1 : at.base_ + at.start_;
    case 3: return at.base_ + at.half(at.high_);
    default:
      if (t < at.base_ + at.start_) return at.base_ + at.start_;
      return t == at.base_ + at.start_ ? at.base_ + at.start_ + 1 : kNoEdge;
  }
}

uint16_t PitCounter::count(uint64_t tick) const {
  PitCounter at = *this;
  at.advance(tick);
  uint32_t value = 0;
  if (!at.active_ || tick < at.base_) {
    return at.before_;
  } else if (at.frozen_) {
    value = at.start_;
  } else if (mode_ == 3) {
    // CE goes down by two; with an odd count it starts at the count minus one.
    value = static_cast<uint32_t>((at.start_ & ~1u) - 2 * (tick - at.base_));
  } else if (mode_ == 2) {
    value = static_cast<uint32_t>(at.start_ - (tick - at.base_));
  } else {
    // After the terminal count CE wraps and goes on.
    const uint64_t passed = (tick - at.base_) % wrap();
    value = static_cast<uint32_t>((at.start_ + wrap() - passed) % wrap());
  }
  return bcd_ ? to_bcd(value) : static_cast<uint16_t>(value);
}

void PitCounter::freeze(uint64_t tick) {
  advance(tick);
  frozen_ = true;
  if (tick < base_) return;  // loaded at the next clock even while the gate is low
  const uint64_t passed = tick - base_;
  if (passed >= start_) expired_ = true;
  start_ = static_cast<uint32_t>(passed < start_ ? start_ - passed : (start_ + wrap() - passed % wrap()) % wrap());
  base_ = tick;
}

void PitCounter::write_control(uint8_t control, uint64_t tick) {
  before_ = count(tick);
  access_ = control >> 4 & 3;
  mode_ = control >> 1 & 7;
  if (mode_ >= 6) mode_ = static_cast<uint8_t>(mode_ - 4);  // modes 6 and 7 are 2 and 3
  bcd_ = (control & 1) != 0;
  null_count_ = true;
  written_ = false;
  active_ = frozen_ = expired_ = false;
  write_high_ = read_high_ = false;
  latched_bytes_ = 0;
  status_latched_ = false;
}

void PitCounter::write(uint8_t value, uint64_t tick) {
  advance(tick);
  if (access_ == 3 && !write_high_) {
    low_byte_ = value;
    write_high_ = true;
    if (mode_ == 0 && active_) {  // the first byte stops the count and OUT goes low (mode 0)
      before_ = count(tick);
      active_ = frozen_ = false;
    }
    return;
  }
  cr_ = static_cast<uint16_t>(access_ == 1 ? value : access_ == 2 ? value << 8 : value << 8 | low_byte_);
  write_high_ = false;
  null_count_ = written_ = true;
  const bool level = out(tick);
  if (mode_ == 0 || mode_ == 4) {
    load(tick);
    before_out_ = mode_ == 4;
    frozen_ = !gate_;
  } else if (periodic() && !active_ && gate_) {
    load(tick);
    before_out_ = level;
  }
  // Modes 1 and 5 wait for a trigger; modes 2 and 3, once they run, for the end of the period.
}

void PitCounter::set_gate(bool gate, uint64_t tick) {
  if (gate == gate_) return;
  advance(tick);
  const bool level = out(tick);
  gate_ = gate;
  if (gate_freezes()) {
    if (!active_) return;
    if (!gate) {
      freeze(tick);
    } else if (frozen_) {
      if (tick >= base_) base_ = tick;
      frozen_ = false;
    }
    return;
  }
  if (periodic()) {
    if (!gate && active_) {  // OUT goes high at once; the next rising edge starts anew
      before_ = count(tick);
      active_ = false;
    } else if (gate && written_) {
      load(tick);
      before_out_ = true;
    }
    return;
  }
  if (gate && written_) {  // modes 1 and 5: trigger
    load(tick);
    before_out_ = mode_ == 1 ? level : true;
  }
}

uint8_t PitCounter::status(uint64_t tick) const {
  PitCounter at = *this;
  at.advance(tick);
  const bool null = at.null_count_ || (at.active_ && tick < at.base_);
  return static_cast<uint8_t>((at.out(tick) ? 0x80 : 0) | (null ? 0x40 : 0) | access_ << 4 | mode_ << 1 | (bcd_ ? 1 : 0));
}

void PitCounter::latch_count(uint64_t tick) {
  if (latched_bytes_ != 0) return;  // latched until it has been read
  latched_count_ = count(tick);
  latched_bytes_ = access_ == 3 ? 2 : 1;
}

void PitCounter::latch_status(uint64_t tick) {
  if (status_latched_) return;
  latched_status_ = status(tick);
  status_latched_ = true;
}

uint8_t PitCounter::read(uint64_t tick) {
  if (status_latched_) {
    status_latched_ = false;
    return latched_status_;
  }
  const uint16_t value = latched_bytes_ != 0 ? latched_count_ : count(tick);
  if (latched_bytes_ != 0) --latched_bytes_;
  bool high = access_ == 2;
  if (access_ == 3) {
    high = read_high_;
    read_high_ = !read_high_;
  }
  return static_cast<uint8_t>(high ? value >> 8 : value);
}

void PitCounter::save(StateWriter& out, std::string_view prefix) const {
  const std::string p(prefix);
  out.u8(p + "mode", mode_);
  out.u8(p + "access", access_);
  out.boolean(p + "bcd", bcd_);
  out.boolean(p + "gate", gate_);
  out.u16(p + "CR", cr_);
  out.boolean(p + "null_count", null_count_);
  out.boolean(p + "written", written_);
  out.boolean(p + "active", active_);
  out.boolean(p + "frozen", frozen_);
  out.boolean(p + "expired", expired_);
  out.boolean(p + "high", high_);
  out.u64(p + "base", base_);
  out.u32(p + "start", start_);
  out.u16(p + "before", before_);
  out.boolean(p + "before_out", before_out_);
  out.boolean(p + "write_high", write_high_);
  out.boolean(p + "read_high", read_high_);
  out.u8(p + "low_byte", low_byte_);
  out.u8(p + "latched_bytes", latched_bytes_);
  out.u16(p + "latched_count", latched_count_);
  out.boolean(p + "status_latched", status_latched_);
  out.u8(p + "latched_status", latched_status_);
}

void PitCounter::restore(StateReader& in, std::string_view prefix) {
  const std::string p(prefix);
  in.u8(p + "mode", mode_);
  in.check(p + "mode", mode_ <= 5);
  in.u8(p + "access", access_);
  in.check(p + "access", access_ >= 1 && access_ <= 3);
  in.boolean(p + "bcd", bcd_);
  in.boolean(p + "gate", gate_);
  in.u16(p + "CR", cr_);
  in.boolean(p + "null_count", null_count_);
  in.boolean(p + "written", written_);
  in.boolean(p + "active", active_);
  in.boolean(p + "frozen", frozen_);
  in.check(p + "frozen", !frozen_ || (gate_freezes() && !gate_));
  in.boolean(p + "expired", expired_);
  in.check(p + "expired", !expired_ || !periodic());
  in.boolean(p + "high", high_);
  in.u64(p + "base", base_);
  in.check(p + "base", base_ < kMaxRestoredTime);
  in.u32(p + "start", start_);
  in.check(p + "start", start_ <= 65536 && (start_ >= 2 || !active_ || !periodic()));  // a period is divided by
  in.u16(p + "before", before_);
  in.boolean(p + "before_out", before_out_);
  in.boolean(p + "write_high", write_high_);
  in.boolean(p + "read_high", read_high_);
  in.u8(p + "low_byte", low_byte_);
  in.u8(p + "latched_bytes", latched_bytes_);
  in.check(p + "latched_bytes", latched_bytes_ <= 2);
  in.u16(p + "latched_count", latched_count_);
  in.boolean(p + "status_latched", status_latched_);
  in.u8(p + "latched_status", latched_status_);
  if (!in.ok()) reset(gate_);  // nothing impossible may stay
}

}  // namespace retrovisor
