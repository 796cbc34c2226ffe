#include "vmm/devices/apic_timer.h"

#include "vmm/devices/ticks.h"

namespace retrovisor {
namespace {

constexpr uint32_t kDivideBits = 0xb;

}  // namespace

// DCR bits 3, 1, 0 (figure 10-10): 000 divides by 2 … 110 by 128, 111 by 1.
unsigned ApicTimer::shift() const { return (((divide_ & 3) | (divide_ >> 1 & 4)) + 1) & 7; }

uint32_t ApicTimer::current(uint64_t now) const {
  if (from_ == 0) return 0;
  const uint64_t e = elapsed(now);
  if (e < from_) return static_cast<uint32_t>(from_ - e);
  return periodic_ && initial_ != 0 ? static_cast<uint32_t>(initial_ - (e - from_) % initial_) : 0;
}

uint64_t ApicTimer::next_expiry(uint64_t now) const {
  if (from_ == 0) return UINT64_MAX;
  const uint64_t e = elapsed(now);
  if (e < from_) return start_ + (uint64_t{from_} << shift());
  if (!periodic_ || initial_ == 0) return UINT64_MAX;
  const uint64_t periods = (e - from_) / initial_ + 1;
  return start_ + ((from_ + periods * initial_) << shift());
}

void ApicTimer::rebase(uint64_t now) {
  const uint32_t count = current(now);
  start_ = from_ == 0 ? now : start_ + (elapsed(now) << shift());
  from_ = count;
}

void ApicTimer::set_periodic(bool periodic, uint64_t now) {
  if (periodic == periodic_) return;
  rebase(now);
  periodic_ = periodic;
}

void ApicTimer::set_initial(uint32_t count, uint64_t now) {
  initial_ = from_ = count;
  start_ = now;
}

void ApicTimer::set_divide(uint32_t configuration, uint64_t now) {
  rebase(now);
  divide_ = configuration & kDivideBits;
}

void ApicTimer::save(StateWriter& out) const {
  out.boolean("timer_periodic", periodic_);
  out.u32("timer_initial_count", initial_);
  out.u32("timer_divide", divide_);
  out.u64("timer_start", start_);
  out.u32("timer_from", from_);
}

void ApicTimer::restore(StateReader& in) {
  in.boolean("timer_periodic", periodic_);
  in.u32("timer_initial_count", initial_);
  in.u32("timer_divide", divide_);
  in.check("timer_divide", (divide_ & ~kDivideBits) == 0);
  in.u64("timer_start", start_);
  in.check("timer_start", start_ < kMaxRestoredTime);
  in.u32("timer_from", from_);
  in.check("timer_from", from_ <= initial_);
  divide_ &= kDivideBits;
}

}  // namespace retrovisor
