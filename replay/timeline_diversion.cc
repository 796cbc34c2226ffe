// Leaving the recorded way, and coming back to it.
#include <algorithm>

#include "replay/timeline_impl.h"

namespace retrovisor {

using Reason = TimelineStop::Reason;

Result<void> TimelineImpl::begin_diversion() {
  if (diverted_) return {};
  RunOptions options;
  options.interruptible = false;
  RV_TRY(arrive_at(position_, options));
  finish_tracking();
  // To come back to; without it the way back leads from an earlier one.
  capture(true, position_);
  m_.journal().connect(nullptr, 0);
  session_->boundary().detach(true);
  diverted_ = true;
  return {};
}

Result<void> TimelineImpl::end_diversion() {
  if (!diverted_) return {};
  session_->boundary().detach(false);
  m_.journal().connect(nullptr, 0);
  diverted_ = false;
  exact_ = false;
  RunOptions options;
  options.interruptible = false;
  RV_TRY(go_to(position_, nullptr, options));
  return {};
}

Result<TimelineStop> TimelineImpl::run_diversion(const StopConditions& conditions, uint64_t instructions) {
  RV_TRY(begin_diversion());
  constexpr uint64_t kSlice = uint64_t{1} << 16;  // as next_halt()
  const Position start = m_.position();
  constexpr uint64_t kFurthest = uint64_t{1} << 61;  // positions have an end (vmm/clock.h)
  const uint64_t room = kFurthest - std::min(start.value, kFurthest);
  const Position to = start + std::min(instructions, room);
  Search search = make_search(conditions);
  search.stop_at_first = true;
  search.interest.resume_from = search.from = start;
  const Installed installed(*this, &search);
  connect_journal(&search, start);
  TimelineStop out;
  out.reason = Reason::position;
  while (m_.position() < to) {
    if (options_.interrupted && options_.interrupted()) {
      out.reason = Reason::interrupted;
      break;
    }
    const Stop stop = m_.run_until(std::min(to, m_.position() + kSlice));
    if (search.hit) {
      out.reason = search.hit->reason;
      out.observation = search.hit->observation;
      out.event = search.hit->event;
      break;
    }
    if (stop.reason == StopReason::position || stop.reason == StopReason::observed) continue;
    out.reason = Reason::end;
    out.machine_stop = stop;
    break;
  }
  m_.journal().connect(nullptr, 0);
  out.position = m_.position();
  return out;
}

}  // namespace retrovisor
