// What moves guest time on, and what is due then: timers, and the look for input.
#pragma once

#include <optional>

#include "vmm/board/board.h"
#include "vmm/boundary.h"
#include "vmm/machine/turns.h"

namespace retrovisor {

class TimeKeeping {
 public:
  TimeKeeping(Clock& clock, Deadlines& deadlines, Boundary& boundary, Board& board, const Vcpus& vcpus);

  Moment moment() const { return {clock_.position(), clock_.now()}; }
  // Timers that are due fire; if it is time for it, input is looked for.
  void run_due();
  // The position at which something is due next; kNoPosition where that is not known beforehand (TimeSource::events).
  Position next() const;
  // A synchronous event, or an interruption that counts as one.
  void pass_event();
  // No vCPU can run: waits until something is due, or input comes. Returns why the machine stops, if it does.
  std::optional<Stop> idle();
  // A vCPU runs: what comes later is another wait.
  void runs() { idle_since_ = kNever; }

  // ns spent in idle().
  uint64_t idle_ns() const { return idle_ns_; }

  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  void poll_input();
  bool input_wanted() const;
  bool wakeable() const;
  bool asleep() const;

  Clock& clock_;
  Deadlines& deadlines_;
  Boundary& boundary_;
  Board& board_;
  const Vcpus& vcpus_;
  VirtualTime next_poll_;  // idle waits do not end for it
  VirtualTime idle_since_ = kNever;
  uint64_t idle_ns_ = 0;
};

}  // namespace retrovisor
