#include <gtest/gtest.h>

#include "tests/unit/record/timelines.h"

namespace retrovisor {
namespace {

using Reason = TimelineStop::Reason;

constexpr uint64_t kTicks = 0x190000;  // tests/unit/record/session_guest.cc

void scribble(Machine& m) {
  CpuState& s = m.vcpu(VcpuId(0)).state;
  s.gpr[RCX] ^= 0x5555;
  s.xmm[3] = {};
  m.engine().state_changed(m.vcpu(VcpuId(0)));
  const std::vector<uint8_t> bytes(10'000, 0xa5);
  ASSERT_TRUE(m.memory().write(PhysAddr(0x2ffff0), bytes));
}

TEST(Diversion, leaves_no_trace) {
  const Recorded t;
  for (const uint64_t p : {uint64_t{0}, uint64_t{1000}, uint64_t{77'777}, t->end().value}) {
    check(t->seek(Position(p)));
    const StateDigest before = t->machine().digest();
    ASSERT_TRUE(t->begin_diversion().ok());
    EXPECT_TRUE(t->diverted());
    EXPECT_EQ(t->machine().digest(), before);
    scribble(t->machine());
    EXPECT_NE(t->machine().digest(), before);
    check(t->run_diversion({}, 100'000));
    EXPECT_GT(t->machine().position(), Position(p));
    EXPECT_EQ(t->position(), Position(p));
    ASSERT_TRUE(t->begin_diversion().ok());  // does nothing
    ASSERT_TRUE(t->end_diversion().ok());
    EXPECT_FALSE(t->diverted());
    EXPECT_EQ(t->machine().digest(), before);
    EXPECT_EQ(t->machine().position(), Position(p));
    // And history goes on as it did.
    PlainRun plain(t.file.path());
    const Position later(std::min(p + 30'000, t->end().value));
    check(t->forward({}, later));
    EXPECT_EQ(t->machine().digest(), plain.digest_at(later));
  }
}

TEST(Diversion, ends_when_history_is_entered_again) {
  const Recorded t;
  PlainRun plain(t.file.path());
  const StateDigest there = plain.digest_at(Position(60'000));
  for (int way = 0; way < 4; ++way) {
    check(t->seek(Position(70'000)));
    ASSERT_TRUE(t->begin_diversion().ok());
    scribble(t->machine());
    check(t->run_diversion({}, 5000));
    StopConditions c;
    c.watches.push_back({LinearAddr(kTicks), 4, false, true});
    if (way == 0) check(t->seek(Position(60'000)));
    if (way == 1) check(t->backward({}, Position(60'000)));
    if (way == 2) check(t->forward({}, Position(75'000)));
    if (way == 3) {
      EXPECT_TRUE(t->last_write(LinearAddr(kTicks), 4).ok());
    }
    EXPECT_FALSE(t->diverted());
    if (way > 1) check(t->seek(Position(60'000)));
    EXPECT_EQ(t->machine().digest(), there);
  }
}

TEST(Diversion, stops_at_breakpoints_watches_and_the_end_of_the_machine) {
  const Recorded t;
  check(t->seek(Position(50'000)));
  const uint64_t handler = (word_at(t->machine(), 0x180100) & 0xffff) | (word_at(t->machine(), 0x180104) & 0xffff0000);
  ASSERT_TRUE(t->begin_diversion().ok());
  StopConditions c;
  c.breakpoints = {handler};
  const TimelineStop at_handler = check(t->run_diversion(c, 10'000'000));
  EXPECT_EQ(at_handler.reason, Reason::breakpoint);
  EXPECT_EQ(eip(t->machine()), handler);
  c.breakpoints.clear();
  c.watches.push_back({LinearAddr(kTicks), 4, false, true});
  const uint32_t ticks = word_at(t->machine(), kTicks);
  EXPECT_EQ(check(t->run_diversion(c, 10'000'000)).reason, Reason::watch);
  EXPECT_EQ(word_at(t->machine(), kTicks), ticks + 1);
  EXPECT_EQ(check(t->run_diversion({}, 12)).reason, Reason::position);
  // No input comes in a diversion, so it never gets to the recorded end.
  EXPECT_EQ(check(t->run_diversion({}, 2'000'000)).reason, Reason::position);
  ASSERT_TRUE(t->end_diversion().ok());
  check(t->seek(t->end() - 1));
  ASSERT_TRUE(t->begin_diversion().ok());
  const TimelineStop end = check(t->run_diversion({}, 10));
  EXPECT_EQ(end.reason, Reason::end);
  EXPECT_EQ(end.machine_stop.reason, StopReason::debug_exit);
}

}  // namespace
}  // namespace retrovisor
