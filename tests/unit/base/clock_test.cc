#include "vmm/clock.h"

#include <gtest/gtest.h>

namespace retrovisor {
namespace {

TEST(Clock, idle_time_passes_without_positions) {
  Clock clock;
  clock.set_retired(Position(100));
  clock.pass(50);
  EXPECT_EQ(clock.now(), VirtualTime(150));
  EXPECT_EQ(clock.position_of(VirtualTime(170)), Position(120));
  EXPECT_EQ(clock.position_of(VirtualTime(10)), Position(100));
  EXPECT_EQ(clock.position_of(kNever), kNoPosition);
}

TEST(Deadlines, fire_in_order_of_time_then_of_registration) {
  Deadlines d;
  std::string fired;
  const auto a = d.add("a", [&](VirtualTime) { fired += 'a'; });
  const auto b = d.add("b", [&](VirtualTime) { fired += 'b'; });
  const auto c = d.add("c", [&](VirtualTime) { fired += 'c'; });
  d.arm(c, VirtualTime(5));
  d.arm(b, VirtualTime(7));
  d.arm(a, VirtualTime(7));
  d.run_due(VirtualTime(4));
  EXPECT_EQ(fired, "");
  EXPECT_EQ(d.next(), VirtualTime(5));
  d.run_due(VirtualTime(10));
  EXPECT_EQ(fired, "cab");
  EXPECT_EQ(d.next(), kNever);
}

TEST(Deadlines, a_timer_may_arm_itself_again_while_it_fires) {
  Deadlines d;
  int count = 0;
  Deadlines::Timer t = 0;
  t = d.add("t", [&](VirtualTime when) {
    if (++count < 4) d.arm(t, when + 10);
  });
  d.arm(t, VirtualTime(10));
  d.run_due(VirtualTime(25));
  EXPECT_EQ(count, 2);
  EXPECT_EQ(d.deadline(t), VirtualTime(30));
}

TEST(Deadlines, armed_deadlines_are_state) {
  Deadlines first, second;
  for (Deadlines* d : {&first, &second}) d->add("x", [](VirtualTime) {});
  first.arm(0, VirtualTime(77));
  StateWriter out;
  first.save(out);
  StateReader in(out.data());
  second.restore(in);
  ASSERT_TRUE(in.finish().ok());
  EXPECT_EQ(second.next(), VirtualTime(77));
}

}  // namespace
}  // namespace retrovisor
