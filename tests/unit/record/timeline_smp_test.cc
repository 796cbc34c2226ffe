// The timeline of a machine with two vCPUs.
#include <gtest/gtest.h>

#include "record/recording_boundary.h"
#include "tests/unit/record/timelines.h"
#include "tests/unit/record/two_processors.h"

namespace retrovisor {
namespace {

using Reason = TimelineStop::Reason;

class TimelineSmp : public testing::Test {
 protected:
  void SetUp() override {
    const BootImages images = two_processors::images();
    MachineConfig config;
    config.memory_size = kMinRam;
    config.vcpus = 2;
    TraceHeader header = make_header(config, images, {.kernel = "guest", .initrd = {}, .modules = {}});
    header.journal_mask = kJournalFull;
    header.digest_interval = 70'000;
    auto writer = TraceWriter::create(file_.path(), header);
    ASSERT_TRUE(writer.ok());
    TimedBoundary live;
    RecordingBoundary boundary(live, **writer);
    auto machine = Machine::create(config, boundary);
    ASSERT_TRUE(machine.ok());
    Machine& m = **machine;
    ASSERT_TRUE(m.load(images).ok());
    ASSERT_TRUE(record(m, **writer, {}).ok());

    TimelineOptions options;
    options.checkpoint_spacing = 30'000;
    auto opened = Timeline::open(file_.path(), images, options);
    ASSERT_TRUE(opened.ok()) << opened.error().text();
    timeline_ = std::move(*opened);
  }

  Timeline& t() { return *timeline_; }
  Machine& m() { return timeline_->machine(); }
  // Whose turn it is at `position`, by the guest's design.
  static uint32_t turn(uint64_t position) { return position / 100'000 % 2 == 0 ? 0 : 1; }

  TempFile file_;
  std::unique_ptr<Timeline> timeline_;
};

TEST_F(TimelineSmp, the_next_vcpu_is_the_same_however_a_position_is_reached) {
  std::mt19937_64 random(7);
  const uint64_t end = t().end().value;
  std::vector<uint64_t> places{0, 1, 99'999, 100'000, 100'001, 199'999, 200'000, 300'000, 600'000, 90'000, 120'000};
  for (int i = 0; i < 40; ++i) places.push_back(random() % end);
  for (int round = 0; round < 3; ++round) {
    std::shuffle(places.begin(), places.end(), random);
    for (const uint64_t p : places) {
      check(t().seek(Position(p)));
      ASSERT_EQ(m().next_vcpu(), VcpuId(turn(p))) << p;
      // Who is said to have executed is who has.
      check(t().forward({}, Position(p + 1)));
      ASSERT_EQ(m().last_vcpu(), VcpuId(turn(p))) << p;
    }
  }
}

TEST_F(TimelineSmp, one_step_changes_the_state_of_one_vcpu) {
  for (const uint64_t p : std::vector<uint64_t>{99'999, 100'000, 150'000, 199'999, 200'000, 299'999, 300'000}) {
    check(t().seek(Position(p)));
    const uint64_t before[] = {m().vcpu(VcpuId(0)).state.rip, m().vcpu(VcpuId(1)).state.rip};
    check(t().forward({}, Position(p + 1)));
    for (uint32_t i = 0; i < 2; ++i)
      EXPECT_EQ(m().vcpu(VcpuId(i)).state.rip != before[i], i == turn(p)) << p << " vCPU " << i;
  }
}

TEST_F(TimelineSmp, stops_name_their_vcpu_in_both_directions) {
  StopConditions c;
  c.breakpoints = {two_processors::kFirst, two_processors::kSecond};
  for (const uint64_t p : std::vector<uint64_t>{110'000, 199'997, 250'000, 310'000, 500'000}) {
    check(t().seek(Position(p)));
    for (int i = 0; i < 5; ++i) {
      const TimelineStop stop = check(t().forward(c, kNoPosition));
      ASSERT_EQ(stop.reason, Reason::breakpoint);
      EXPECT_EQ(stop.observation->vcpu, VcpuId(turn(stop.position.value)));
      EXPECT_EQ(stop.observation->address.value,
                stop.observation->vcpu == VcpuId(0) ? two_processors::kFirst : two_processors::kSecond);
    }
    for (int i = 0; i < 10; ++i) {
      const TimelineStop stop = check(t().backward(c, Position(0)));
      ASSERT_EQ(stop.reason, Reason::breakpoint);
      EXPECT_EQ(stop.observation->vcpu, VcpuId(turn(stop.position.value)));
      EXPECT_EQ(m().next_vcpu(), stop.observation->vcpu);
    }
  }
}

TEST_F(TimelineSmp, turns_are_found_backwards_with_the_vcpu_that_they_end) {
  StopConditions c;
  c.events = mask_of(EventKind::vcpu_switch);
  check(t().seek(Position(450'000)));
  for (uint64_t p = 400'000; p >= 100'000; p -= 100'000) {
    const TimelineStop stop = check(t().backward(c, Position(0)));
    ASSERT_EQ(stop.reason, Reason::event);
    EXPECT_EQ(stop.position, Position(p));
    EXPECT_EQ(stop.event->vcpu, VcpuId(turn(p - 1)));
    EXPECT_EQ(stop.event->a, turn(p));
  }
  EXPECT_EQ(check(t().backward(c, Position(0))).reason, Reason::begin);
}

TEST_F(TimelineSmp, the_recording_is_compared_through_seeks) {
  for (const uint64_t p : std::vector<uint64_t>{250'000, 50'000, 100'000, 250'001, 199'999, 400'000, 300'000})
    check(t().seek(Position(p)));
  EXPECT_EQ(check(t().forward({}, kNoPosition)).reason, Reason::end);
}

}  // namespace
}  // namespace retrovisor
