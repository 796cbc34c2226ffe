// Guest time, and the queue of deadlines that devices ask to be called at.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "vmm/state_io.h"
#include "vmm/types.h"

namespace retrovisor {

// Guest time = retired instructions * 1 ns + idle time skipped. The TSC ticks with it, at 1 GHz.
// (1 ns per instruction is part of the machine model: a change raises kMachineModelVersion.)
class Clock {
 public:
  Position position() const { return position_; }
  VirtualTime now() const { return VirtualTime(position_.value + idle_); }
  // First position at which now() >= t, if nothing idles in between.
  Position position_of(VirtualTime t) const {
    if (t == kNever) return kNoPosition;
    return t.value <= now().value ? position_ : Position(t.value - idle_);
  }
  // The engine brings the clock up to date before anything outside the engine can look at it.
  void set_position(Position p) { position_ = p; }
  void add_idle(uint64_t ns) { idle_ += ns; }

  void save(StateWriter& out) const {
    out.section("clock");
    out.u64("position", position_.value);
    out.u64("idle_ns", idle_);
  }
  void restore(StateReader& in) {
    in.section("clock");
    in.u64("position", position_.value);
    in.u64("idle_ns", idle_);
    in.check("position", position_.value < (uint64_t{1} << 62));
    in.check("idle_ns", idle_ < (uint64_t{1} << 62));
  }

 private:
  Position position_;
  uint64_t idle_ = 0;
};

// Timers of all devices. A timer is registered once, when its device is built, and then armed and cancelled.
// Equal deadlines fire in order of registration, so the order never depends on the host.
class Deadlines {
 public:
  using Timer = uint32_t;

  // `fire` is called with the time that was armed, which is <= now; the timer is disarmed before the call and may be re-armed in it.
  Timer add(std::string name, std::function<void(VirtualTime deadline)> fire);
  void arm(Timer timer, VirtualTime when);
  void cancel(Timer timer);
  // The armed deadline, or kNever.
  VirtualTime deadline(Timer timer) const { return timers_[timer].when; }

  VirtualTime next() const { return next_; }
  // Fires everything due at `now`, in order of deadline, then of registration.
  void run_due(VirtualTime now);
  // Called for each timer that fires, before its own function (for the journal).
  void set_observer(std::function<void(Timer, VirtualTime)> observer) { observer_ = std::move(observer); }
  // Counts arm() and cancel() calls: an engine that sees it change returns, since its limit may be out of date. Not state.
  uint64_t changes() const { return changes_; }
  const std::string& name(Timer timer) const { return timers_[timer].name; }

  // Armed deadlines are state of the machine. Devices do not save them.
  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  struct Entry {
    std::string name;
    std::function<void(VirtualTime)> fire;
    VirtualTime when = kNever;
  };
  void find_next();

  std::vector<Entry> timers_;
  VirtualTime next_ = kNever;
  uint64_t changes_ = 0;
  std::function<void(Timer, VirtualTime)> observer_;
};

}  // namespace retrovisor
