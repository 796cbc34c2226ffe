#include <gtest/gtest.h>

#include "tests/unit/devices/board.h"
#include "vmm/devices/pic8259.h"

namespace retrovisor::test {
namespace {

// The pair alone on a bus, its lines in the hands of the test.
class Pic : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const uint16_t port : {uint16_t{0x20}, uint16_t{0xa0}, uint16_t{0x4d0}}) RV_ASSERT(board.ports.map({.first = port, .count = 2, .device = &pic}).ok());
    pic.reset({});
    init();
  }
  void init(uint8_t icw4_master = 1, uint8_t icw4_slave = 1) {
    initialise(0x20, 0x20, 0x04, icw4_master);
    initialise(0xa0, 0x28, 0x02, icw4_slave);
  }
  void initialise(uint16_t base, unsigned icw2, unsigned icw3, unsigned icw4) {
    board.out(base, 0x11);
    for (const unsigned value : {icw2, icw3, icw4, 0u}) board.out(static_cast<uint16_t>(base + 1), value);
  }
  void set(unsigned line, bool level = true) { pic.set_irq(line, level); }
  void pulse(unsigned line) {
    set(line, false);
    set(line, true);
  }
  int take() { return pic.intr() ? pic.acknowledge() : -1; }
  uint8_t irr(uint16_t base = 0x20) {
    board.out(base, 0x0a);
    return board.in(base);
  }
  uint8_t isr(uint16_t base = 0x20) {
    board.out(base, 0x0b);
    return board.in(base);
  }
  void eoi(uint16_t base = 0x20) { board.out(base, 0x20); }

  BareBoard board;
  LineRecorder output;
  Pic8259 pic{IrqLine(output, 0)};
};

TEST_F(Pic, delivers_the_vector_of_a_line_and_holds_it_in_service) {
  set(3);
  EXPECT_TRUE(output.levels[0]);
  EXPECT_EQ(irr(), 0x08);
  EXPECT_EQ(take(), 0x23);
  EXPECT_EQ(irr(), 0x00);
  EXPECT_EQ(isr(), 0x08);
  EXPECT_EQ(take(), -1);
  eoi();
  EXPECT_EQ(isr(), 0x00);
  EXPECT_EQ(take(), -1);  // edge: the line is still high, but asks only once
}

TEST_F(Pic, is_silent_until_somebody_unmasks_it_after_reset) {
  pic.reset({});
  set(0);
  set(8);
  EXPECT_EQ(take(), -1);
  EXPECT_EQ(board.in(0x21), 0xff);
  EXPECT_EQ(board.in(0xa1), 0xff);
}

TEST(PicByBios, takes_interrupts_at_the_vectors_of_a_pc_without_being_initialised) {
  DeviceList devices = pc_devices();
  ASSERT_TRUE(add_device(devices, parse_device("pic8259,bios=on").value()).ok());
  EXPECT_EQ(devices.size(), pc_devices().size()) << "the one that there is, with another option";
  Board b(1, 0, devices);
  EXPECT_EQ(b.in(0x21), 0xf8);
  EXPECT_EQ(b.in(0xa1), 0xce);
  Pic8259 pic{IrqLine{}, true};
  pic.reset({});
  pic.set_irq(0, true);
  ASSERT_TRUE(pic.intr());
  EXPECT_EQ(pic.acknowledge(), 8);
  pic.set_irq(8, true);
  EXPECT_FALSE(pic.intr()) << "behind the one in service";
  BusAccess eoi;
  eoi.address = 0x20;
  pic.write(eoi, 0x20);
  ASSERT_TRUE(pic.intr());
  EXPECT_EQ(pic.acknowledge(), 0x70);
}

TEST_F(Pic, lower_priorities_wait_and_higher_ones_nest) {
  set(4);
  EXPECT_EQ(take(), 0x24);
  set(5);
  EXPECT_EQ(take(), -1);
  set(1);
  EXPECT_EQ(take(), 0x21);
  EXPECT_EQ(isr(), 0x12);
  eoi();  // of IR1, the highest
  EXPECT_EQ(isr(), 0x10);
  EXPECT_EQ(take(), -1);
  eoi();
  EXPECT_EQ(take(), 0x25);
}

TEST_F(Pic, slave_requests_come_through_line_2) {
  set(12);
  set(3);
  EXPECT_EQ(take(), 0x2c);  // IR2 is above IR3
  EXPECT_EQ(isr(), 0x04);
  EXPECT_EQ(isr(0xa0), 0x10);
  eoi(0xa0);
  EXPECT_EQ(take(), -1);
  eoi();
  EXPECT_EQ(take(), 0x23);
}

TEST_F(Pic, a_second_slave_request_follows_the_first) {
  set(8);
  set(14);
  EXPECT_EQ(take(), 0x28);
  eoi(0xa0);
  eoi();
  EXPECT_EQ(take(), 0x2e);
}

TEST_F(Pic, masks_hold_requests_back_without_losing_them) {
  board.out(0x21, 0x08);
  set(3);
  EXPECT_EQ(take(), -1);
  EXPECT_EQ(irr(), 0x08);
  board.out(0x21, 0x00);
  EXPECT_EQ(take(), 0x23);
}

TEST_F(Pic, an_edge_request_that_goes_away_is_dropped) {
  set(3);
  set(3, false);
  EXPECT_FALSE(output.levels[0]);
  EXPECT_EQ(irr(), 0);
}

TEST_F(Pic, acknowledging_nothing_gives_the_spurious_vector_and_no_service) {
  EXPECT_EQ(pic.acknowledge(), 0x27);
  EXPECT_EQ(isr(), 0);
}

TEST_F(Pic, level_lines_ask_for_as_long_as_they_are_high) {
  board.out(0x4d0, 0x20);
  EXPECT_EQ(board.in(0x4d0), 0x20);
  set(5);
  EXPECT_EQ(take(), 0x25);
  EXPECT_EQ(irr(), 0x20);
  eoi();
  EXPECT_EQ(take(), 0x25);
  set(5, false);
  eoi();
  EXPECT_EQ(take(), -1);
}

TEST_F(Pic, elcr_keeps_timer_keyboard_cascade_and_rtc_edge_triggered) {
  board.out(0x4d0, 0xff);
  board.out(0x4d1, 0xff);
  EXPECT_EQ(board.in(0x4d0), 0xf8);
  EXPECT_EQ(board.in(0x4d1), 0xde);
  EXPECT_EQ(Pic8259(IrqLine()).intr(), false);
}

TEST_F(Pic, specific_eoi_ends_that_level_only) {
  set(4);
  take();
  set(1);
  take();
  board.out(0x20, 0x64);  // EOI of IR4
  EXPECT_EQ(isr(), 0x02);
}

TEST_F(Pic, rotation_on_eoi_gives_the_served_line_the_lowest_priority) {
  set(0);
  EXPECT_EQ(take(), 0x20);
  board.out(0x20, 0xa0);  // rotate on non-specific EOI: IR0 is lowest, IR1 highest
  pulse(0);
  set(5);
  EXPECT_EQ(take(), 0x25);
  board.out(0x20, 0xe5);  // rotate on specific EOI: IR5 lowest
  pulse(5);
  EXPECT_EQ(take(), 0x20);
}

TEST_F(Pic, set_priority_command_makes_a_line_the_lowest) {
  board.out(0x20, 0xc4);  // IR4 lowest: IR5 is highest
  set(0);
  set(4);
  set(5);
  set(6);
  for (const int expected : {0x25, 0x26, 0x20, 0x24}) {
    EXPECT_EQ(take(), expected);
    eoi();
  }
}

TEST_F(Pic, automatic_eoi_needs_no_command) {
  init(3);
  set(3);
  set(4);
  EXPECT_EQ(take(), 0x23);
  EXPECT_EQ(isr(), 0);
  EXPECT_EQ(take(), 0x24);
  EXPECT_EQ(output.rises[0], 2u);  // the output pulses between the two
}

TEST_F(Pic, automatic_eoi_can_rotate) {
  init(3);
  board.out(0x20, 0x80);
  set(3);
  EXPECT_EQ(take(), 0x23);
  pulse(3);
  set(7);
  EXPECT_EQ(take(), 0x27);  // IR3 is lowest now
  board.out(0x20, 0x00);
  EXPECT_EQ(take(), 0x23);
}

TEST_F(Pic, special_mask_mode_lets_lower_levels_through_a_masked_service) {
  set(2);  // the cascade is not ours to drive
  EXPECT_EQ(take(), -1);
  set(3);
  EXPECT_EQ(take(), 0x23);
  set(6);
  EXPECT_EQ(take(), -1);
  board.out(0x21, 0x08);
  board.out(0x20, 0x68);  // ESMM, SMM
  EXPECT_EQ(take(), 0x26);
  eoi();
  EXPECT_EQ(isr(), 0x08);  // a masked level is not ended by a non-specific EOI
  board.out(0x20, 0x48);
  eoi();
  EXPECT_EQ(isr(), 0x00);
}

TEST_F(Pic, special_fully_nested_mode_lets_the_slave_interrupt_itself) {
  set(14);
  EXPECT_EQ(take(), 0x2e);
  set(9);
  EXPECT_EQ(take(), -1);  // plain mode: the master's IR2 is in service
  init(0x11, 1);
  set(14, false);
  set(9, false);
  set(14);
  EXPECT_EQ(take(), 0x2e);
  set(5);
  EXPECT_EQ(take(), -1);
  set(9);
  EXPECT_EQ(take(), 0x29);
}

TEST_F(Pic, poll_acknowledges_and_tells_the_level) {
  board.out(0x20, 0x0c);
  EXPECT_EQ(board.in(0x20), 0x00);
  set(4);
  board.out(0x20, 0x0c);
  EXPECT_EQ(board.in(0x20), 0x84);
  EXPECT_EQ(isr(), 0x10);
  EXPECT_EQ(take(), -1);
}

TEST_F(Pic, initialisation_forgets_requests_until_the_next_edge) {
  set(3);
  board.out(0x21, 0xff);
  init();
  EXPECT_EQ(irr(), 0);
  EXPECT_EQ(take(), -1);
  pulse(3);
  EXPECT_EQ(take(), 0x23);
}

TEST_F(Pic, restores_every_state_it_saves_and_rejects_impossible_ones) {
  set(3);
  take();
  set(12);
  StateWriter out;
  pic.save(out);
  const auto state = out.take();
  LineRecorder other_output;
  Pic8259 other{IrqLine(other_output, 0)};
  StateReader in(state);
  other.restore(in);
  ASSERT_TRUE(in.finish().ok());
  StateWriter again;
  other.save(again);
  EXPECT_EQ(again.take(), state);
  EXPECT_EQ(other.intr(), pic.intr());
  for (const StateField& field : state_fields(state)) {
    if (field.name != "pic8259.master_lowest") continue;
    std::vector<uint8_t> bad = state;
    const auto at = std::search(bad.begin(), bad.end(), field.name.begin(), field.name.end());
    *(at + static_cast<long>(field.name.size()) + 4) = 9;
    StateReader hostile(bad);
    other.restore(hostile);
    EXPECT_FALSE(hostile.finish().ok());
  }
}

}  // namespace
}  // namespace retrovisor::test
