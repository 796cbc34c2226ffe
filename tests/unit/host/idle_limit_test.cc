// Guests that wait where time is virtual: LiveOptions::idle_limit_ns.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "vmm/host/live_boundary.h"
#include "vmm/devices/pc.h"

namespace retrovisor {
namespace {

constexpr uint64_t kMs = 1'000'000, kSecond = 1000 * kMs, kLimit = 10 * kSecond;

// A guest on a live boundary that sleeps 100 ms at a time and is busy in between.
struct Guest {
  explicit Guest(ConsoleKind kind, int input_fd = -1, bool real_time = false) {
    stop = std::move(StopSource::create()).value();
    ConsoleOptions console;
    console.kind = kind;
    console.input_fd = input_fd;
    console.output_fd = -1;
    LiveOptions options;
    options.idle_limit_ns = kLimit;
    options.real_time = real_time;
    boundary = std::make_unique<LiveBoundary>(options, std::move(make_console(console, stop.get())).value(), *stop);
    boundary->on_stop([this] { stopped = true; });
    boundary->on_notice([this](Notice what) { paced = paced || what == Notice::paced; });
  }
  // Until it is stopped or paced; true if either came before `until`.
  bool sleeps(uint64_t until, uint64_t busy) {
    while (now < until) {
      const IdleWait wait = boundary->idle_wait({Position(now), VirtualTime(now)}, 100 * kMs, true);
      if (stopped || paced) return true;
      EXPECT_EQ(wait.waited_ns, 100 * kMs);
      now += wait.waited_ns + busy;
    }
    return false;
  }
  void print() {
    const uint8_t byte = 'x';
    boundary->transmit({Position(now), VirtualTime(now)}, kPcConsole, {&byte, 1});
  }

  std::unique_ptr<StopSource> stop;
  std::unique_ptr<LiveBoundary> boundary;
  uint64_t now = 0;
  bool stopped = false, paced = false;
};

TEST(IdleLimit, ends_a_guest_that_only_looks_after_its_timers) {
  Guest guest(ConsoleKind::none);
  EXPECT_TRUE(guest.sleeps(30 * kSecond, kMs / 2));
  EXPECT_TRUE(guest.stopped);
  EXPECT_EQ(guest.stop->cause(), StopCause::idle);
  EXPECT_GE(guest.now, kLimit);
  EXPECT_LT(guest.now, kLimit + kSecond);
}

TEST(IdleLimit, output_begins_it_anew) {
  Guest guest(ConsoleKind::none);
  EXPECT_FALSE(guest.sleeps(9 * kSecond, 0));
  guest.print();
  EXPECT_FALSE(guest.sleeps(18 * kSecond, 0));
  EXPECT_TRUE(guest.sleeps(30 * kSecond, 0));
  EXPECT_LT(guest.now, 20 * kSecond);
}

TEST(IdleLimit, leaves_a_guest_alone_that_works_a_hundredth_of_its_time) {
  Guest guest(ConsoleKind::none);
  EXPECT_FALSE(guest.sleeps(100 * kSecond, 2 * kMs));
}

TEST(IdleLimit, paces_a_guest_that_may_be_typed_to) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Guest guest(ConsoleKind::stdio, ends[0]);
  EXPECT_TRUE(guest.sleeps(30 * kSecond, 0));
  EXPECT_TRUE(guest.paced);
  EXPECT_FALSE(guest.stop->requested());
  ASSERT_EQ(write(ends[1], "k", 1), 1);
  uint8_t key[4];
  EXPECT_EQ(guest.boundary->receive({Position(guest.now), VirtualTime(guest.now)}, kPcConsole, key), 1u);
  close(ends[1]);
  guest.paced = false;
  EXPECT_TRUE(guest.sleeps(60 * kSecond, 0));
  EXPECT_TRUE(guest.stopped) << "the pipe is at its end";
  close(ends[0]);
}

TEST(IdleLimit, means_nothing_where_waits_take_their_time) {
  Guest guest(ConsoleKind::none, -1, true);
  guest.now = 100 * kSecond;
  EXPECT_EQ(guest.boundary->idle_wait({Position(1), VirtualTime(guest.now)}, kMs, true).waited_ns, kMs);
  EXPECT_FALSE(guest.stop->requested());
}

}  // namespace
}  // namespace retrovisor
