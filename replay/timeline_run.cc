// Running forward along the recording: in slices, compared with the recording where that has not been done before, noting
// what is touched where that is not known, and looking for what a search looks for.
#include <fmt/format.h>

#include <algorithm>

#include "replay/byte_check.h"
#include "replay/timeline_impl.h"
#include "traces/describe.h"

namespace retrovisor {

TimelineImpl::Installed::Installed(TimelineImpl& timeline, Search* search) : timeline_(timeline) {
  timeline_.search_ = search;
  if (search == nullptr || search->interest.kinds() == 0) return;
  Interest interest = search->interest;
  interest.hit = [&t = timeline_](const Observation& o) { return t.observe(o); };
  subscription_ = timeline_.m_.observers().subscribe(std::move(interest));
}

TimelineImpl::Installed::~Installed() { timeline_.search_ = nullptr; }

TimelineImpl::Search TimelineImpl::make_search(const StopConditions& conditions) const {
  Search s;
  s.conditions = &conditions;
  s.interest.breakpoints = conditions.breakpoints;
  s.interest.watches = conditions.watches;
  for (const ByteWatch& w : conditions.bytes) s.interest.physical.push_back({w.bytes.begin, w.bytes.size});
  return s;
}

// From the engine. True: stop.
bool TimelineImpl::observe(const Observation& o) {
  using Kind = Observation::Kind;
  Search& s = *search_;
  if (s.check != nullptr && o.kind == Kind::physical_write) s.check->wrote(o);
  // A store through the address that is watched is told as such; that it wrote the bytes, too, is the same hit.
  const bool same = s.hit && s.hit->position == o.position && s.hit->observation;
  const bool instead = same && o.kind == Kind::write && s.hit->observation->kind == Kind::physical_write;
  if (s.stop_at_first && s.hit && !instead) return false;
  if (o.position < s.from || !(s.check != nullptr ? o.changed : is_hit(*s.conditions, o, m_))) return false;
  if (same && o.kind == Kind::physical_write && s.hit->observation->kind == Kind::write) return false;
  Hit hit;
  hit.position = o.position;
  hit.reason = o.kind == Kind::breakpoint ? TimelineStop::Reason::breakpoint : TimelineStop::Reason::watch;
  hit.observation = o;
  if (s.check != nullptr) hit.led_there = s.check->led_there(o);
  s.hit = std::move(hit);
  return s.stop_at_first;
}

// From the machine's journal.
void TimelineImpl::event(const JournalEvent& e) {
  if (!diverted_ && (checker_->mask() & mask_of(e.kind)) != 0) {
    if (e.position != seen_.position) seen_ = {e.position, 0};
    ++seen_.count;
    const bool compared =
        e.position < compared_.position || (e.position == compared_.position && seen_.count <= compared_.count);
    if (!compared) checker_->event(e);
  }
  match(e);
}

// From the journal, or of the recording: does a search look for this?
void TimelineImpl::match(const JournalEvent& e) {
  tracked_events_ |= mask_of(e.kind);
  if (search_ == nullptr || (search_->conditions->events & mask_of(e.kind)) == 0 || e.position < search_->from) return;
  if (search_->stop_at_first && search_->hit) return;
  if (search_->conditions->event_filter && !search_->conditions->event_filter(e)) return;
  Hit hit;
  hit.position = e.position;
  hit.reason = TimelineStop::Reason::event;
  hit.event = e;
  search_->hit = std::move(hit);
  if (search_->stop_at_first) m_.request_stop({StopReason::observed, 0});
}

void TimelineImpl::connect_journal(const Search* search, Position target) {
  EventMask mask = 0;
  if (!diverted_ && target > compared_.position) mask |= checker_->mask();
  if (tracked_from_) mask |= kJournalAll;
  if (search != nullptr) mask |= search->conditions->events & kJournalAll;
  m_.journal().connect(mask == 0 ? nullptr : this, mask);
}

// Where nothing is known of what the next instructions touch, notes it.
void TimelineImpl::start_tracking(Position target) {
  if (tracked_from_) return;
  const Position now = m_.position();
  const Position known_to = set_.lasting_before(now).known_to;
  if (now > known_to || target <= known_to) return;
  m_.engine().stepper().take_touched();
  collect_written();
  tracked_written_.clear();
  tracked_events_ = 0;
  tracked_from_ = now;
}

void TimelineImpl::finish_tracking() {
  if (!tracked_from_) return;
  const Position now = m_.position();
  collect_written();
  StretchPages pages{m_.engine().stepper().take_touched(), std::exchange(tracked_written_, {})};
  std::sort(pages.physical.begin(), pages.physical.end());
  pages.physical.erase(std::unique(pages.physical.begin(), pages.physical.end()), pages.physical.end());
  const Checkpoint& stretch = set_.lasting_before(*tracked_from_);
  const Position from = *tracked_from_;
  const bool useful = now > stretch.known_to && from <= stretch.known_to;
  tracked_from_.reset();
  const uint64_t most = sizeof(Touched) + pages.most();
  const Position begin = stretch.position;
  if (!useful || !set_.make_room(0, most, now)) return;
  // The stretch may have become part of the one before, of which less may be known.
  const Checkpoint& left = set_.lasting_before(begin);
  if (from <= left.known_to) set_.extend(left.position, pages, tracked_events_, now);
}

// Compares the state with what the recording says about this position, if it has not been.
Result<void> TimelineImpl::compare_digest() {
  const Position now = m_.position();
  for (;;) {
    if (!next_digest_) {
      RV_TRY(auto item, digests_->next());
      if (!item.has_value()) return {};
      auto* digest = std::get_if<DigestRecord>(&*item);
      if (digest == nullptr || digest->at_stop) continue;
      next_digest_.emplace();  // the sums are enough
      next_digest_->position = digest->position;
      next_digest_->state = digest->state;
    }
    if (next_digest_->position > now) return {};
    const bool same = next_digest_->position < now || m_.digest() == next_digest_->state;
    if (!same)
      return Error{ErrorCode::divergence, "the replay is not the recorded run: its state has another digest",
                   fmt::format("position {}", now.value)};
    next_digest_.reset();
  }
}

// The machine has run: did it ask for the same as in the recording, and did the same happen?
Result<void> TimelineImpl::check_recording() {
  ReplayBoundary& boundary = session_->boundary();
  const bool new_ground = position_ > compared_.position;
  if (new_ground) {
    boundary.arrived(position_);
    checker_->arrived(position_);
  }
  if (boundary.fault()) return boundary.fault()->error;
  // What was found equal before stays reachable.
  if (checker_->fault() && position_ > std::max(compared_.position, checker_->last_match())) return checker_->fault()->error;
  if (checker_->fault()) return {};
  const uint64_t count = seen_.position == position_ ? seen_.count : 0;
  if (new_ground)
    compared_ = {position_, count};
  else if (position_ == compared_.position)
    compared_.count = std::max(compared_.count, count);
  return {};
}

Result<TimelineImpl::RunOutcome> TimelineImpl::run_to(Position target, Search* search, const RunOptions& options) {
  RV_ASSERT(!diverted_ && target <= end() && m_.position() <= target);
  const Installed installed(*this, search);
  for (;;) {
    const Position now = m_.position();
    if (now == target) return RunOutcome{RunEnd::arrived, {}};
    if (options.interruptible && options_.interrupted && options_.interrupted()) return RunOutcome{RunEnd::interrupted, {}};
    RV_TRY(compare_around(now));
    const Position next = next_halt(now, target, options);
    start_tracking(next);
    connect_journal(search, next);
    const Stop stop = m_.run_until(next);
    position_ = m_.position();
    exact_ = stop.reason == StopReason::position;
    RV_TRY(check_recording());
    if (search != nullptr && search->stop_at_first && search->hit) return RunOutcome{RunEnd::hit, {}};
    if (exact_) {
      RV_TRY(arrived(target, options));
      if (options_.progress) options_.progress(position_, end());
      continue;
    }
    if (stop.reason == StopReason::observed && position_ < target) continue;
    if (position_ != end())
      return Error{ErrorCode::divergence,
                   fmt::format("the replay is not the recorded run: it ends with {}, the recording goes on", describe(stop)),
                   fmt::format("position {}", position_.value)};
    exact_ = true;  // stopped where it would have arrived
    return RunOutcome{RunEnd::machine, stop};
  }
}

}  // namespace retrovisor
