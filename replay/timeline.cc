#include "replay/timeline.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "replay/timeline_impl.h"

namespace retrovisor {
namespace {

// Distance of lasting checkpoints: the default distance of digests in a trace, so that pages are gathered once for both.
constexpr uint64_t kSpacing = uint64_t{1} << 24;

// Below this nothing useful fits, whatever the guest.
constexpr uint64_t kLeastBudget = uint64_t{1} << 20;

// A quarter of the host's RAM.
uint64_t default_budget() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long size = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || size <= 0) return uint64_t{1} << 30;
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(size) / 4;
}

// Temporary checkpoints on the way to a target, as distances from it. Restoring one takes about as long as running 50000
// instructions, so nearer ones would gain nothing.
constexpr uint64_t kSteps[] = {uint64_t{1} << 21, uint64_t{1} << 17, uint64_t{1} << 13};

}  // namespace

Result<std::unique_ptr<Timeline>> Timeline::open(const std::string& trace, const BootImages& images,
                                                 TimelineOptions options) {
  {
    RV_TRY(const auto reader, TraceReader::open(trace));
    if (reader->header().position_unit != PositionUnit::instructions)
      return Error{ErrorCode::unsupported,
                   "the trace was recorded under KVM, which counts no instructions; 'retrovisor trace convert' makes one "
                   "of it that a debugger can work on",
                   trace};
  }
  RV_TRY(auto session, ReplaySession::open(trace, images));
  RV_TRY(auto checker, JournalChecker::open(trace, session->end()));
  RV_TRY(auto digests, TraceReader::open(trace, {.key_frames = TraceReader::KeyFrames::skip}));
  const uint64_t budget = options.checkpoint_memory != 0 ? options.checkpoint_memory : default_budget();
  auto timeline = std::make_unique<TimelineImpl>(std::move(session), std::move(checker), std::move(digests),
                                                 std::max(budget, kLeastBudget), std::move(options));
  RV_TRY(timeline->start());
  return std::unique_ptr<Timeline>(std::move(timeline));
}

TimelineImpl::TimelineImpl(std::unique_ptr<ReplaySession> session, std::unique_ptr<JournalChecker> checker,
                           std::unique_ptr<TraceReader> digests, uint64_t budget, TimelineOptions options)
    : session_(std::move(session)),
      checker_(std::move(checker)),
      digests_(std::move(digests)),
      options_(std::move(options)),
      m_(session_->machine()),
      machine_pages_(m_.written_pages()),
      set_(budget, m_.memory().page_limit()),
      spacing_(options_.checkpoint_spacing != 0 ? options_.checkpoint_spacing : kSpacing),
      base_(set_.maps()) {
  session_->boundary().on_event([this](const TraceEvent& e) { match(e.event); });
  m_.engine().stepper().track_touched(true);
}

TimelineImpl::~TimelineImpl() {
  session_->boundary().on_event({});
  m_.journal().connect(nullptr, 0);
}

Result<void> TimelineImpl::start() {
  if (capture(false, begin())) return compare_digest();
  return Error{ErrorCode::bad_argument,
               fmt::format("{} MiB are too little for a single checkpoint of this machine", set_.budget() >> 20),
               "checkpoint memory"};
}

// The pages in which memory may differ from base_.
const std::vector<uint64_t>& TimelineImpl::collect_written() {
  const std::vector<uint64_t> more = machine_pages_->take();
  if (tracked_from_) tracked_written_.insert(tracked_written_.end(), more.begin(), more.end());
  if (written_.empty()) {
    written_ = more;
  } else if (!more.empty()) {
    std::vector<uint64_t> all;
    std::set_union(written_.begin(), written_.end(), more.begin(), more.end(), std::back_inserter(all));
    written_ = std::move(all);
  }
  return written_;
}

// Makes a checkpoint of the machine on arrival at its position; false if there is no room for it. References to other
// checkpoints do not outlive this.
bool TimelineImpl::capture(bool temporary, Position focus) {
  if (temporary ? set_.has(m_.position()) : set_.keep(m_.position())) return true;
  if (!store_written(focus)) return false;
  Checkpoint c(base_);
  c.position = m_.position();
  c.temporary = temporary;
  c.cpu = m_.save_cpu_state();
  c.devices = m_.save_device_state();
  c.boundary = session_->boundary().mark();
  // Dividing a stretch copies what is known of it.
  const Touched* stretch = set_.size() == 0 ? nullptr : set_.lasting_before(c.position).touched.get();
  const uint64_t state = c.memory() + (stretch != nullptr ? sizeof(Touched) + stretch->memory() : 0);
  if (!set_.make_room(0, state, focus)) return false;
  set_.add(std::move(c));
  return true;
}

// Brings base_ up to date. Page by page, since most are in the store already where a stretch is run again: room for all of them
// at once would cost checkpoints for nothing. False: there is no room; base_ then has some of the pages, and written_ the rest.
bool TimelineImpl::store_written(Position focus) {
  collect_written();
  size_t done = 0;
  for (; done < written_.size() && set_.make_room(1, 0, focus); ++done)
    base_.set(written_[done], set_.store().intern(m_.memory().host(PhysAddr(written_[done] << kPageShift))));
  captured_ += done;
  written_.erase(written_.begin(), written_.begin() + static_cast<std::ptrdiff_t>(done));
  return written_.empty();
}

Result<void> TimelineImpl::restore(const Checkpoint& c) {
  finish_tracking();
  const PageStore& store = set_.store();
  for (const uint64_t page : collect_written()) m_.restore_page(page, store.bytes(c.pages.get(page)));
  base_.differences(c.pages, [&](uint64_t page, PageId, PageId there) { m_.restore_page(page, store.bytes(there)); });
  base_ = c.pages;
  written_.clear();
  machine_pages_->take();
  RV_TRY(m_.restore_state(c.cpu, c.devices));
  RV_TRY(session_->boundary().seek(c.boundary));
  seen_ = {c.position, 0};
  position_ = c.position;
  exact_ = true;
  return {};
}

// Runs to `target` from the nearest checkpoint or key frame, or from here if that is nearer.
Result<TimelineImpl::RunOutcome> TimelineImpl::go_to(Position target, Search* search, const RunOptions& options) {
  const Position nearest = set_.before(target).position;
  RV_TRY(bring_key_frame(target, exact_ && position_ <= target ? std::max(nearest, position_) : nearest));
  const Checkpoint& c = set_.before(target);
  const bool from_here = exact_ && position_ <= target && position_ >= c.position;
  if (!from_here) RV_TRY(restore(c));
  return run_to(target, search, options);
}

Result<TimelineImpl::RunOutcome> TimelineImpl::arrive_at(Position target, const RunOptions& options) {
  if (exact_ && position_ == target) return RunOutcome{};
  return go_to(target, nullptr, options);
}

TimelineStop TimelineImpl::stop_here(TimelineStop::Reason reason) const {
  TimelineStop stop;
  stop.reason = reason;
  stop.position = position_;
  if (reason == TimelineStop::Reason::end && session_->summary().end) {
    stop.machine_stop = session_->summary().end->stop;
    stop.faults = session_->summary().end->faults;
  }
  return stop;
}

Result<TimelineStop> TimelineImpl::seek(Position target) {
  using Reason = TimelineStop::Reason;
  RV_TRY(end_diversion());
  lost_told_ = false;
  const Position to = std::min(target, end());
  RunOptions options;
  options.steps_to_target = true;
  RV_TRY(const auto outcome, arrive_at(to, options));
  if (outcome.end == RunEnd::interrupted) return stop_here(Reason::interrupted);
  return stop_here(target > end() ? Reason::end : Reason::position);
}

Result<void> TimelineImpl::warm() {
  RV_TRY(end_diversion());
  const Position back = position_;
  for (Position at = begin(); at < end();) {
    // What memory does not suffice to know about is run once.
    const Position known_to = std::max(set_.lasting_before(at).known_to, at);
    const Position next = std::min(set_.lasting_after(at), end());
    if (known_to < next) {
      const Checkpoint& from = set_.before(known_to);
      const bool from_here = exact_ && position_ >= from.position && position_ <= known_to;
      if (!from_here) RV_TRY(restore(from));
      RV_TRY(const auto outcome, run_to(next, nullptr, {}));
      if (outcome.end == RunEnd::interrupted) break;
    }
    at = next;
  }
  // Also where it was interrupted.
  RunOptions options;
  options.steps_to_target = true;
  options.interruptible = false;
  RV_TRY(arrive_at(back, options));
  return {};
}

CheckpointFigures TimelineImpl::checkpoints() const {
  CheckpointFigures f;
  f.count = set_.size();
  f.bytes = set_.memory();
  f.pages_stored = set_.store().pages();
  f.pages_captured = captured_;
  f.key_frames = session_->key_frames().size();
  f.key_frames_restored = key_frames_restored_;
  return f;
}

Position TimelineImpl::next_halt(Position now, Position target, const RunOptions& options) const {
  // How far the machine runs before the host is listened to: a millisecond or so, and less far where every instruction may be
  // looked at, which takes up to fifty times as long.
  const uint64_t slice = search_ != nullptr ? uint64_t{1} << 16 : uint64_t{1} << 18;
  Position next = std::min({target, now + slice, Position(now.value / spacing_ * spacing_ + spacing_),
                            session_->key_frames().next(now)});
  if (next_digest_ && next_digest_->position > now) next = std::min(next, next_digest_->position);
  if (options.steps_to_target)
    for (const uint64_t step : kSteps)
      if (target - now > step) next = std::min(next, target - step);
  return next;
}

// The machine has arrived at its position, on its way to `target`.
Result<void> TimelineImpl::arrived(Position target, const RunOptions& options) {
  const Position now = m_.position();
  RV_TRY(compare_digest());
  if ((now.value % spacing_ == 0 || session_->key_frames().at(now)) && now != begin()) {
    finish_tracking();
    capture(false, target);
  } else if (options.steps_to_target) {
    const uint64_t left = target - now;
    for (const uint64_t step : kSteps)
      if (left == step && set_.before(now).position + step / 2 < now) capture(true, target);
  }
  return {};
}

}  // namespace retrovisor
