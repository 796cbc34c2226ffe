// What a recording boundary writes down is what a replaying one answers, and nothing else passes.
#include <chrono>
#include <deque>
#include <thread>

#include "record/recording_boundary.h"
#include "replay/journal_checker.h"
#include "replay/replay_boundary.h"
#include "tests/unit/traces/trace_files.h"
#include "vmm/devices/pc.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor {
namespace {

Moment at(uint64_t position, uint64_t time) { return {Position(position), VirtualTime(time)}; }

// A live boundary that answers from a list.
class ScriptedBoundary final : public QuietBoundary {
 public:
  std::deque<std::string> input;
  std::deque<IdleWait> waits;
  std::string shown;

  size_t receive(Moment, EndpointId, std::span<uint8_t> out) override {
    if (input.empty()) return 0;
    const std::string text = input.front();
    input.pop_front();
    std::copy(text.begin(), text.end(), out.begin());
    return text.size();
  }
  IdleWait idle_wait(Moment, uint64_t ns, bool) override {
    if (waits.empty()) return {ns};
    const IdleWait w = waits.front();
    waits.pop_front();
    return w;
  }
  void transmit(Moment, EndpointId, std::span<const uint8_t> bytes) override { shown.append(bytes.begin(), bytes.end()); }
};

// Records whatever `run` does with a boundary, and replays from the trace.
struct Recording {
  TempFile file;
  ScriptedBoundary live;
  std::unique_ptr<TraceWriter> writer;
  std::unique_ptr<RecordingBoundary> boundary;

  Recording() {
    auto created = TraceWriter::create(file.path(), test_header());
    EXPECT_TRUE(created.ok());
    writer = std::move(*created);
    boundary = std::make_unique<RecordingBoundary>(live, *writer);
  }
  std::unique_ptr<ReplayBoundary> replay(uint64_t end = 1'000'000) {
    EXPECT_TRUE(writer->end(Position(end), {}, {}).ok());
    auto opened = ReplayBoundary::open(file.path());
    EXPECT_TRUE(opened.ok());
    return std::move(*opened);
  }
};

std::string poll(Boundary& b, Moment when, size_t room = 16) {
  std::string out(room, '\0');
  const size_t n = b.receive(when, kPcConsole, std::span(reinterpret_cast<uint8_t*>(out.data()), room));
  return out.substr(0, n);
}

TEST(Boundaries, replay_answers_what_was_recorded) {
  Recording r;
  std::array<uint8_t, 32> seed{};
  EXPECT_EQ(r.boundary->wall_clock(at(0, 0)), 1'700'000'000u);
  r.boundary->entropy(at(0, 0), seed);
  EXPECT_EQ(poll(*r.boundary, at(100, 100)), "");
  r.live.input = {"ls\n"};
  EXPECT_EQ(poll(*r.boundary, at(200, 250)), "ls\n");
  EXPECT_EQ(r.boundary->idle_wait(at(300, 350), 1000, true).waited_ns, 1000u);
  r.live.waits = {IdleWait{400}};
  EXPECT_EQ(r.boundary->idle_wait(at(400, 1450), 1000, true).waited_ns, 400u);
  // Two polls and a clock make four events; the full wait and the empty poll are none.
  EXPECT_EQ(r.writer->events(), 4u);

  const auto replay = r.replay();
  std::array<uint8_t, 32> again{};
  EXPECT_EQ(replay->wall_clock(at(0, 0)), 1'700'000'000u);
  replay->entropy(at(0, 0), again);
  EXPECT_EQ(again, seed);
  EXPECT_EQ(poll(*replay, at(100, 100)), "");
  EXPECT_EQ(poll(*replay, at(200, 250)), "ls\n");
  EXPECT_EQ(replay->idle_wait(at(300, 350), 1000, true).waited_ns, 1000u);
  EXPECT_EQ(replay->idle_wait(at(400, 1450), 1000, true).waited_ns, 400u);
  replay->arrived(Position(1'000'000));
  EXPECT_FALSE(replay->fault()) << replay->fault()->error.text();
}

TEST(Boundaries, idle_guest_at_one_position_gets_input_at_the_recorded_wait) {
  Recording r;
  for (uint64_t time = 0; time < 5000; time += 1000) {
    if (time == 3000) r.live.input = {"x"};
    EXPECT_EQ(poll(*r.boundary, at(77, time)), time == 3000 ? "x" : "");
    r.boundary->idle_wait(at(77, time), 1000, true);
  }
  const auto replay = r.replay();
  for (uint64_t time = 0; time < 5000; time += 1000) {
    EXPECT_EQ(poll(*replay, at(77, time)), time == 3000 ? "x" : "") << time;
    EXPECT_EQ(replay->idle_wait(at(77, time), 1000, true).waited_ns, 1000u);
  }
  EXPECT_FALSE(replay->fault());
}

TEST(Boundaries, several_polls_and_empty_waits_at_one_moment_keep_their_order) {
  Recording r;
  const Moment now = at(9, 9);
  EXPECT_EQ(poll(*r.boundary, now), "");
  EXPECT_EQ(poll(*r.boundary, now), "");
  r.live.input = {"a"};
  EXPECT_EQ(poll(*r.boundary, now), "a");
  r.live.waits = {IdleWait{0}, IdleWait{0}};
  r.boundary->idle_wait(now, UINT64_MAX, true);
  EXPECT_EQ(poll(*r.boundary, now), "");
  r.boundary->idle_wait(now, UINT64_MAX, true);
  r.live.input = {"b"};
  EXPECT_EQ(poll(*r.boundary, now), "b");

  const auto replay = r.replay();
  EXPECT_EQ(poll(*replay, now), "");
  EXPECT_EQ(poll(*replay, now), "");
  EXPECT_EQ(poll(*replay, now), "a");
  EXPECT_EQ(replay->idle_wait(now, UINT64_MAX, true).waited_ns, 0u);
  EXPECT_EQ(poll(*replay, now), "");
  EXPECT_EQ(replay->idle_wait(now, UINT64_MAX, true).waited_ns, 0u);
  EXPECT_EQ(poll(*replay, now), "b");
  EXPECT_FALSE(replay->fault());
}

TEST(Boundaries, host_stop_is_replayed_in_the_same_call) {
  Recording r;
  EXPECT_EQ(poll(*r.boundary, at(5, 5)), "");
  r.boundary->host_stop();  // as the live boundary's handler would, inside the call
  EXPECT_EQ(poll(*r.boundary, at(6, 6)), "");
  r.live.waits = {IdleWait{1, true}};
  EXPECT_TRUE(r.boundary->idle_wait(at(7, 7), 10, true).host_wants_control);

  const auto replay = r.replay();
  int stops = 0;
  replay->on_host_stop([&] { ++stops; });
  EXPECT_EQ(poll(*replay, at(5, 5)), "");
  EXPECT_EQ(stops, 0);
  EXPECT_EQ(poll(*replay, at(6, 6)), "");
  EXPECT_EQ(stops, 1);
  const IdleWait wait = replay->idle_wait(at(7, 7), 10, true);
  EXPECT_EQ(wait.waited_ns, 1u);
  EXPECT_TRUE(wait.host_wants_control);
  EXPECT_FALSE(replay->fault());
}

TEST(Boundaries, output_passes_through_recording_and_is_shown_in_replay) {
  Recording r;
  const std::vector<uint8_t> text{'h', 'i'};
  r.boundary->transmit(at(1, 1), kPcConsole, text);
  EXPECT_EQ(r.live.shown, "hi");
  r.replay();
  std::string shown;
  auto replay = ReplayBoundary::open(
      r.file.path(), [&](Moment, EndpointId, std::span<const uint8_t> bytes) { shown.append(bytes.begin(), bytes.end()); });
  ASSERT_TRUE(replay.ok());
  (*replay)->transmit(at(1, 1), kPcConsole, text);
  EXPECT_EQ(shown, "hi");
}

// A landing of a guest that ran by itself for `host_ns` of the host's time, as a reader finds it.
Landing spinning_landing(uint64_t host_ns) {
  Landing landing;
  landing.by_state = true;
  landing.host_ns = host_ns;
  return landing;
}

TEST(LandingSearch, ends_where_no_processor_can_have_come) {
  Recording r;
  const auto replay = r.replay();
  EXPECT_FALSE(replay->search_ends(spinning_landing(0), 50'000'000)) << "the host's clock does not see everything";
  EXPECT_TRUE(replay->search_ends(spinning_landing(0), 1'000'000'000));
  // A second at 5 instructions a nanosecond.
  EXPECT_FALSE(replay->search_ends(spinning_landing(1'000'000'000), 5'000'000'000));
  EXPECT_TRUE(replay->search_ends(spinning_landing(1'000'000'000), 100'000'000'000));
  EXPECT_FALSE(replay->search_ends(spinning_landing(UINT64_MAX), UINT64_MAX)) << "of a trace that does not tell";
  EXPECT_FALSE(replay->gave_up());
}

TEST(LandingSearch, obeys_a_stop) {
  Recording r;
  const auto replay = r.replay();
  bool stop = false;
  int stops = 0;
  replay->on_search([&] { return stop; });
  replay->on_host_stop([&] { ++stops; });
  EXPECT_FALSE(replay->search_ends(spinning_landing(UINT64_MAX), 1000));
  stop = true;
  EXPECT_TRUE(replay->search_ends(spinning_landing(UINT64_MAX), 2000));
  EXPECT_TRUE(replay->gave_up());
  EXPECT_EQ(stops, 1);
  EXPECT_FALSE(replay->fault());
}

TEST(LandingSearch, recording_tells_how_long_the_guest_ran_by_itself) {
  Recording r;
  Landing landing = spinning_landing(UINT64_MAX);
  landing.position = Position(1);
  landing.gpr[3] = 77;
  r.boundary->time_passed(at(0, 0));
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  r.boundary->landed(at(1, 1), landing);
  const auto replay = r.replay();
  replay->time_passed(at(0, 0));
  const auto read = replay->next_landing(at(0, 0));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->gpr, landing.gpr);
  EXPECT_GE(read->host_ns, 2'000'000u);
  EXPECT_LT(read->host_ns, UINT64_MAX);
}

TEST(ReplayFaults, input_that_is_never_asked_for) {
  Recording r;
  r.live.input = {"x"};
  poll(*r.boundary, at(100, 100));
  const auto replay = r.replay();
  int told = 0;
  replay->on_fault([&] { ++told; });
  replay->arrived(Position(100));
  EXPECT_FALSE(replay->fault());
  EXPECT_TRUE(replay->pending_at(Position(100)));
  EXPECT_EQ(poll(*replay, at(101, 101)), "");
  ASSERT_TRUE(replay->fault());
  EXPECT_EQ(told, 1);
  EXPECT_EQ(replay->fault()->error.code, ErrorCode::divergence);
  EXPECT_NE(replay->fault()->recorded.find("console-input"), std::string::npos);
  EXPECT_EQ(replay->fault()->position, Position(101));
}

TEST(ReplayFaults, input_asked_for_at_another_time_of_the_same_position) {
  Recording r;
  r.live.input = {"x"};
  poll(*r.boundary, at(100, 2000));
  const auto replay = r.replay();
  EXPECT_EQ(poll(*replay, at(100, 1000)), "");
  EXPECT_FALSE(replay->fault());
  EXPECT_EQ(poll(*replay, at(100, 3000)), "");
  EXPECT_TRUE(replay->fault());
}

TEST(ReplayFaults, less_room_than_recorded_input) {
  Recording r;
  r.live.input = {"abcdef"};
  poll(*r.boundary, at(100, 100));
  const auto replay = r.replay();
  EXPECT_EQ(poll(*replay, at(100, 100), 3), "");
  EXPECT_TRUE(replay->fault());
}

TEST(ReplayFaults, clock_or_entropy_where_there_was_none) {
  Recording r;
  std::array<uint8_t, 32> seed{};
  r.boundary->entropy(at(0, 0), seed);
  const auto replay = r.replay();
  std::array<uint8_t, 16> less{};
  EXPECT_EQ(replay->wall_clock(at(0, 0)), 0u);
  EXPECT_TRUE(replay->fault());
  Recording other;
  other.boundary->entropy(at(0, 0), seed);
  const auto second = other.replay();
  second->entropy(at(0, 0), less);
  EXPECT_TRUE(second->fault());
}

TEST(ReplayFaults, idle_wait_of_another_length) {
  Recording r;
  r.live.waits = {IdleWait{3}};
  r.boundary->idle_wait(at(5, 5), 10, true);
  const auto replay = r.replay();
  replay->idle_wait(at(5, 5), 11, true);
  EXPECT_TRUE(replay->fault());
}

TEST(ReplayFaults, damaged_trace_is_told_as_such) {
  Recording r;
  for (uint64_t i = 0; i < 10; ++i) {
    r.live.input = {"x"};
    poll(*r.boundary, at(100 * i, 100 * i));
    EXPECT_TRUE(r.writer->flush(Position(100 * i)).ok());
  }
  const auto replay = r.replay();
  auto bytes = r.file.read();
  bytes[bytes.size() / 2] ^= 1;
  r.file.write(bytes);
  for (uint64_t i = 0; i < 10 && !replay->fault(); ++i) poll(*replay, at(100 * i, 100 * i));
  ASSERT_TRUE(replay->fault());
  EXPECT_EQ(replay->fault()->error.code, ErrorCode::bad_trace);
}

TEST(Boundaries, mark_and_seek_bring_a_replay_back) {
  Recording r;
  for (uint64_t i = 0; i < 20; ++i) {
    r.live.input = {std::string(1, static_cast<char>('a' + i))};
    poll(*r.boundary, at(10 * i, 10 * i));
    if (i % 3 == 0) {
      EXPECT_TRUE(r.writer->flush(Position(10 * i)).ok());
    }
  }
  const auto replay = r.replay();
  std::vector<ReplayBoundary::Mark> marks;
  for (uint64_t i = 0; i < 20; ++i) {
    marks.push_back(replay->mark());
    EXPECT_EQ(poll(*replay, at(10 * i, 10 * i)), std::string(1, static_cast<char>('a' + i)));
  }
  for (uint64_t i = 20; i-- > 0;) {
    ASSERT_TRUE(replay->seek(marks[i]).ok());
    for (uint64_t k = i; k < 20; ++k)
      EXPECT_EQ(poll(*replay, at(10 * k, 10 * k)), std::string(1, static_cast<char>('a' + k)));
  }
  EXPECT_FALSE(replay->fault());
}

// A trace of `events` for checkers, with digests and boundary events in between that a checker must not mind.
void write_journal(const TempFile& file, const std::vector<JournalEvent>& events, EventMask mask, bool with_end = true) {
  TraceHeader header = test_header();
  header.journal_mask = mask;
  auto writer = TraceWriter::create(file.path(), header);
  ASSERT_TRUE(writer.ok());
  JournalWriter sink(**writer);
  const FieldNames names = test_names(3);
  for (const JournalEvent& e : events) {
    (*writer)->boundary_event(EventKind::console_input, e.position, 0, 0, 0, std::vector<uint8_t>{1});
    (*writer)->digest(test_digest(e.position, 1, names));
    if ((mask & mask_of(e.kind)) != 0) sink.event(e);
  }
  if (with_end) {
    ASSERT_TRUE((*writer)->end(Position(1000), {}, {}).ok());
  } else {
    ASSERT_TRUE((*writer)->flush(Position(500)).ok());
  }
}

std::vector<JournalEvent> some_events() {
  return {{EventKind::timer, VcpuId(0), Position(10), 1, 10, 0},
          {EventKind::interrupt, VcpuId(0), Position(10), 0x20, 1, 0},
          {EventKind::port_read, VcpuId(1), Position(20), 0x3fd, 1, 0x60},
          {EventKind::exception, VcpuId(0), Position(30), 14, 2, 0x1000}};
}

std::unique_ptr<JournalChecker> checker_of(const TempFile& file, uint64_t through = 1000) {
  auto checker = JournalChecker::open(file.path(), Position(through));
  EXPECT_TRUE(checker.ok());
  return std::move(*checker);
}

TEST(JournalCheck, equal_journals_pass_with_any_mask) {
  for (const EventMask mask : {kJournalFull, kJournalDefault, EventMask{0}, mask_of(EventKind::exception)}) {
    const TempFile file;
    write_journal(file, some_events(), mask);
    const auto checker = checker_of(file);
    EXPECT_EQ(checker->mask(), mask);
    for (const JournalEvent& e : some_events()) checker->event(e);
    checker->arrived(Position(1000));
    EXPECT_FALSE(checker->fault()) << checker->fault()->error.text();
  }
}

TEST(JournalCheck, reports_both_events_when_one_differs) {
  for (size_t which = 0; which < 4; ++which) {
    for (int field = 0; field < 5; ++field) {
      const TempFile file;
      write_journal(file, some_events(), kJournalFull);
      const auto checker = checker_of(file);
      int told = 0;
      checker->on_fault([&] { ++told; });
      auto events = some_events();
      JournalEvent& e = events[which];
      if (field == 0) e.a ^= 1;
      if (field == 1) e.b ^= 1;
      if (field == 2) e.c ^= 1;
      if (field == 3) e.vcpu = VcpuId(5);
      if (field == 4) e.position += 1;
      for (const JournalEvent& x : events) checker->event(x);
      ASSERT_TRUE(checker->fault());
      EXPECT_EQ(told, 1);
      EXPECT_EQ(checker->compared(), which);
      EXPECT_EQ(checker->fault()->error.code, ErrorCode::divergence);
      EXPECT_NE(checker->fault()->recorded.find(to_string(e.kind)), std::string::npos);
      EXPECT_NE(checker->fault()->replayed.find(to_string(e.kind)), std::string::npos);
    }
  }
}

TEST(JournalCheck, missing_and_extra_events_are_faults) {
  const TempFile file;
  write_journal(file, some_events(), kJournalFull);
  const auto missing = checker_of(file);
  missing->event(some_events()[0]);
  missing->arrived(Position(10));
  EXPECT_FALSE(missing->fault());  // the second one may still come
  missing->arrived(Position(11));
  ASSERT_TRUE(missing->fault());
  EXPECT_NE(missing->fault()->recorded.find("interrupt vector 0x20"), std::string::npos);

  const auto extra = checker_of(file);
  for (const JournalEvent& e : some_events()) extra->event(e);
  extra->event({EventKind::timer, VcpuId(0), Position(40), 1, 10, 0});
  ASSERT_TRUE(extra->fault());
  EXPECT_EQ(extra->fault()->position, Position(40));
  EXPECT_EQ(extra->last_match(), Position(30));
}

TEST(JournalCheck, events_after_the_end_of_an_incomplete_trace_are_not_compared) {
  const TempFile file;
  write_journal(file, some_events(), kJournalFull, false);
  const auto checker = checker_of(file, 500);
  for (const JournalEvent& e : some_events()) checker->event(e);
  checker->event({EventKind::timer, VcpuId(0), Position(500), 1, 10, 0});
  checker->event({EventKind::timer, VcpuId(0), Position(600), 1, 10, 0});
  EXPECT_FALSE(checker->fault());
  EXPECT_EQ(checker->compared(), 4u);
}

TEST(JournalCheck, mark_and_seek_bring_it_back) {
  const TempFile file;
  write_journal(file, some_events(), kJournalFull);
  const auto checker = checker_of(file);
  const auto start = checker->mark();
  for (const JournalEvent& e : some_events()) checker->event(e);
  checker->event({EventKind::timer, VcpuId(0), Position(40), 1, 10, 0});
  ASSERT_TRUE(checker->fault());
  ASSERT_TRUE(checker->seek(start).ok());
  EXPECT_FALSE(checker->fault());
  for (const JournalEvent& e : some_events()) checker->event(e);
  EXPECT_FALSE(checker->fault());
  EXPECT_EQ(checker->compared(), 4u);
}

}  // namespace
}  // namespace retrovisor
