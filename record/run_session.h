// Runs a machine to its end in slices, between which the host is listened to.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "vmm/machine/machine.h"

namespace retrovisor {

struct RunOptions {
  Position stop_at = kNoPosition;
  // Asked between slices; true ends the run. May be empty.
  std::function<bool()> stop_requested;
  // Host time after which the run ends; zero: none.
  std::chrono::nanoseconds time_limit{0};
  // Instructions per slice: a few milliseconds under the soft engine, so that Ctrl-C feels immediate.
  uint64_t slice = uint64_t{1} << 20;
  // Called between slices with the position. May be empty.
  std::function<void(Position)> progress;
};

struct RunResult {
  Stop stop;
  // The machine was stopped where it would have arrived anyway (position or time limit, host's wish between slices), not by
  // itself.
  bool on_arrival = false;
  bool time_limit_reached = false;
  Position begin;
  Position end;
  VirtualTime guest_time;
  uint64_t idle_ns = 0;  // of guest time, all of it skipped or slept
  std::chrono::nanoseconds host_time{0};

  uint64_t instructions() const { return end - begin; }
  // Millions of instructions per second of host time.
  double mips() const {
    return host_time.count() > 0 ? static_cast<double>(instructions()) * 1e3 / static_cast<double>(host_time.count()) : 0;
  }
};

// Work to be done between slices. Where slices end never influences the machine (Machine::run_until).
class SliceHook {
 public:
  virtual ~SliceHook() = default;
  // A position at which a slice must end, above the current one.
  virtual Position next_position() { return kNoPosition; }
  // The machine stands at a slice's end and has not stopped by itself. An error ends the run.
  virtual Result<void> slice_done() { return {}; }
};

Result<RunResult> run_machine(Machine& machine, const RunOptions& options, SliceHook& hook);
// Without anything to do in between.
Result<RunResult> run_machine(Machine& machine, const RunOptions& options);

}  // namespace retrovisor
