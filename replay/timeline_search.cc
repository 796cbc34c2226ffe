// Looking for breakpoints, accesses and events, forwards and backwards.
#include <algorithm>

#include "replay/byte_check.h"
#include "replay/timeline_impl.h"

namespace retrovisor {
namespace {

using Reason = TimelineStop::Reason;

// Where these conditions can hold at all.
SearchPages pages_of(const StopConditions& conditions) {
  SearchPages out;
  for (const uint64_t address : conditions.breakpoints)
    out.executed.push_back({address >> kPageShift, address >> kPageShift});
  for (const Watch& w : conditions.watches) {
    if (w.size == 0) continue;
    const uint64_t last = w.begin.value + std::min(w.size - 1, UINT64_MAX - w.begin.value);
    const PageRange range{w.begin.value >> kPageShift, last >> kPageShift};
    if (w.on_write) out.written.push_back(range);
    if (w.on_read) out.accessed.push_back(range);
  }
  for (const ByteWatch& w : conditions.bytes) {
    if (w.bytes.size == 0) continue;
    const uint64_t begin = w.bytes.begin.value;
    out.physical.push_back({begin >> kPageShift, (begin + std::min(w.bytes.size - 1, UINT64_MAX - begin)) >> kPageShift});
  }
  out.physical = joined(std::move(out.physical));
  out.executed = joined(std::move(out.executed));
  out.written = joined(std::move(out.written));
  out.accessed = joined(std::move(out.accessed));
  out.events = conditions.events;
  return out;
}

}  // namespace

TimelineStop TimelineImpl::stop_at_hit(const Hit& hit) const {
  TimelineStop stop = stop_here(hit.reason);
  stop.observation = hit.observation;
  stop.event = hit.event;
  return stop;
}

// The machine has just been stopped by `hit`, perhaps in the middle of what happens at a position, or late. Brings it to
// where it has to stand: on arrival at the breakpoint, or behind the instruction that did it.
Result<TimelineStop> TimelineImpl::stand_behind(const Hit& hit) {
  RunOptions options;
  options.interruptible = false;
  const bool breakpoint = hit.reason == Reason::breakpoint;
  const Position where = breakpoint ? hit.position : std::min(hit.position + 1, end());
  // An instruction that is observed is the last before the machine gives back control.
  exact_ = position_ == where && (!breakpoint || hit.observation->on_arrival);
  if (!exact_) {
    RV_TRY(position_ < where ? run_to(where, nullptr, options) : go_to(where, nullptr, options));
  }
  return stop_at_hit(hit);
}

Result<TimelineStop> TimelineImpl::forward(const StopConditions& conditions, Position limit) {
  RV_TRY(end_diversion());
  RV_TRY(arrive_at(position_, {}));
  const Position to = std::min(limit, end());
  if (position_ < to) {
    lost_told_ = false;
    Search search = make_search(conditions);
    search.stop_at_first = true;
    search.interest.resume_from = search.from = position_;
    RV_TRY(const auto outcome, run_to(to, &search, {}));
    if (outcome.end == RunEnd::hit) return stand_behind(*search.hit);
    if (outcome.end == RunEnd::interrupted) return stop_here(Reason::interrupted);
    if (auto hit = lost_at_end(conditions)) return stop_at_hit(*hit);
  }
  return stop_here(position_ >= end() ? Reason::end : Reason::position);
}

// A triple fault happens at the last position, on arrival at which the timeline ends: what led to it is known from the recording.
// Told once, whichever way one comes to it: a run that goes on from there has it behind.
std::optional<TimelineImpl::Hit> TimelineImpl::lost_at_end(const StopConditions& conditions) {
  if (position_ != end() || lost_told_ || (conditions.events & mask_of(EventKind::exception_lost)) == 0 || !session_->summary().end) return std::nullopt;
  for (const ChainedFault& f : session_->summary().end->faults) {
    if (f.interrupt) continue;
    const JournalEvent e{EventKind::exception_lost, m_.next_vcpu(), position_, f.vector, f.error, f.address};
    if (conditions.event_filter && !conditions.event_filter(e)) continue;
    Hit hit;
    hit.position = position_;
    hit.reason = Reason::event;
    hit.event = e;
    lost_told_ = true;
    return hit;
  }
  return std::nullopt;
}

Result<TimelineImpl::Found> TimelineImpl::search_backward(const StopConditions& conditions, Position lowest,
                                                          Position below, ByteCheck* check) {
  const SearchPages pages = pages_of(conditions);
  while (below > lowest) {
    const Checkpoint& stretch = set_.lasting_before(below - 1);
    if (stretch.known_to >= below && !stretch.touched->meets(pages)) {
      if (check != nullptr && !check->agrees(set_.store(), stretch, below)) return Found{};
      below = std::max(stretch.position, lowest);
      continue;
    }
    RV_TRY(bring_key_frame(below - 1, set_.before(below - 1).position));
    const Position from = std::max(set_.before(below - 1).position, lowest);
    RV_TRY(auto outcome, arrive_at(from, {}));
    if (outcome.end == RunEnd::interrupted) return Found{{}, true};
    Search search = make_search(conditions);
    search.from = from;
    search.check = check;
    if (check != nullptr) check->begin();
    RV_TRY(outcome, run_to(below, &search, {}));
    if (outcome.end == RunEnd::interrupted) return Found{{}, true};
    if (check != nullptr && !check->end(search.hit ? search.hit->position : from, below)) return Found{};
    if (search.hit) return Found{std::move(search.hit), false};
    below = from;
  }
  return Found{};
}

// A search that is interrupted, or that does not move, comes back from far away: that should be quick.
void TimelineImpl::keep_way_back(Position here) {
  constexpr uint64_t kFar = uint64_t{1} << 20;
  if (exact_ && position_ == here && here - set_.before(here).position > kFar) capture(true, here);
}

Result<TimelineStop> TimelineImpl::backward(const StopConditions& conditions, Position limit) {
  RV_TRY(end_diversion());
  const Position start = position_;
  const Position lowest = std::min(std::max(limit, begin()), start);
  if (position_ == end()) RV_TRY(arrive_at(start, {}));
  if (auto hit = lost_at_end(conditions)) return stop_at_hit(*hit);
  keep_way_back(start);
  RV_TRY(const auto found, search_backward(conditions, lowest, start));
  RunOptions options;
  options.steps_to_target = true;
  options.interruptible = false;
  const Position to = found.interrupted ? start : found.hit ? found.hit->position : lowest;
  RV_TRY(arrive_at(to, options));
  if (found.interrupted) return stop_here(Reason::interrupted);
  lost_told_ = false;
  if (found.hit) return stop_at_hit(*found.hit);
  return stop_here(to == begin() ? Reason::begin : Reason::position);
}

Result<std::optional<TimelineImpl::Hit>> TimelineImpl::last_hit(const StopConditions& conditions, ByteCheck* check) {
  const Position here = position_;
  keep_way_back(here);
  auto found = search_backward(conditions, begin(), here, check);
  RunOptions options;
  options.interruptible = false;
  const auto back = arrive_at(here, options);
  if (!found) return found.error();
  if (!back) return back.error();
  if (found->interrupted) return Error{ErrorCode::bad_argument, "the search was interrupted", {}};
  return std::move(found->hit);
}

Result<LastChange> TimelineImpl::last_change(const std::vector<ByteWatch>& bytes, VcpuId asker) {
  RV_TRY(end_diversion());
  RV_TRY(arrive_at(position_, {}));
  StopConditions conditions;
  conditions.bytes = bytes;
  ByteCheck check(m_, bytes, m_.vcpu(asker).state);
  RV_TRY(const auto hit, last_hit(conditions, &check));
  LastChange answer;
  answer.unseen = check.unseen();
  if (hit) {
    answer.write = hit->observation;
    answer.led_there = hit->led_there;
  }
  return answer;
}

Result<std::optional<Observation>> TimelineImpl::last_write(LinearAddr address, uint64_t size) {
  RV_TRY(end_diversion());
  RV_TRY(arrive_at(position_, {}));
  StopConditions conditions;
  conditions.watches.push_back({address, size, false, true});
  RV_TRY(const auto hit, last_hit(conditions, nullptr));
  return hit ? hit->observation : std::nullopt;
}

}  // namespace retrovisor
