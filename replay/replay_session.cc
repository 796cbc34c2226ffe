#include "replay/replay_session.h"

#include <fmt/format.h>

#include <algorithm>

#include "record/record_session.h"
#include "replay/compare_states.h"
#include "traces/describe.h"

namespace retrovisor {
namespace {

using HostClock = std::chrono::steady_clock;

// Whether the recorded run was stopped where it would have arrived anyway, or stopped by itself after arriving there.
bool ends_on_arrival(const Stop& stop) {
  return stop.reason == StopReason::position || stop.reason == StopReason::host_request;
}

std::string end_text(const Stop& stop, Position at) { return fmt::format("{} at position {}", describe(stop), at.value); }

}  // namespace

ReplaySession::~ReplaySession() {
  if (machine_ != nullptr) machine_->journal().connect(nullptr, 0);
}

Result<std::unique_ptr<ReplaySession>> ReplaySession::open(const std::string& trace, const BootImages& images,
                                                           ReplayBoundary::Output output, const ReplayEngine& engine) {
  RV_TRY(auto summary, verify_trace(trace, {.key_frames = TraceReader::KeyFrames::check}));
  const TraceHeader header = summary.header;
  RV_TRY(const auto recorded, recorded_images(header, images));
  if (header.cpu_table_digest != cpu_table_digest(header.vcpus))
    return Error{ErrorCode::unsupported,
                 fmt::format("the trace was recorded with CPU model {}, whose CPUID table this build does not have",
                             header.cpu_model),
                 trace};

  std::unique_ptr<ReplaySession> out(new ReplaySession(trace, std::move(summary)));
  RV_TRY(out->boundary_, ReplayBoundary::open(trace, std::move(output)));
  RV_TRY(out->checker_, JournalChecker::open(trace, out->end()));
  RV_TRY(out->digests_, TraceReader::open(trace, {.key_frames = TraceReader::KeyFrames::skip}));

  RV_TRY(MachineConfig config, machine_config(header));
  if (engine.host && config.positions != PositionUnit::events)
    return Error{ErrorCode::unsupported, "the trace is exact to the instruction, which KVM cannot count; replay it with --engine=soft", "engine"};
  // Its guest has met one vendor's answers; another's processor would give others.
  if (engine.host && vendor_of(config.processor_model) != vendor_of(*engine.host))
    return Error{ErrorCode::unsupported,
                 fmt::format("the trace was recorded on a processor of model {}, and this host's is of model {}, which answers "
                             "differently; replay it with --engine=soft",
                             name_of(config.processor_model), name_of(*engine.host)),
                 "engine"};
  config.engine = engine.make;
  RV_TRY(out->machine_, Machine::create(config, *out->boundary_));
  out->sketch_ = std::make_unique<MemorySketch>(*out->machine_);
  Machine* m = out->machine_.get();
  RV_TRY(m->load(recorded));
  const auto stop = [m] { m->request_stop({StopReason::host_request, 0}); };
  out->boundary_->on_host_stop(stop);
  out->boundary_->on_fault(stop);
  out->checker_->on_fault(stop);
  return out;
}

Result<Position> ReplaySession::start_from(Position p) {
  RV_ASSERT(machine_->position() == Position(0) && compared_ == 0);
  const auto number = key_frames_.before(p);
  if (!number) return Position(0);
  const std::vector<uint8_t> zeroes(kPageSize);
  for (const uint64_t page : machine_->written_pages()->take()) machine_->restore_page(page, zeroes.data());
  const auto restore_page = [this](uint64_t page, const uint8_t* bytes) { machine_->restore_page(page, bytes); };
  RV_TRY(const auto state, key_frames_.read(*number, machine_->memory(), restore_page));
  if (auto restored = machine_->restore_state(state.cpu, state.devices); !restored)
    return key_frames_.error(*number, restored.error().text());
  RV_TRY(key_frames_.check(*number, *machine_));
  sketch_->update();

  const KeyFramePlace& place = key_frames_[*number];
  RV_TRY(boundary_->seek(ReplayBoundary::Mark::at(place.behind())));
  RV_TRY(checker_->seek(JournalChecker::Mark::at(place.behind())));
  RV_TRY(digests_->seek(place.behind()));
  next_digest_.reset();
  digests_done_ = false;
  good_ = place.position;
  return place.position;
}

Result<const DigestRecord*> ReplaySession::peek_digest() {
  while (!next_digest_ && !digests_done_) {
    RV_TRY(auto item, digests_->next());
    if (!item.has_value()) {
      digests_done_ = true;
    } else if (auto* digest = std::get_if<DigestRecord>(&*item)) {
      // The recorder was killed between the digest of the end and the end marker: how the run ended is not known.
      if (digest->at_stop && !summary_.complete()) continue;
      next_digest_ = std::move(*digest);
    }
  }
  return next_digest_ ? &*next_digest_ : nullptr;
}

void ReplaySession::diverge(Divergence d) {
  if (divergence_) return;
  if (checker_->last_match() > good_) good_ = checker_->last_match();
  d.good = std::min(good_, d.bad);
  divergence_ = std::move(d);
}

void ReplaySession::diverge_end(const std::string& recorded, const std::string& replayed) {
  Divergence d;
  d.found = Divergence::Found::end;
  d.bad = machine_->position();
  d.recorded = recorded;
  d.replayed = replayed;
  diverge(std::move(d));
}

Result<void> ReplaySession::take_fault() {
  const auto take = [this](const std::optional<ReplayFault>& fault, Divergence::Found found) -> Result<void> {
    if (!fault) return {};
    if (fault->error.code != ErrorCode::divergence) return fault->error;
    Divergence d;
    d.found = found;
    d.bad = fault->position;
    d.recorded = fault->recorded;
    d.replayed = fault->replayed;
    diverge(std::move(d));
    return {};
  };
  RV_TRY(take(checker_->fault(), Divergence::Found::journal));
  return take(boundary_->fault(), Divergence::Found::boundary);
}

void ReplaySession::compare(const DigestRecord& recorded, const ReplayOptions& options) {
  const StateDigest now = machine_->digest();
  sketch_->update();
  if (now == recorded.state) {
    good_ = std::max(good_, recorded.position);
    if (options.equal) options.equal(now);
    return;
  }
  diverge(compare_states(*machine_, now, *sketch_, recorded));
}

void ReplaySession::compare_sums(const StateDigest& recorded, const ReplayOptions& options) {
  DigestRecord sums;
  sums.position = machine_->position();
  sums.state = recorded;
  compare(sums, options);
}

// The machine has arrived at its position: compares what the recording says about it.
Result<void> ReplaySession::arrive(const ReplayOptions& options) {
  const Position now = machine_->position();
  boundary_->arrived(now);
  if (options.check_journal) checker_->arrived(now);
  RV_TRY(take_fault());
  while (!divergence_) {
    RV_TRY(const auto digest, peek_digest());
    if (digest == nullptr || digest->position > now || digest->at_stop) break;
    // Those before are of a part of the run that was replayed without looking at them.
    if (options.check_digests && digest->position == now) {
      ++compared_;
      compare(*digest, options);
    }
    next_digest_.reset();
  }
  return {};
}

Result<void> ReplaySession::step(Position target) {
  const Stop stop = machine_->run_until(target);
  RV_TRY(take_fault());
  if (divergence_ || stop.reason == StopReason::position || boundary_->gave_up()) return {};
  // It may stop here as recorded: then it stands where the recording ended, and finish() compares.
  const bool as_recorded = summary_.end && stop.reason == summary_.end->stop.reason &&
                           stop.detail == summary_.end->stop.detail && machine_->position() == summary_.end->position;
  if (as_recorded) {
    at_end_ = true;
    return {};
  }
  // The recorder was killed between this stop and its end marker.
  if (!summary_.end && machine_->position() == summary_.through) return {};
  diverge_end(summary_.end ? end_text(summary_.end->stop, summary_.end->position)
                           : fmt::format("still running at position {}", summary_.through.value),
              end_text(stop, machine_->position()));
  return take_fault();
}

// The machine has arrived at the position where the recording ended, or stopped there.
Result<void> ReplaySession::finish(const ReplayOptions& options) {
  if (!summary_.end) return {};
  const EndRecord& end = *summary_.end;
  if (!at_end_ && (!ends_on_arrival(end.stop) || boundary_->pending_at(end.position))) {
    // The recorded machine went on at this position (idled, took an exception) before it stopped by itself.
    const Stop stop = machine_->run_until(end.position + 1);
    RV_TRY(take_fault());
    if (divergence_) return {};
    if (stop.reason != end.stop.reason || stop.detail != end.stop.detail || machine_->position() != end.position) {
      diverge_end(end_text(end.stop, end.position),
                  stop.reason == StopReason::position ? "the run goes on there" : end_text(stop, machine_->position()));
      return {};
    }
  }
  at_end_ = true;
  boundary_->arrived(end.position + 1);
  if (options.check_journal) checker_->arrived(end.position + 1);
  RV_TRY(take_fault());
  RV_TRY(const auto digest, peek_digest());
  if (!options.check_digests || divergence_) return {};
  if (digest != nullptr && digest->at_stop) {
    ++compared_;
    compare(*digest, options);
  }
  next_digest_.reset();
  if (!divergence_) compare_sums(end.state, options);
  return {};
}

namespace {

class TwoSinks final : public JournalSink {
 public:
  TwoSinks(JournalSink& first, JournalSink* second) : first_(first), second_(second) {}
  void event(const JournalEvent& e) override {
    first_.event(e);
    if (second_ != nullptr) second_->event(e);
  }

 private:
  JournalSink& first_;
  JournalSink* second_;
};

}  // namespace

Result<ReplayResult> ReplaySession::run(const ReplayOptions& options) {
  const auto begin = HostClock::now();
  const Position first = machine_->position();
  const Position last = std::min(options.stop_at, end());
  const uint64_t slice = std::max<uint64_t>(options.slice, 1);
  TwoSinks both(*checker_, options.listener);
  if (options.check_journal)
    machine_->journal().connect(&both, checker_->mask());
  else
    machine_->journal().connect(nullptr, 0);

  boundary_->on_search(options.stop_requested);
  bool host_stop = false;
  if (!divergence_ && !at_end_) RV_TRY(arrive(options));
  while (!divergence_ && !at_end_ && machine_->position() < last) {
    if (options.stop_requested && options.stop_requested()) {
      host_stop = true;
      break;
    }
    const auto digest = peek_digest();
    if (!digest) return digest.error();
    const Position next = *digest != nullptr && options.check_digests ? (*digest)->position : kNoPosition;
    const Position now = machine_->position();
    // A digest of the end lies at the end; one at this very position waits for it.
    RV_TRY(step(std::min({last, next > now ? next : kNoPosition, now + slice})));
    if (boundary_->gave_up()) continue;  // the host has a wish
    if (!divergence_ && !at_end_) RV_TRY(arrive(options));
    if (options.progress)
      options.progress({machine_->position(), end(), HostClock::now() - begin, machine_->position() - first});
  }
  if (!divergence_ && !host_stop && (at_end_ || (last == end() && machine_->position() >= last))) RV_TRY(finish(options));

  boundary_->on_search({});
  machine_->journal().connect(nullptr, 0);  // `both` ends here
  ReplayResult out;
  out.position = machine_->position();
  out.digests_compared = compared_;
  out.events_compared = checker_->compared();
  out.host_time = HostClock::now() - begin;
  out.divergence = divergence_;
  if (!summary_.complete()) out.note = fmt::format("the trace is {}", summary_.completeness());
  if (divergence_) {
    out.end = ReplayResult::End::diverged;
  } else if (at_end_) {
    out.end = ReplayResult::End::complete;
    out.stop = summary_.end->stop;
  } else if (host_stop) {
    out.end = ReplayResult::End::host;
    out.stop.reason = StopReason::host_request;
  } else {
    out.end =
        machine_->position() >= end() && !summary_.complete() ? ReplayResult::End::incomplete : ReplayResult::End::stop_at;
  }
  return out;
}

}  // namespace retrovisor
