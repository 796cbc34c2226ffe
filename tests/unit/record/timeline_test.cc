#include "replay/timeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/unit/record/timelines.h"

namespace retrovisor {
namespace {

using Reason = TimelineStop::Reason;

std::map<uint64_t, StateDigest> plain_digests(const std::string& path, std::set<uint64_t> positions) {
  PlainRun plain(path);
  std::map<uint64_t, StateDigest> out;
  for (const uint64_t p : positions) out[p] = plain.digest_at(Position(p));
  return out;
}

std::set<uint64_t> random_positions(std::mt19937_64& random, Position end, size_t count) {
  std::set<uint64_t> out{0, 1, end.value - 1, end.value};
  while (out.size() < count) out.insert(random() % end.value);
  return out;
}

// The first instructions of any guest, up to `end`.
void record_images(const std::string& path, const BootImages& images, Position end) {
  MachineConfig config;
  config.memory_size = kMinRam;
  const TraceHeader header = make_header(config, images, {.kernel = "guest", .initrd = {}, .modules = {}});
  auto writer = TraceWriter::create(path, header);
  ASSERT_TRUE(writer.ok());
  TimedBoundary live;
  RecordingBoundary boundary(live, **writer);
  auto machine = Machine::create(config, boundary);
  ASSERT_TRUE(machine.ok());
  ASSERT_TRUE((*machine)->load(images).ok());
  RecordOptions options;
  options.run.stop_at = end;
  ASSERT_TRUE(record(**machine, **writer, options).ok());
}

TEST(Timeline, seek_gives_the_state_of_a_plain_run_whichever_way_it_arrives) {
  const Recorded t;
  std::mt19937_64 random(1);
  const auto expected = plain_digests(t.file.path(), random_positions(random, t->end(), 60));
  std::vector<uint64_t> order;
  for (const auto& [p, unused] : expected) order.push_back(p);
  for (int round = 0; round < 3; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const uint64_t p : order) {
      EXPECT_EQ(check(t->seek(Position(p))).position, Position(p));
      ASSERT_EQ(t->position(), Position(p));
      ASSERT_EQ(t->machine().position(), Position(p));
      ASSERT_EQ(t->machine().digest(), expected.at(p)) << p;
    }
    ASSERT_TRUE(t->warm().ok());
    ASSERT_EQ(t->position(), Position(order.back()));
  }
}

TEST(Timeline, step_back_and_forth_is_the_identity) {
  const Recorded t;
  std::mt19937_64 random(2);
  for (const uint64_t p : random_positions(random, t->end(), 40)) {
    if (p == 0) continue;
    check(t->seek(Position(p)));
    const StateDigest here = t->machine().digest();
    check(t->seek(Position(p - 1)));
    check(t->forward({}, Position(p)));
    EXPECT_EQ(t->position(), Position(p));
    EXPECT_EQ(t->machine().digest(), here) << p;
  }
}

TEST(Timeline, many_steps_back_in_a_row_agree_with_a_plain_run) {
  const Recorded t;
  const Position top(t->end().value / 2);
  std::set<uint64_t> positions;
  for (uint64_t i = 0; i < 300; ++i) positions.insert(top.value - i);
  const auto expected = plain_digests(t.file.path(), positions);
  check(t->seek(top));
  for (auto it = expected.rbegin(); it != expected.rend(); ++it) {
    check(t->seek(Position(it->first)));
    ASSERT_EQ(t->machine().digest(), it->second) << it->first;
  }
}

// What happens at each position, found by single steps and without any observer.
struct Trail {
  std::vector<uint32_t> executed;               // address of the instruction, by position
  std::vector<std::vector<uint32_t>> words;     // of each watched word, the value on arrival, by position
};

constexpr uint32_t kTicks = 0x190000;  // tests/unit/record/session_guest.cc

uint32_t tick_handler(Machine& m) {
  return (word_at(m, 0x180100) & 0xffff) | (word_at(m, 0x180104) & 0xffff0000);
}

Trail trail_of(const std::string& path, Position begin, uint64_t length, const std::vector<uint32_t>& watched) {
  PlainRun plain(path);
  plain.run_to(begin);
  Machine& m = plain.machine();
  const uint32_t handler = tick_handler(m);
  Trail out;
  out.words.resize(watched.size());
  for (uint64_t i = 0; i <= length; ++i) {
    for (size_t w = 0; w < watched.size(); ++w) out.words[w].push_back(word_at(m, watched[w]));
    if (i == length) break;
    const auto before = static_cast<uint32_t>(eip(m));
    plain.run_to(begin + i + 1);
    // An interrupt came first: then the handler's first instruction, PUSH EAX, is what was executed.
    const bool interrupted = eip(m) == handler + 1 && before != handler;
    out.executed.push_back(interrupted ? handler : before);
  }
  return out;
}

class AgainstSteps : public testing::Test {
 protected:
  static constexpr uint64_t kLength = 30'000;
  static constexpr Position kBegin{80'000};

  // Positions in [kBegin, kBegin + kLength) at which the conditions hold.
  std::set<uint64_t> hits(const Trail& trail, const StopConditions& c, const std::vector<uint32_t>& watched) {
    std::set<uint64_t> out;
    for (uint64_t i = 0; i < kLength; ++i) {
      bool hit = std::find(c.breakpoints.begin(), c.breakpoints.end(), trail.executed[i]) != c.breakpoints.end();
      for (const Watch& w : c.watches)
        for (size_t k = 0; k < watched.size(); ++k)
          if (w.begin.value <= watched[k] && watched[k] < w.begin.value + w.size)
            hit = hit || trail.words[k][i] != trail.words[k][i + 1];
      if (hit) out.insert((kBegin + i).value);
    }
    return out;
  }
};

TEST_F(AgainstSteps, stops_forward_and_backward_are_those_of_single_steps) {
  const Recorded t;
  ASSERT_GT(t->end(), kBegin + kLength);
  std::vector<uint32_t> watched{kTicks};
  for (uint32_t page = 0; page < 256; page += 5) watched.push_back(0x200000 + page * 0x1000);
  const Trail trail = trail_of(t.file.path(), kBegin, kLength, watched);
  const uint32_t handler = tick_handler(t->machine()) != 0 ? tick_handler(t->machine()) : [&] {
    check(t->seek(kBegin));
    return tick_handler(t->machine());
  }();
  std::mt19937_64 random(3);
  for (int round = 0; round < 60; ++round) {
    StopConditions c;
    if (random() % 3 != 0) {
      for (uint64_t n = random() % 3; n != 0; --n) c.breakpoints.push_back(trail.executed[random() % kLength]);
      if (random() % 2 == 0) c.breakpoints.push_back(handler);
    }
    for (uint64_t n = random() % 3; n != 0; --n)
      c.watches.push_back({LinearAddr(watched[random() % watched.size()]), 4, false, true});
    const auto expected = hits(trail, c, watched);
    for (int i = 0; i < 4; ++i) {
      const Position start = kBegin + random() % kLength;
      check(t->seek(start));
      const auto at = expected.lower_bound(start.value);
      const TimelineStop back = check(t->backward(c, kBegin));
      const Position last = at == expected.begin() ? kBegin : Position(*std::prev(at));
      ASSERT_EQ(back.position, last) << start.value;
      ASSERT_EQ(back.reason == Reason::position, at == expected.begin());

      check(t->seek(start));
      const TimelineStop ahead = check(t->forward(c, kBegin + kLength));
      // A breakpoint at the start is passed over; what the instruction there writes is not.
      auto first = at;
      if (first != expected.end() && *first == start.value && ahead.position != start + 1) ++first;
      if (first == expected.end()) {
        ASSERT_EQ(ahead.position, kBegin + kLength);
      } else {
        const bool breakpoint = ahead.reason == Reason::breakpoint;
        ASSERT_EQ(ahead.position, Position(*first) + (breakpoint ? 0 : 1)) << start.value;
        ASSERT_EQ(ahead.position, t->position());
        ASSERT_EQ(ahead.position, t->machine().position());
      }
    }
  }
}

TEST_F(AgainstSteps, write_watch_stands_before_the_write_going_back_and_behind_it_going_forward) {
  const Recorded t;
  StopConditions c;
  c.watches.push_back({LinearAddr(kTicks), 4, false, true});
  check(t->seek(kBegin));
  const uint32_t before = word_at(t->machine(), kTicks);
  const TimelineStop ahead = check(t->forward(c, t->end()));
  ASSERT_EQ(ahead.reason, Reason::watch);
  EXPECT_EQ(word_at(t->machine(), kTicks), before + 1);
  EXPECT_EQ(ahead.observation->old_value, before);
  EXPECT_EQ(ahead.observation->new_value, before + 1);
  EXPECT_EQ(ahead.position, ahead.observation->position + 1);
  const TimelineStop back = check(t->backward(c, t->begin()));
  ASSERT_EQ(back.reason, Reason::watch);
  EXPECT_EQ(back.position, ahead.observation->position);
  EXPECT_EQ(word_at(t->machine(), kTicks), before);
  EXPECT_EQ(eip(t->machine()), ahead.observation->rip);
}

TEST(Timeline, breakpoint_on_an_interrupt_handler_stands_where_the_interrupt_comes) {
  const Recorded t;
  check(t->seek(Position(50'000)));
  const uint64_t handler = tick_handler(t->machine());
  StopConditions c;
  c.breakpoints = {handler};
  for (int i = 0; i < 5; ++i) {
    const TimelineStop stop = check(t->forward(c, t->end()));
    ASSERT_EQ(stop.reason, Reason::breakpoint);
    EXPECT_EQ(stop.observation->address, LinearAddr(handler));
    PlainRun plain(t.file.path());
    EXPECT_EQ(t->machine().digest(), plain.digest_at(stop.position));
    // The handler's first instruction is what the next step executes.
    check(t->seek(stop.position + 1));
    EXPECT_EQ(eip(t->machine()), handler + 1);
    EXPECT_EQ(check(t->backward(c, t->begin())).position, stop.position);
  }
}

// What the delivery of an interrupt writes is written where the interrupt comes, and before the handler's first instruction.
TEST(Timeline, watch_on_an_interrupt_frame_stops_where_the_interrupt_comes) {
  const Recorded t;
  StopConditions interrupts, frame;
  interrupts.events = mask_of(EventKind::interrupt);
  frame.watches.push_back({LinearAddr(0x9eff4), 4, true, true});  // EIP, below the guest's stack pointer of 0x9f000
  size_t count = 0;
  for (;; ++count) {
    const TimelineStop interrupt = check(t->forward(interrupts, t->end()));
    if (interrupt.reason != Reason::event) break;
    const Position where = interrupt.event->position;
    check(t->seek(where));
    const TimelineStop stop = check(t->forward(frame, t->end()));
    ASSERT_EQ(stop.reason, Reason::watch);
    ASSERT_EQ(stop.observation->kind, Observation::Kind::write);
    ASSERT_EQ(stop.observation->position, where);
    ASSERT_EQ(stop.position, where + 1);
    const StateDigest there = t->machine().digest();
    check(t->seek(where - 1));
    check(t->seek(where + 1));
    ASSERT_EQ(t->machine().digest(), there);
    const TimelineStop back = check(t->backward(frame, t->begin()));
    ASSERT_EQ(back.position, where);
    check(t->seek(where + 1));
  }
  EXPECT_GT(count, 3u);
}

TEST(Timeline, last_write_tells_who_and_does_not_move) {
  const Recorded t;
  const Position here(200'000);
  check(t->seek(here));
  const StateDigest digest = t->machine().digest();
  const uint32_t value = word_at(t->machine(), kTicks);
  const auto found = t->last_write(LinearAddr(kTicks), 4);
  ASSERT_TRUE(found.ok());
  ASSERT_TRUE(found->has_value());
  EXPECT_EQ((*found)->new_value, value);
  EXPECT_EQ((*found)->old_value, value - 1);
  EXPECT_EQ(t->position(), here);
  EXPECT_EQ(t->machine().digest(), digest);
  check(t->seek((*found)->position));
  EXPECT_EQ(word_at(t->machine(), kTicks), value - 1);
  check(t->seek((*found)->position + 1));
  EXPECT_EQ(word_at(t->machine(), kTicks), value);
  const auto nothing = t->last_write(LinearAddr(0x8000), 4000);
  ASSERT_TRUE(nothing.ok());
  EXPECT_FALSE(nothing->has_value());
}

TEST(Timeline, stops_at_the_ends_of_history) {
  const Recorded t;
  const TimelineStop end = check(t->forward({}, kNoPosition));
  EXPECT_EQ(end.reason, Reason::end);
  EXPECT_EQ(end.position, t->end());
  EXPECT_EQ(end.machine_stop.reason, StopReason::debug_exit);
  EXPECT_EQ(check(t->forward({}, kNoPosition)).reason, Reason::end);
  EXPECT_EQ(check(t->seek(kNoPosition)).reason, Reason::end);
  EXPECT_EQ(check(t->seek(t->end())).reason, Reason::position);
  StopConditions never;
  never.breakpoints = {0xdeadbeef};
  const TimelineStop begin = check(t->backward(never, t->begin()));
  EXPECT_EQ(begin.reason, Reason::begin);
  EXPECT_EQ(t->position(), t->begin());
  EXPECT_EQ(check(t->backward(never, t->begin())).reason, Reason::begin);
  EXPECT_EQ(check(t->forward({}, Position(1234))).reason, Reason::position);
  EXPECT_EQ(check(t->backward({}, Position(1000))).position, Position(1000));
}

TEST(Timeline, recordings_that_end_in_other_ways_can_be_entered_at_their_end) {
  SessionSetup setups[4];
  setups[0].keys = {{300'000, guest_key::halt}};
  setups[1].keys = {{300'000, guest_key::triple}};
  setups[2].options.run.stop_at = Position(123'456);
  setups[3].wants_stop = [](Moment at) { return at.time.value >= 900'000; };
  for (const SessionSetup& setup : setups) {
    const Recorded t(setup);
    const TimelineStop end = check(t->forward({}, kNoPosition));
    EXPECT_EQ(end.reason, Reason::end);
    EXPECT_EQ(t->position(), t->end());
    PlainRun plain(t.file.path());
    EXPECT_EQ(t->machine().digest(), plain.digest_at(t->end()));
    const Position middle(t->end().value / 2);
    check(t->seek(middle));
    EXPECT_EQ(check(t->seek(kNoPosition)).reason, Reason::end);
    EXPECT_EQ(t->machine().digest(), plain.machine().digest());
  }
}

TEST(Timeline, stops_where_a_triple_fault_begins_and_tells_all_of_it) {
  SessionSetup setup;
  setup.keys = {{300'000, guest_key::triple}};
  const Recorded t(setup);
  StopConditions c;
  c.events = mask_of(EventKind::exception) | mask_of(EventKind::exception_lost);
  const TimelineStop first = check(t->forward(c, kNoPosition));
  ASSERT_EQ(first.reason, Reason::event);
  EXPECT_EQ(first.event->kind, EventKind::exception_lost);
  EXPECT_EQ(first.position, t->end());
  const TimelineStop end = check(t->forward(c, kNoPosition));
  EXPECT_EQ(end.reason, Reason::end);
  ASSERT_GE(end.faults.size(), 3u);
  EXPECT_EQ(end.faults[0].vector, first.event->a);
  EXPECT_EQ(end.faults[0].rip, eip(t->machine()));
  check(t->seek(Position(1000)));
  c.event_filter = [](const JournalEvent& e) { return e.a == vec::DF; };
  EXPECT_EQ(check(t->forward(c, kNoPosition)).event->a, uint64_t{vec::DF});
  check(t->seek(Position(1000)));
  c.event_filter = [](const JournalEvent& e) { return e.a == vec::XM; };
  EXPECT_EQ(check(t->forward(c, kNoPosition)).reason, Reason::end);
}

TEST(Timeline, goes_back_to_where_a_triple_fault_begins_once) {
  SessionSetup setup;
  setup.keys = {{300'000, guest_key::triple}};
  const Recorded t(setup);
  StopConditions c;
  c.events = mask_of(EventKind::exception) | mask_of(EventKind::exception_lost);
  for (const bool told_forwards : {false, true}) {
    if (told_forwards) {
      check(t->seek(Position(1000)));
      EXPECT_EQ(check(t->forward(c, kNoPosition)).reason, Reason::event);
    } else {
      check(t->seek(t->end()));
      const TimelineStop first = check(t->backward(c, t->begin()));
      ASSERT_EQ(first.reason, Reason::event);
      EXPECT_EQ(first.event->kind, EventKind::exception_lost);
      EXPECT_EQ(first.position, t->end());
    }
    EXPECT_EQ(t->position(), t->end());
    PlainRun plain(t.file.path());
    EXPECT_EQ(t->machine().digest(), plain.digest_at(t->end()));
    EXPECT_EQ(check(t->backward(c, t->begin())).reason, Reason::begin);
    // Having been elsewhere, it is met again.
    check(t->forward({}, kNoPosition));
    EXPECT_EQ(check(t->backward(c, t->begin())).reason, Reason::event);
    EXPECT_EQ(t->position(), t->end());
  }
  check(t->seek(t->end()));
  c.event_filter = [](const JournalEvent& e) { return e.a == vec::DF; };
  EXPECT_EQ(check(t->backward(c, t->begin())).event->a, uint64_t{vec::DF});
  check(t->seek(t->end()));
  c.event_filter = [](const JournalEvent& e) { return e.a == vec::XM; };
  EXPECT_EQ(check(t->backward(c, t->begin())).reason, Reason::begin);
}

TEST(Timeline, events_stop_behind_their_instruction_and_stand_before_it) {
  const Recorded t;
  StopConditions c;
  c.events = mask_of(EventKind::port_write);
  c.event_filter = [](const JournalEvent& e) { return e.a == 0x3f8; };  // the echo of a key
  const TimelineStop ahead = check(t->forward(c, t->end()));
  ASSERT_EQ(ahead.reason, Reason::event);
  EXPECT_EQ(ahead.event->a, 0x3f8u);
  EXPECT_EQ(ahead.event->c, uint64_t{'a'});
  EXPECT_EQ(ahead.position, ahead.event->position + 1);
  PlainRun plain(t.file.path());
  EXPECT_EQ(t->machine().digest(), plain.digest_at(ahead.position));
  const TimelineStop next = check(t->forward(c, t->end()));
  EXPECT_EQ(next.event->c, uint64_t{'b'});
  check(t->seek(t->end()));
  std::string echoed;
  for (;;) {
    const TimelineStop back = check(t->backward(c, t->begin()));
    if (back.reason == Reason::begin) break;
    ASSERT_EQ(back.reason, Reason::event);
    ASSERT_EQ(back.position, back.event->position);
    echoed.insert(echoed.begin(), static_cast<char>(back.event->c));
  }
  EXPECT_EQ(echoed, "abcd");
}

TEST(Timeline, interrupts_and_recorded_events_are_stops_too) {
  const Recorded t;
  for (const EventKind kind : {EventKind::interrupt, EventKind::timer, EventKind::console_input, EventKind::tsc_read}) {
    StopConditions c;
    c.events = mask_of(kind);
    check(t->seek(t->begin()));
    std::vector<uint64_t> ahead;
    for (int i = 0; i < 5; ++i) {
      const TimelineStop stop = check(t->forward(c, t->end()));
      ASSERT_EQ(stop.reason, Reason::event) << to_string(kind);
      EXPECT_EQ(stop.event->kind, kind);
      EXPECT_EQ(stop.position, stop.event->position + 1);
      ahead.push_back(stop.event->position.value);
      if (kind == EventKind::console_input && i == 3) break;
      PlainRun plain(t.file.path());
      ASSERT_EQ(t->machine().digest(), plain.digest_at(stop.position)) << to_string(kind);
    }
    for (; !ahead.empty(); ahead.pop_back()) {
      const TimelineStop stop = check(t->backward(c, t->begin()));
      ASSERT_EQ(stop.reason, Reason::event) << to_string(kind);
      EXPECT_EQ(stop.position.value, ahead.back());
      while (ahead.size() > 1 && ahead[ahead.size() - 2] == ahead.back()) ahead.pop_back();
    }
  }
}

TEST(Timeline, interruption_leaves_it_usable) {
  bool stop = false;
  TimelineOptions options;
  options.interrupted = [&] { return stop; };
  const Recorded t({}, options);
  check(t->seek(t->end()));
  const StateDigest end = t->machine().digest();
  stop = true;
  StopConditions never;
  never.breakpoints = {0xdeadbeef};
  never.watches.push_back({LinearAddr(kTicks), 4, false, true});
  EXPECT_EQ(check(t->backward(never, t->begin())).reason, Reason::interrupted);
  EXPECT_EQ(t->position(), t->end());
  EXPECT_EQ(t->machine().digest(), end);
  EXPECT_FALSE(t->last_write(LinearAddr(kTicks), 4).ok());
  EXPECT_EQ(t->position(), t->end());
  EXPECT_EQ(check(t->seek(Position(12'345))).reason, Reason::interrupted);
  stop = false;
  check(t->seek(Position(12'345)));
  EXPECT_EQ(t->position(), Position(12'345));
}

TEST(Timeline, stays_within_its_memory_and_exact) {
  std::mt19937_64 random(5);
  TimelineOptions options;
  options.checkpoint_memory = uint64_t{4} << 20;
  options.checkpoint_spacing = 5'000;
  const Recorded t({}, options);
  const auto expected = plain_digests(t.file.path(), random_positions(random, t->end(), 80));
  ASSERT_TRUE(t->warm().ok());
  EXPECT_LE(t->checkpoints().bytes, options.checkpoint_memory);
  EXPECT_GT(t->checkpoints().bytes, options.checkpoint_memory / 2);
  EXPECT_LT(t->checkpoints().count, t->end().value / 5'000);
  std::vector<uint64_t> order;
  for (const auto& [p, unused] : expected) order.push_back(p);
  std::shuffle(order.begin(), order.end(), random);
  StopConditions c;
  c.watches.push_back({LinearAddr(kTicks), 4, false, true});
  for (const uint64_t p : order) {
    check(t->seek(Position(p)));
    ASSERT_EQ(t->machine().digest(), expected.at(p)) << p;
    const uint32_t ticks = word_at(t->machine(), kTicks);
    const TimelineStop back = check(t->backward(c, t->begin()));
    if (ticks != 0) {
      ASSERT_EQ(word_at(t->machine(), kTicks), ticks - 1);
    } else {
      ASSERT_EQ(back.reason, Reason::begin);
    }
    ASSERT_LE(t->checkpoints().bytes, options.checkpoint_memory);
  }
}

// Checkpoints share what is equal: room for every page that was written would be room for nothing.
TEST(Timeline, pages_that_are_written_with_what_they_have_cost_no_checkpoint) {
  // Writes to 128 pages, to each the same again and again, in real mode.
  BootImages images;
  images.kernel = {0xb8, 0x00, 0x10,        // again: mov ax, 1000h
                   0x8e, 0xc0,              // next: mov es, ax
                   0x26, 0xa3, 0x00, 0x00,  // mov [es:0], ax
                   0x05, 0x00, 0x01,        // add ax, 100h
                   0x3d, 0x00, 0x90,        // cmp ax, 9000h
                   0x72, 0xf2,              // jb next
                   0xeb, 0xed};             // jmp again
  images.flat_address = 0x7c00;
  images.flat_mode = FlatMode::real16;
  const TempFile file;
  record_images(file.path(), images, Position(100'000));
  TimelineOptions options;
  options.checkpoint_spacing = 5'000;
  const auto roomy = Timeline::open(file.path(), images, options);
  ASSERT_TRUE(roomy.ok() && (*roomy)->warm().ok());
  const CheckpointFigures all = (*roomy)->checkpoints();
  ASSERT_GT(all.count, 18u);
  ASSERT_GT(all.pages_captured, 5 * all.pages_stored);
  options.checkpoint_memory = all.bytes + (uint64_t{32} << 10);
  const auto tight = Timeline::open(file.path(), images, options);
  ASSERT_TRUE(tight.ok() && (*tight)->warm().ok());
  EXPECT_EQ((*tight)->checkpoints().count, all.count);
}

TEST(Timeline, is_denser_near_where_one_is) {
  TimelineOptions options;
  options.checkpoint_memory = uint64_t{3} << 20;
  options.checkpoint_spacing = 2'000;
  const Recorded t({}, options);
  ASSERT_TRUE(t->warm().ok());
  const Position near(t->end().value / 4);
  for (int i = 0; i < 20; ++i) check(t->seek(near - static_cast<uint64_t>(i) * 1000));
  const auto all = t->checkpoint_positions();
  const auto within = [&](uint64_t distance) {
    return std::count_if(all.begin(), all.end(), [&](Position p) { return p < near && near - p < distance; });
  };
  const double density_near = static_cast<double>(within(20'000)) / 20'000;
  EXPECT_GT(density_near, 2 * static_cast<double>(all.size()) / static_cast<double>(t->end().value));
}

TEST(Timeline, refuses_a_budget_in_which_no_checkpoint_fits) {
  // Two MiB that nothing can be saved on, behind the guest's code.
  BootImages images = guest_images();
  std::mt19937_64 random(6);
  while (images.kernel.size() < size_t{2} << 20) images.kernel.push_back(static_cast<uint8_t>(random()));
  const TempFile file;
  record_images(file.path(), images, Position(1000));

  TimelineOptions options;
  options.checkpoint_memory = uint64_t{1} << 20;
  const auto refused = Timeline::open(file.path(), images, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().where, "checkpoint memory");
  options.checkpoint_memory = uint64_t{3} << 20;
  const auto opened = Timeline::open(file.path(), images, options);
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  check((*opened)->seek(Position(500)));
  EXPECT_LE((*opened)->checkpoints().bytes, options.checkpoint_memory);
}

TEST(Timeline, checkpoints_cost_what_was_written) {
  const Recorded t;
  ASSERT_TRUE(t->warm().ok());
  const CheckpointFigures f = t->checkpoints();
  EXPECT_GT(f.count, 4u);
  EXPECT_LE(static_cast<double>(f.bytes), 1.1 * kPageSize * static_cast<double>(f.pages_captured));
  EXPECT_LE(f.pages_stored, f.pages_captured);
}

TEST(Timeline, a_replay_that_differs_is_an_error_and_what_lies_before_stays_reachable) {
  const TempFile recorded, changed;
  SessionSetup setup;
  record_guest(recorded.path(), setup);
  Position wrong;
  rewrite(recorded.path(), changed.path(), [&](TraceItem& item) {
    auto* digest = std::get_if<DigestRecord>(&item);
    if (digest != nullptr && !digest->at_stop && digest->position > Position(90'000) && wrong.value == 0) {
      wrong = digest->position;
      digest->state.memory ^= 1;
    }
    return true;
  });
  const auto t = open_timeline(changed.path());
  ASSERT_NE(t, nullptr);
  const auto end = t->seek(t->end());
  ASSERT_FALSE(end.ok());
  EXPECT_EQ(end.error().code, ErrorCode::divergence);
  PlainRun plain(recorded.path());
  check(t->seek(Position(60'000)));
  EXPECT_EQ(t->machine().digest(), plain.digest_at(Position(60'000)));
  EXPECT_FALSE(t->warm().ok());
  check(t->seek(Position(60'001)));
  EXPECT_EQ(t->machine().digest(), plain.digest_at(Position(60'001)));
}

TEST(Timeline, a_journal_event_that_differs_is_an_error) {
  const TempFile recorded, changed;
  SessionSetup setup;
  record_guest(recorded.path(), setup);
  Position good, wrong;  // of two events in a row
  rewrite(recorded.path(), changed.path(), [&](TraceItem& item) {
    auto* event = std::get_if<TraceEvent>(&item);
    if (event == nullptr || event->event.kind != EventKind::interrupt || wrong.value != 0) return true;
    if (event->event.position <= Position(90'000)) {
      good = event->event.position;
    } else {
      wrong = event->event.position;
      event->event.a ^= 1;
    }
    return true;
  });
  const auto t = open_timeline(changed.path());
  ASSERT_NE(t, nullptr);
  EXPECT_FALSE(t->warm().ok());
  EXPECT_FALSE(t->seek(wrong + 1).ok());
  check(t->seek(good));
  PlainRun plain(recorded.path());
  EXPECT_EQ(t->machine().digest(), plain.digest_at(good));
  EXPECT_FALSE(t->seek(t->end()).ok());
}

}  // namespace
}  // namespace retrovisor
