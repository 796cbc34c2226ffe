#include "vmm/clock.h"

#include <algorithm>

namespace retrovisor {

Deadlines::Timer Deadlines::add(std::string name, std::function<void(VirtualTime)> fire) {
  timers_.push_back({std::move(name), std::move(fire), kNever});
  return static_cast<Timer>(timers_.size() - 1);
}

void Deadlines::arm(Timer timer, VirtualTime when) {
  RV_ASSERT(timer < timers_.size());
  timers_[timer].when = when;
  ++changes_;
  find_next();
}

void Deadlines::cancel(Timer timer) { arm(timer, kNever); }

// A machine has about a dozen timers; a scan is cheaper than keeping a heap in order.
void Deadlines::find_next() {
  next_ = kNever;
  for (const Entry& e : timers_) next_ = std::min(next_, e.when);
}

void Deadlines::run_due(VirtualTime now) {
  while (next_ <= now) {
    for (Timer i = 0; i < timers_.size(); ++i) {
      if (timers_[i].when != next_) continue;
      const VirtualTime when = timers_[i].when;
      timers_[i].when = kNever;
      find_next();
      if (observer_) observer_(i, when);
      timers_[i].fire(when);
      break;
    }
  }
}

void Deadlines::save(StateWriter& out) const {
  out.section("deadlines");
  for (const Entry& e : timers_) out.u64(e.name, e.when.value);
}

void Deadlines::restore(StateReader& in) {
  in.section("deadlines");
  for (Entry& e : timers_) in.u64(e.name, e.when.value);
  find_next();
}

}  // namespace retrovisor
