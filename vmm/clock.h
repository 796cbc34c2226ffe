// Guest time, and the queue of deadlines that devices ask to be called at.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "vmm/state_io.h"
#include "vmm/types.h"

namespace retrovisor {

// What a position of a machine counts.
enum class PositionUnit : uint8_t {
  instructions = 0,  // retired instructions
  events = 1,        // synchronous events: points that every engine passes in the same state (MachineControl::synchronous_event)
};

// What moves guest time on, beside idle waits.
enum class TimeSource : uint8_t {
  instructions = 0,  // 1 ns for each retired instruction
  events = 1,        // the boundary says at each synchronous event how much has passed; in between, time stands still
};

// Guest time, in ns. The TSC ticks with it, at 1 GHz.
// (1 ns per instruction is part of the machine model: a change raises kMachineModelVersion.)
class Clock {
 public:
  explicit Clock(PositionUnit unit = PositionUnit::instructions, TimeSource source = TimeSource::instructions)
      : unit_(unit), source_(source) {}

  PositionUnit unit() const { return unit_; }
  TimeSource source() const { return source_; }
  Position position() const { return unit_ == PositionUnit::instructions ? retired_ : Position(events_); }
  // Instructions retired; an engine that cannot count them leaves it alone.
  Position retired() const { return retired_; }
  uint64_t events() const { return events_; }
  VirtualTime now() const { return VirtualTime(source_ == TimeSource::instructions ? retired_.value + passed_ : passed_); }
  // First position at which now() >= t, if nothing idles in between; kNoPosition if that is not known.
  Position position_of(VirtualTime t) const {
    if (t <= now()) return position();
    if (t == kNever || source_ != TimeSource::instructions || unit_ != PositionUnit::instructions) return kNoPosition;
    return Position(t.value - passed_);
  }
  // The engine brings the clock up to date before anything outside the engine can look at it.
  void set_retired(Position p) { retired_ = p; }
  // Time that passed without instructions: idle waits, and what the boundary says.
  void pass(uint64_t ns) { passed_ += ns; }
  void count_event() { ++events_; }

  void save(StateWriter& out) const {
    out.section("clock");
    out.u64("position", retired_.value);
    out.u64("idle_ns", passed_);
    if (source_ == TimeSource::events) out.u64("events", events_);
  }
  void restore(StateReader& in) {
    in.section("clock");
    in.u64("position", retired_.value);
    in.u64("idle_ns", passed_);
    in.check("position", retired_.value < (uint64_t{1} << 62));
    in.check("idle_ns", passed_ < (uint64_t{1} << 62));
    if (source_ != TimeSource::events) return;
    in.u64("events", events_);
    in.check("events", events_ < (uint64_t{1} << 62));
  }
  // What of it two engines agree on.
  void save_common(StateWriter& out) const {
    out.section("clock");
    out.u64("idle_ns", passed_);
    out.u64("events", events_);
  }

 private:
  PositionUnit unit_;
  TimeSource source_;
  Position retired_;
  uint64_t passed_ = 0;
  uint64_t events_ = 0;
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
