// The devices together: wiring, saving and restoring, hostile states and hostile guests.
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/devices/board.h"

namespace retrovisor::test {
namespace {

// Does something a guest could do, with a bias to the addresses where devices are.
void disturb(Board& board, std::mt19937& random) {
  static const std::vector<uint16_t> kPorts = [&] {
    std::vector<uint16_t> ports{0xcf8};
    for (const Claim& c : board.ports.claims())
      for (uint64_t i = 0; i < c.count; ++i) ports.push_back(static_cast<uint16_t>(c.first + i));
    return ports;
  }();
  const unsigned sizes[] = {1, 1, 1, 2, 4};
  board.on(random() % 2);
  switch (random() % 8) {
    case 0:
    case 1:
    case 2:
      board.ports.write(board.running, kPorts[random() % std::size(kPorts)], sizes[random() % 5], static_cast<uint32_t>(random()));
      break;
    case 3: board.ports.read(board.running, kPorts[random() % std::size(kPorts)], sizes[random() % 5]); break;
    case 4: board.apic(random() % 0x40 * 16, static_cast<uint32_t>(random() & random())); break;
    case 5: board.io_apic(static_cast<uint32_t>(random() % 0x44), static_cast<uint32_t>(random() & random())); break;
    case 6: {
      const uint32_t id = random() % 2;
      board.take(id);
      if (random() % 4 == 0) board.vcpu(id).interrupts->write_msr(0x6e0, board.now() + random() % 100000);
      if (random() % 64 == 0) board.vcpu(id).interrupts->write_msr(0x1b, 0xfee00000 | (random() & 0x900));
      const uint8_t byte = static_cast<uint8_t>(random());
      if (board.board->room(kPcConsole) != 0) board.board->receive(kPcConsole, std::span(&byte, 1));
      break;
    }
    default: {
      // Periods of a nanosecond are allowed; do not let time go so far that a test takes for ever.
      const uint64_t until = board.now() + random() % 20000;
      for (int i = 0; i < 200 && board.deadlines.next().value <= until; ++i)
        board.run_to(std::max(board.now(), board.deadlines.next().value));
      break;
    }
  }
}

TEST(PcBoard, restores_what_it_saved_in_any_state) {
  std::mt19937 random(1);
  for (int round = 0; round < 30; ++round) {
    Board board(2, 1'700'000'000);
    for (int i = 0; i < 2000; ++i) disturb(board, random);
    const auto state = board.save();
    Board other(2);
    const auto restored = other.restore(state);
    ASSERT_TRUE(restored.ok()) << restored.error().text();
    ASSERT_EQ(other.save(), state);
    for (uint32_t id = 0; id < 2; ++id) {
      EXPECT_EQ(other.vcpu(id).intr, board.vcpu(id).intr);
      other.vcpu(id).state = board.vcpu(id).state;
    }
    // And both go on alike.
    std::mt19937 again = random;
    for (int i = 0; i < 2000; ++i) {
      disturb(board, random);
      disturb(other, again);
    }
    ASSERT_EQ(other.save(), board.save());
    ASSERT_EQ(other.vcpu().intr, board.vcpu().intr);
  }
}

TEST(PcBoard, hostile_states_are_refused_or_harmless) {
  std::mt19937 random(2);
  Board source(2);
  for (int i = 0; i < 3000; ++i) disturb(source, random);
  const auto state = source.save();
  unsigned refused = 0;
  for (int round = 0; round < 600; ++round) {
    auto bad = state;
    for (unsigned i = 0; i <= random() % 4; ++i) bad[random() % bad.size()] = static_cast<uint8_t>(random());
    if (round % 10 == 0) bad.resize(random() % bad.size());
    Board board(2);
    if (!board.restore(bad).ok()) {
      ++refused;
    } else {  // what was taken is a state like any other
      const auto taken = board.save();
      Board other(2);
      ASSERT_TRUE(other.restore(taken).ok());
      ASSERT_EQ(other.save(), taken);
    }
    for (int i = 0; i < 100; ++i) disturb(board, random);
  }
  EXPECT_GT(refused, 300u);
}

TEST(PcBoard, deadlines_of_a_distant_past_are_caught_up_with_in_bounded_time) {
  Board board;
  board.apic(0x3e0, 0xb);
  board.apic(0x320, 0x20040);  // periodic, every nanosecond
  board.apic(0x380, 1);
  board.out(0x43, 0x14);       // every second tick
  board.out(0x40, 2);
  board.out(0x70, 0x0a);
  board.out(0x71, 0x23);       // 8192 Hz
  board.out(0x70, 0x0b);
  board.out(0x71, 0x72);
  auto state = board.save();
  const std::string field = "clock.idle_ns";
  const auto at = std::search(state.begin(), state.end(), field.begin(), field.end());
  ASSERT_NE(at, state.end());
  *(at + static_cast<long>(field.size()) + 4 + 7) = 0x20;  // 2^61 ns later
  ASSERT_TRUE(board.restore(state).ok());
  board.run_to(board.now());
  EXPECT_GT(board.deadlines.next(), board.clock.now());
}

TEST(PcBoard, reset_gives_the_same_state_from_anywhere) {
  std::mt19937 random(3);
  Board fresh(2, 1234567890);
  Board used(2, 0);
  for (int i = 0; i < 3000; ++i) disturb(used, random);
  used.run_to(used.now());
  const auto now = used.clock.now();
  fresh.clock.pass(now.value);
  fresh.board->reset({.wall_clock = 1234567890});
  used.board->reset({.wall_clock = 1234567890});
  EXPECT_EQ(used.save(), fresh.save());
  EXPECT_EQ(used.deadlines.next(), kNever);
  EXPECT_FALSE(used.vcpu(0).intr);
}

TEST(PcBoard, serial_interrupt_reaches_the_cpu_through_both_controllers) {
  Board board;
  board.init_pics(1 << 4);
  board.apic(0xf0, 0x1ff);
  board.redirect(4, 0x64);
  board.out(0x3fc, 0x08);
  board.out(0x3f9, 0x01);
  const uint8_t byte = 'x';
  board.board->receive(kPcConsole, std::span(&byte, 1));
  EXPECT_EQ(board.take(), 0x24);
  EXPECT_EQ(board.take(), 0x64);
}

TEST(PcBoard, timer_interrupts_come_at_the_programmed_rate) {
  Board board;
  board.init_pics(1);
  board.out(0x43, 0x34);
  board.out(0x40, 11932 & 0xff);  // 100 Hz
  board.out(0x40, 11932 >> 8);
  unsigned ticks = 0;
  for (int ms = 0; ms < 1000; ++ms) {
    board.run_for(1'000'000);
    if (board.take() == 0x20) {
      ++ticks;
      board.out(0x20, 0x20);
    }
  }
  // One as OUT goes high with the control word, and the ends of the periods that began one clock after the count.
  EXPECT_EQ(ticks, 1u + (1193182 - 1) / 11932);
}

TEST(PcBoard, rtc_starts_with_the_wall_clock_it_is_given) {
  Board board(1, 1'000'000'000);  // 2001-09-09 01:46:40
  const auto get = [&board](unsigned index) {
    board.out(0x70, index);
    return board.in(0x71);
  };
  EXPECT_EQ(get(9), 0x01);
  EXPECT_EQ(get(8), 0x09);
  EXPECT_EQ(get(4), 0x01);
  EXPECT_EQ(get(2), 0x46);
  EXPECT_EQ(get(0), 0x40);
}

TEST(PcBoard, nothing_is_due_in_a_machine_that_has_programmed_nothing) {
  Board board(4);
  EXPECT_EQ(board.deadlines.next(), kNever);
}

}  // namespace
}  // namespace retrovisor::test
