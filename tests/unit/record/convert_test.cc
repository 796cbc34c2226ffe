// Traces whose positions count events, as KVM makes them, become traces that are exact to the instruction. No KVM here:
// the soft engine is the machine of both. A first run lands where the test wants, at instructions; what it tells about the
// states there is what a second run, which counts events only, goes by.
#include "replay/convert.h"

#include <algorithm>

#include "replay/timeline.h"
#include "tests/unit/record/sessions.h"

namespace retrovisor {
namespace {

// Passes on what every boundary has to do.
class Passing : public Boundary {
 public:
  explicit Passing(Boundary& inner) : inner_(inner) {}
  uint64_t wall_clock(Moment at) override { return inner_.wall_clock(at); }
  void entropy(Moment at, std::span<uint8_t> out) override { inner_.entropy(at, out); }
  size_t receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) override { return inner_.receive(at, endpoint, out); }
  IdleWait idle_wait(Moment at, uint64_t ns, bool wanted) override { return inner_.idle_wait(at, ns, wanted); }
  void transmit(Moment at, EndpointId endpoint, std::span<const uint8_t> bytes) override { inner_.transmit(at, endpoint, bytes); }

 protected:
  Boundary& inner_;
};

// Time that moves on at events.
class EventTime final : public Passing {
 public:
  using Passing::Passing;
  // Now and then no time passes at all.
  uint64_t time_passed(Moment) override { return ++events_ % 11 == 0 ? 0 : 300 + events_ * 7919 % 901; }

 private:
  uint64_t events_ = 0;
};

// Where the first run landed.
struct Landed {
  Landing landing;
  uint64_t deliveries = 0;
};

// Between the machine and its recording: says where to land.
class Lander final : public Passing {
 public:
  // `known`: where to land, by state; null: makes the choice and keeps it in `landed`.
  Lander(Boundary& inner, const std::vector<Landed>* known) : Passing(inner), known_(known) {}
  Machine* machine = nullptr;
  std::vector<Landed> landed_at;

  uint64_t time_passed(Moment at) override {
    ++events_;
    return inner_.time_passed(at);
  }
  bool deliver(Moment at, bool possible) override {
    const bool here = inner_.deliver(at, possible);
    // At the first instruction of the interrupt's handler.
    if (here && ++delivered_ % 3 == 0) next_ = plan(at.position, 1);
    return here;
  }
  std::optional<Landing> next_landing(Moment at) override {
    if (known_ != nullptr) {
      if (done_ == known_->size() || (*known_)[done_].landing.position != at.position + 1) return std::nullopt;
      return (*known_)[done_].landing;
    }
    if (!next_ || next_->position < at.position) next_ = plan(at.position + 300 + events_ * 104729 % 1009, 0);
    if (next_->position == at.position && machine->engine().stepper().deliveries() >= next_->deliveries) look();
    return next_;
  }
  void landed(Moment at, const Landing& landing) override {
    inner_.landed(at, landing);
    ++done_;
    next_.reset();
  }
  void landing_missed(Moment at, const Landing&) override {
    ADD_FAILURE() << "landing " << done_ << " missed behind event " << at.position.value;
    machine->request_stop({StopReason::host_request, 0});
  }

 private:
  static Landing plan(Position at, uint64_t deliveries) {
    Landing landing;
    landing.position = at;
    landing.deliveries = deliveries;
    return landing;
  }
  // The state that a host would have found.
  void look() {
    const CpuState& s = machine->vcpu(VcpuId(0)).state;
    Landed l;
    l.deliveries = next_->deliveries;
    l.landing.position = Position(events_ + 1);
    l.landing.by_state = true;
    l.landing.state = machine->digest();
    l.landing.gpr = s.gpr;
    l.landing.linear_rip = s.linear_rip().value;
    l.landing.rflags = s.rflags;
    landed_at.push_back(l);
  }

  const std::vector<Landed>* known_;
  std::optional<Landing> next_;
  uint64_t events_ = 0;
  uint64_t delivered_ = 0;
  size_t done_ = 0;
};

struct Recorded {
  RecordResult result;
  std::vector<Landed> landed;
  std::string shown;
};

Recorded record_by_events(const std::string& path, PositionUnit positions, const std::vector<Landed>* known,
                          uint64_t digest_interval, const RecordOptions& options = {}, EventMask journal = kJournalFull) {
  Recorded out;
  MachineConfig config;
  config.memory_size = kMinRam;
  config.positions = positions;
  config.time = TimeSource::events;
  const BootImages images = guest_images();
  TraceHeader header = make_header(config, images, {.kernel = "guest", .initrd = {}, .modules = {}});
  header.engine = "kvm";
  header.journal_mask = journal;
  header.digest_interval = digest_interval;
  auto writer = TraceWriter::create(path, header);
  EXPECT_TRUE(writer.ok());
  TimedBoundary typed;
  typed.keys = {{300'000, 'a'}, {1'200'000, 'b'}, {1'200'100, 'c'}, {2'500'000, 'd'}, {4'000'000, 'q'}};
  EventTime live(typed);
  RecordingBoundary recording(live, **writer);
  Lander lander(recording, known);
  auto machine = Machine::create(config, lander);
  EXPECT_TRUE(machine.ok());
  Machine& m = **machine;
  lander.machine = &m;
  EXPECT_TRUE(m.load(images).ok());
  const auto result = record(m, **writer, options);
  EXPECT_TRUE(result.ok()) << (result ? "" : result.error().text());
  if (result) out.result = *result;
  out.landed = lander.landed_at;
  out.shown = typed.shown;
  return out;
}

// Where the guest lands, of a run to its end.
const std::vector<Landed>& landings() {
  static const std::vector<Landed> all = [] {
    const TempFile file;
    return record_by_events(file.path(), PositionUnit::instructions, nullptr, 0).landed;
  }();
  EXPECT_GT(all.size(), 20u);
  return all;
}

std::vector<TraceItem> events_of(const std::string& path) {
  auto items = read_all(path);
  EXPECT_TRUE(items.ok());
  if (!items) return {};
  std::erase_if(*items, [](const TraceItem& i) { return !std::holds_alternative<TraceEvent>(i); });
  return std::move(*items);
}

ConvertResult convert_trace(const std::string& from, const std::string& to, const ConvertOptions& options = {}) {
  auto done = convert(from, guest_images(), to, options);
  EXPECT_TRUE(done.ok()) << (done ? "" : done.error().text());
  return done ? std::move(*done) : ConvertResult{};
}

TEST(Convert, converted_trace_is_the_one_that_counting_instructions_would_have_made) {
  const TempFile exact, events, converted, again;
  const Recorded first = record_by_events(exact.path(), PositionUnit::instructions, nullptr, 0);
  ASSERT_EQ(first.result.run.stop.reason, StopReason::debug_exit);
  const auto behind =
      std::count_if(first.landed.begin(), first.landed.end(), [](const Landed& l) { return l.deliveries != 0; });
  ASSERT_GT(first.landed.size(), 20u);
  ASSERT_GT(behind, 3);

  const Recorded second = record_by_events(events.path(), PositionUnit::events, &first.landed, 1);
  EXPECT_EQ(second.shown, first.shown);
  EXPECT_EQ(second.result.run.guest_time, first.result.run.guest_time);
  ASSERT_EQ(replay(events.path()).end, ReplayResult::End::complete);
  const ConvertResult done = convert_trace(events.path(), converted.path());
  EXPECT_EQ(done.replay.end, ReplayResult::End::complete) << (done.replay.divergence ? done.replay.divergence->text() : "");
  EXPECT_EQ(done.instructions, first.result.run.end);
  EXPECT_EQ(done.events, second.result.run.end);
  EXPECT_EQ(done.replay.digests_compared, second.result.digests);

  const auto wanted = events_of(exact.path()), made = events_of(converted.path());
  ASSERT_EQ(made.size(), wanted.size());
  for (size_t i = 0; i < made.size(); ++i) ASSERT_TRUE(same_item(made[i], wanted[i])) << "event " << i;

  std::string shown;
  const auto session = open_replay(
      converted.path(), [&](Moment, EndpointId, std::span<const uint8_t> bytes) { shown.append(bytes.begin(), bytes.end()); });
  ASSERT_NE(session, nullptr);
  const auto result = session->run({});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->end, ReplayResult::End::complete) << (result->divergence ? result->divergence->text() : "");
  EXPECT_EQ(result->digests_compared, done.digests);
  EXPECT_GT(done.digests, second.result.digests / 2);
  EXPECT_EQ(shown, first.shown);

  convert_trace(events.path(), again.path());
  EXPECT_EQ(again.read(), converted.read());
}

TEST(Convert, header_says_what_positions_count_and_where_the_trace_comes_from) {
  const TempFile events, converted;
  record_by_events(events.path(), PositionUnit::events, &landings(), 100);
  convert_trace(events.path(), converted.path());
  auto reader = TraceReader::open(converted.path());
  ASSERT_TRUE(reader.ok());
  const TraceHeader& h = (*reader)->header();
  EXPECT_EQ(h.position_unit, PositionUnit::instructions);
  EXPECT_EQ(h.time_source, TimeSource::events);
  EXPECT_EQ(h.engine, "soft");
  EXPECT_EQ(h.options, (std::vector<std::pair<std::string, std::string>>{{"converted-from", "kvm"}}));
}

TEST(Convert, recording_that_ends_behind_any_event_converts_and_replays) {
  std::vector<uint64_t> stops{1, 2, 3};
  for (const Landed& l : landings())
    if (stops.size() < 60 || (l.deliveries != 0 && stops.size() < 80))
      for (const uint64_t distance : {0u, 1u, 2u}) stops.push_back(l.landing.position.value - 1 + distance);
  for (const uint64_t stop : stops) {
    const TempFile events, converted;
    RecordOptions options;
    options.run.stop_at = Position(stop);
    const Recorded recorded = record_by_events(events.path(), PositionUnit::events, &landings(), 10, options);
    ASSERT_EQ(recorded.result.run.end, Position(stop));
    const ConvertResult done = convert_trace(events.path(), converted.path());
    ASSERT_EQ(done.replay.end, ReplayResult::End::complete);
    const ReplayResult result = replay(converted.path());
    EXPECT_EQ(result.end, ReplayResult::End::complete)
        << "ended behind event " << stop << ": " << (result.divergence ? result.divergence->text() : "");
    EXPECT_EQ(result.digests_compared, done.digests);
  }
}

TEST(Convert, incomplete_and_interrupted_traces_have_no_end_and_replay_as_far_as_they_go) {
  const TempFile events, cut, converted;
  RecordOptions options;
  options.flush_interval = std::chrono::milliseconds(0);
  options.run.slice = 100;
  record_by_events(events.path(), PositionUnit::events, &landings(), 50, options);
  auto bytes = events.read();
  bytes.resize(bytes.size() * 2 / 3);
  cut.write(bytes);
  ConvertResult done = convert_trace(cut.path(), converted.path());
  EXPECT_EQ(done.replay.end, ReplayResult::End::incomplete);
  EXPECT_GT(done.instructions, Position(1000));
  ReplayResult result = replay(converted.path());
  EXPECT_EQ(result.end, ReplayResult::End::incomplete) << (result.divergence ? result.divergence->text() : "");
  EXPECT_EQ(result.position, done.instructions);

  ConvertOptions how;
  int asked = 0;
  how.stop_requested = [&] { return ++asked > 5; };
  done = convert_trace(events.path(), converted.path(), how);
  EXPECT_EQ(done.replay.end, ReplayResult::End::host);
  result = replay(converted.path());
  EXPECT_EQ(result.end, ReplayResult::End::incomplete) << (result.divergence ? result.divergence->text() : "");
  EXPECT_EQ(result.position, done.instructions);
}

TEST(Convert, trace_that_is_not_the_run_gets_no_end) {
  const TempFile events, forged, converted;
  record_by_events(events.path(), PositionUnit::events, &landings(), 50);
  int digests = 0;
  rewrite(events.path(), forged.path(), [&](TraceItem& item) {
    if (auto* d = std::get_if<DigestRecord>(&item); d != nullptr && ++digests == 4) d->state.memory ^= 1;
    return true;
  });
  const ConvertResult done = convert_trace(forged.path(), converted.path());
  EXPECT_EQ(done.replay.end, ReplayResult::End::diverged);
  const auto summary = verify_trace(converted.path(), {});
  ASSERT_TRUE(summary.ok());
  EXPECT_FALSE(summary->complete());
}

TEST(Convert, refuses_exact_traces_and_its_own_input) {
  const TempFile exact, events, converted;
  record_guest(exact.path(), {});
  const auto done = convert(exact.path(), guest_images(), converted.path(), {});
  ASSERT_FALSE(done.ok());
  EXPECT_NE(done.error().text().find("exact to the instruction already"), std::string::npos);
  record_by_events(events.path(), PositionUnit::events, &landings(), 50);
  const auto before = events.read();
  EXPECT_FALSE(convert(events.path(), guest_images(), events.path(), {}).ok());
  EXPECT_EQ(events.read(), before);
}

TEST(Convert, debugger_works_on_the_converted_trace_only) {
  const TempFile events, converted;
  record_by_events(events.path(), PositionUnit::events, &landings(), 50);
  const auto refused = Timeline::open(events.path(), guest_images(), {});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().text().find("trace convert"), std::string::npos) << refused.error().text();

  const ConvertResult done = convert_trace(events.path(), converted.path());
  auto timeline = Timeline::open(converted.path(), guest_images(), {});
  ASSERT_TRUE(timeline.ok());
  Timeline& t = **timeline;
  EXPECT_EQ(t.end(), done.instructions);
  // Around each landing, from before and from behind.
  for (size_t i = 0; i < landings().size(); i += 5) {
    const uint64_t near = std::min(t.end().value - 2, done.instructions.value * (i + 1) / landings().size());
    ASSERT_TRUE(t.seek(Position(near)).ok());
    const StateDigest there = t.machine().digest();
    ASSERT_TRUE(t.seek(t.end()).ok());
    ASSERT_TRUE(t.seek(Position(near + 1)).ok());
    ASSERT_TRUE(t.seek(Position(near)).ok());
    EXPECT_EQ(t.machine().digest(), there) << near;
  }
}

}  // namespace
}  // namespace retrovisor
