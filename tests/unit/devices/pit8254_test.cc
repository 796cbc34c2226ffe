#include <gtest/gtest.h>

#include <random>

#include "tests/unit/devices/board.h"
#include "vmm/devices/pit8254.h"

namespace retrovisor::test {
namespace {

constexpr TickClock kTicks(Pit8254::kHz);

class Pit : public ::testing::Test {
 protected:
  void SetUp() override {
    RV_ASSERT(board.ports.map({.first = 0x40, .count = 4, .device = &pit}).ok());
    RV_ASSERT(board.ports.map({.first = 0x61, .count = 1, .device = &pit}).ok());
    pit.reset({});
  }
  // To just after tick `n` of the counters' clock.
  void to_tick(uint64_t n) { board.run_to(kTicks.time_of(n).value); }
  uint64_t tick() const { return kTicks.ticks(board.clock.now()); }
  void start(unsigned counter, unsigned mode, unsigned count, bool bcd = false) {
    board.out(0x43, counter << 6 | 0x30 | mode << 1 | (bcd ? 1 : 0));
    write(counter, count);
  }
  void write(unsigned counter, unsigned count) {
    board.out(static_cast<uint16_t>(0x40 + counter), count & 0xff);
    board.out(static_cast<uint16_t>(0x40 + counter), count >> 8);
  }
  unsigned count(unsigned counter) {
    board.out(0x43, counter << 6);
    const unsigned low = board.in(static_cast<uint16_t>(0x40 + counter));
    return low | unsigned{board.in(static_cast<uint16_t>(0x40 + counter))} << 8;
  }
  unsigned status(unsigned counter) {
    board.out(0x43, 0xe0 | 2u << counter);
    return board.in(static_cast<uint16_t>(0x40 + counter));
  }
  bool out2() { return (board.in(0x61) & 0x20) != 0; }
  void gate2(bool on) { board.out(0x61, on ? 1 : 0); }
  // Ticks at which the output of counter 0 changes, up to `last`.
  std::vector<uint64_t> edges(uint64_t last) {
    std::vector<uint64_t> found;
    bool level = irq.levels[0];
    while (tick() < last) {
      to_tick(tick() + 1);
      if (irq.levels[0] != level) found.push_back(tick());
      level = irq.levels[0];
    }
    return found;
  }
  using Ticks = std::vector<uint64_t>;

  BareBoard board;
  LineRecorder irq;
  Pit8254 pit{board.clock, board.deadlines, IrqLine(irq, 0)};
};

TEST_F(Pit, mode_0_raises_out_n_plus_1_clocks_after_the_count) {
  to_tick(100);
  start(0, 0, 10);
  EXPECT_FALSE(irq.levels[0]);
  EXPECT_EQ(edges(200), (Ticks{111}));
  EXPECT_EQ(board.deadlines.next(), kNever);  // once
}

TEST_F(Pit, mode_0_counts_on_past_zero) {
  start(0, 0, 10);
  to_tick(1);
  EXPECT_EQ(count(0), 10u);
  to_tick(8);
  EXPECT_EQ(count(0), 3u);
  to_tick(12);
  EXPECT_EQ(count(0), 0xffffu);
}

TEST_F(Pit, mode_0_first_byte_of_a_new_count_stops_it) {
  start(0, 0, 10);
  to_tick(5);
  board.out(0x40, 4);
  to_tick(50);
  EXPECT_FALSE(irq.levels[0]);
  board.out(0x40, 0);
  EXPECT_EQ(edges(100), (Ticks{55}));
}

TEST_F(Pit, mode_2_pulses_low_for_one_clock_each_period) {
  start(0, 2, 5);
  EXPECT_TRUE(irq.levels[0]);
  EXPECT_EQ(edges(17), (Ticks{5, 6, 10, 11, 15, 16}));
}

TEST_F(Pit, mode_2_takes_a_new_count_at_the_end_of_the_period) {
  start(0, 2, 10);
  to_tick(4);
  write(0, 4);
  EXPECT_EQ(status(0) & 0x40, 0x40u);  // not loaded yet
  EXPECT_EQ(edges(20), (Ticks{10, 11, 14, 15, 18, 19}));
  EXPECT_EQ(status(0) & 0x40, 0u);
}

TEST_F(Pit, mode_2_reads_count_from_n_to_1) {
  start(0, 2, 5);
  for (uint64_t t = 1; t < 30; ++t) {
    to_tick(t);
    EXPECT_EQ(count(0), 5 - (t - 1) % 5) << t;
  }
}

TEST_F(Pit, mode_3_is_a_square_wave) {
  start(0, 3, 6);
  EXPECT_EQ(edges(20), (Ticks{4, 7, 10, 13, 16, 19}));
  for (uint64_t t = 20; t < 40; ++t) {
    to_tick(t);
    EXPECT_EQ(count(0), 6 - 2 * ((t - 1) % 3)) << t;
  }
}

TEST_F(Pit, mode_3_with_an_odd_count_is_high_one_clock_longer) {
  start(0, 3, 5);
  EXPECT_EQ(edges(12), (Ticks{4, 6, 9, 11}));
}

TEST_F(Pit, mode_3_takes_a_new_count_at_the_end_of_the_half_cycle) {
  start(0, 3, 10);
  to_tick(3);
  write(0, 4);
  EXPECT_EQ(edges(13), (Ticks{6, 8, 10, 12}));
}

TEST_F(Pit, mode_4_strobes_once) {
  start(0, 4, 3);
  EXPECT_TRUE(irq.levels[0]);
  EXPECT_EQ(edges(100), (Ticks{4, 5}));
  write(0, 2);
  EXPECT_EQ(edges(200), (Ticks{103, 104}));
}

TEST_F(Pit, zero_counts_65536_or_10000_in_bcd) {
  start(0, 0, 0);
  EXPECT_EQ(edges(70000), (Ticks{65537}));
  start(0, 0, 0, true);
  EXPECT_EQ(edges(90000), (Ticks{80001}));
}

TEST_F(Pit, bcd_counts_in_decimal) {
  start(0, 2, 0x1000, true);
  to_tick(2);
  EXPECT_EQ(count(0), 0x0999u);
  to_tick(901);
  EXPECT_EQ(count(0), 0x0100u);
  to_tick(1001);
  EXPECT_EQ(count(0), 0x1000u);
}

TEST_F(Pit, one_byte_access_modes) {
  board.out(0x43, 0x14);  // counter 0, low byte, mode 2
  board.out(0x40, 100);
  to_tick(1);
  EXPECT_EQ(board.in(0x40), 100);
  EXPECT_EQ(board.in(0x40), 100);
  board.out(0x43, 0x24);  // high byte
  board.out(0x40, 2);
  to_tick(3);
  EXPECT_EQ(board.in(0x40), 1);  // 511
  EXPECT_EQ(status(0) & 0x3f, 0x24u);
}

TEST_F(Pit, latched_count_stays_until_read) {
  start(0, 2, 1000);
  to_tick(101);
  board.out(0x43, 0x00);
  to_tick(201);
  board.out(0x43, 0x00);  // a second latch is ignored
  EXPECT_EQ(board.in(0x40), 900 & 0xff);
  EXPECT_EQ(board.in(0x40), 900 >> 8);
  EXPECT_EQ(count(0), 800u);
}

TEST_F(Pit, read_back_latches_status_and_counts_of_several_counters) {
  start(0, 2, 1000);
  start(2, 0, 500, true);
  gate2(true);
  to_tick(11);
  board.out(0x43, 0xca);  // status and count of counters 0 and 2
  to_tick(50);
  EXPECT_EQ(board.in(0x40), 0xb4);  // OUT high, low-high access, mode 2
  EXPECT_EQ(board.in(0x40), 990 & 0xff);
  EXPECT_EQ(board.in(0x40), 990 >> 8);
  EXPECT_EQ(board.in(0x42), 0x31);
}

TEST_F(Pit, gate_holds_the_count_in_mode_0) {
  gate2(true);
  start(2, 0, 100);
  to_tick(41);
  gate2(false);
  EXPECT_EQ(count(2), 60u);
  to_tick(500);
  EXPECT_EQ(count(2), 60u);
  EXPECT_FALSE(out2());
  gate2(true);
  to_tick(559);
  EXPECT_FALSE(out2());
  to_tick(560);
  EXPECT_TRUE(out2());
}

TEST_F(Pit, a_full_count_can_be_loaded_and_held_with_the_gate_closed) {
  gate2(false);
  start(2, 0, 0);
  to_tick(10);
  EXPECT_EQ(count(2), 0u);
  gate2(true);
  to_tick(11);
  EXPECT_EQ(count(2), 0xffffu);
  to_tick(10 + 65535);
  EXPECT_FALSE(out2());
  to_tick(10 + 65536);
  EXPECT_TRUE(out2());
}

TEST_F(Pit, mode_1_is_a_shot_per_rising_gate) {
  start(2, 1, 20);
  EXPECT_TRUE(out2());
  to_tick(10);
  EXPECT_TRUE(out2());
  gate2(true);
  to_tick(11);
  EXPECT_FALSE(out2());
  to_tick(20);
  gate2(false);
  gate2(true);  // again: the shot gets longer
  to_tick(40);
  EXPECT_FALSE(out2());
  to_tick(41);
  EXPECT_TRUE(out2());
}

TEST_F(Pit, mode_5_strobes_after_a_trigger) {
  start(2, 5, 4);
  to_tick(10);
  gate2(true);
  to_tick(14);
  EXPECT_TRUE(out2());
  to_tick(15);
  EXPECT_FALSE(out2());
  to_tick(16);
  EXPECT_TRUE(out2());
}

TEST_F(Pit, closing_the_gate_stops_mode_2_with_out_high) {
  gate2(true);
  start(2, 2, 10);
  to_tick(10);
  EXPECT_FALSE(out2());
  gate2(false);
  EXPECT_TRUE(out2());
  to_tick(100);
  EXPECT_TRUE(out2());
  gate2(true);  // starts anew
  to_tick(101);
  EXPECT_EQ(count(2), 10u);
  to_tick(110);
  EXPECT_FALSE(out2());
}

TEST_F(Pit, port_61_keeps_its_low_bits_and_toggles_refresh) {
  board.out(0x61, 0xff);
  EXPECT_EQ(board.in(0x61) & 0xcf, 0x0f);
  unsigned toggles = 0;
  uint8_t last = board.in(0x61) & 0x10;
  for (uint64_t t = 0; t < 18 * 100; ++t) {
    to_tick(tick() + 1);
    const uint8_t now = board.in(0x61) & 0x10;
    toggles += now != last ? 1 : 0;
    last = now;
  }
  EXPECT_EQ(toggles, 100u);
}

TEST_F(Pit, does_not_drift_over_an_hour) {
  start(0, 2, 11932);
  constexpr uint64_t kHour = uint64_t{3600} * kNsPerSecond;
  board.run_to(kHour);
  EXPECT_EQ(irq.rises[0], 1 + (kTicks.ticks(VirtualTime(kHour)) - 1) / 11932);
}

TEST_F(Pit, smallest_periods_make_progress) {
  for (const unsigned mode : {2u, 3u}) {
    start(0, mode, 1);
    const unsigned before = irq.rises[0];
    to_tick(tick() + 1000);
    EXPECT_NEAR(irq.rises[0] - before, 500, 2) << mode;
  }
}

// Whatever is programmed, what can be read does not depend on how often anybody looked, nor on save and restore.
TEST_F(Pit, counts_do_not_depend_on_how_time_is_cut) {
  std::mt19937 random(8254);
  BareBoard other;
  LineRecorder other_irq;
  Pit8254 seldom(other.clock, other.deadlines, IrqLine(other_irq, 0));
  RV_ASSERT(other.ports.map({.first = 0x40, .count = 4, .device = &seldom}).ok());
  RV_ASSERT(other.ports.map({.first = 0x61, .count = 1, .device = &seldom}).ok());
  seldom.reset({});
  for (int round = 0; round < 3000; ++round) {
    const uint64_t target = board.now() + random() % 4000000;
    while (board.now() < target) {  // this one is looked at all the time, and moved
      board.run_to(std::min(target, board.now() + 1 + random() % 500000));
      board.in(0x61);
      if (random() % 8 == 0) {
        StateWriter out;
        pit.save(out);
        const VirtualTime armed = board.deadlines.next();
        const LineRecorder lines = irq;
        pit.reset({});
        StateReader in(out.data());
        pit.restore(in);
        ASSERT_TRUE(in.finish().ok()) << in.finish().error().text();
        board.deadlines.arm(0, armed);
        irq = lines;
      }
    }
    other.run_to(target);
    for (uint16_t counter = 0; counter < 3; ++counter) {
      for (BareBoard* b : {&board, &other}) b->out(0x43, 0xc0 | 2u << counter);
      for (int i = 0; i < 3; ++i)
        ASSERT_EQ(board.in(static_cast<uint16_t>(0x40 + counter)), other.in(static_cast<uint16_t>(0x40 + counter)))
            << "round " << round << " counter " << counter;
    }
    ASSERT_EQ(board.in(0x61), other.in(0x61));
    ASSERT_EQ(irq.levels[0], other_irq.levels[0]);
    const auto port = static_cast<uint16_t>(random() % 5 == 4 ? 0x61 : 0x40 + random() % 4);
    const unsigned value = random() & 0xff;
    for (BareBoard* b : {&board, &other}) b->out(port, value);
  }
}

}  // namespace
}  // namespace retrovisor::test
