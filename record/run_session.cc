#include "record/run_session.h"

#include <algorithm>

namespace retrovisor {

Result<RunResult> run_machine(Machine& machine, const RunOptions& options, SliceHook& hook) {
  using HostClock = std::chrono::steady_clock;
  const auto begin = HostClock::now();
  const uint64_t slice = std::max<uint64_t>(options.slice, 1);
  RunResult out;
  out.begin = machine.position();
  out.on_arrival = true;
  for (;;) {
    const Position now = machine.position();
    if (now >= options.stop_at) break;
    if (options.stop_requested && options.stop_requested()) {
      out.stop.reason = StopReason::host_request;
      break;
    }
    if (options.time_limit.count() > 0 && HostClock::now() - begin >= options.time_limit) {
      out.stop.reason = StopReason::host_request;
      out.time_limit_reached = true;
      break;
    }
    out.stop = machine.run_until(std::min({options.stop_at, hook.next_position(), now + slice}));
    if (out.stop.reason == StopReason::engine_failed) return *machine.engine().report().failure;
    if (out.stop.reason != StopReason::position) {
      out.on_arrival = false;
      break;
    }
    RV_TRY(hook.slice_done());
    if (options.progress) options.progress(machine.position());
  }
  out.end = machine.position();
  out.guest_time = machine.now();
  out.idle_ns = machine.idle_ns();
  out.host_time = HostClock::now() - begin;
  return out;
}

Result<RunResult> run_machine(Machine& machine, const RunOptions& options) {
  SliceHook nothing;
  return run_machine(machine, options, nothing);
}

}  // namespace retrovisor
