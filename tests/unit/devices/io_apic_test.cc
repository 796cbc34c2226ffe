#include <gtest/gtest.h>

#include "tests/unit/devices/board.h"

namespace retrovisor::test {
namespace {

constexpr uint32_t kLevel = 1u << 15, kMasked = 1u << 16, kRemoteIrr = 1u << 14, kLogical = 1u << 11;

class IoApicTest : public ::testing::Test {
 protected:
  void SetUp() override {
    board.apic(0xf0, 0x1ff);
    board.out(0x3fc, 0x08);  // OUT2 of the serial port
  }
  void serial(bool on) {  // pin 4, through the THRE interrupt
    board.out(0x3f9, on ? 2 : 0);
  }
  void sci(bool on) {  // pin 9, through the PM timer
    if (on) {
      board.run_for(uint64_t{601} * 1'000'000'000);
      board.ports.write(board.running, 0x602, 2, 1);
    } else {
      board.ports.write(board.running, 0x602, 2, 0);
      board.ports.write(board.running, 0x600, 2, 1);
    }
  }
  Board board{2};
};

TEST_F(IoApicTest, tells_version_and_pins_and_starts_masked) {
  EXPECT_EQ(board.io_apic(1), 0x00170011u);
  for (uint32_t pin = 0; pin < 24; ++pin) EXPECT_EQ(board.io_apic(0x10 + 2 * pin), kMasked);
  EXPECT_EQ(board.io_apic(0x10 + 48), 0u);
  board.io_apic(0, 0xff000000);
  EXPECT_EQ(board.io_apic(0), 0x0f000000u);
  EXPECT_EQ(board.io_apic(2), 0x0f000000u);
  board.io_apic(0xff, 0xffffffff);  // no such register
}

TEST_F(IoApicTest, keeps_writable_bits_only) {
  board.io_apic(0x12, 0xffffffff);
  board.io_apic(0x13, 0xffffffff);
  EXPECT_EQ(board.io_apic(0x12), 0x1afffu);
  EXPECT_EQ(board.io_apic(0x13), 0xff000000u);
}

TEST_F(IoApicTest, delivers_an_edge_once) {
  board.redirect(4, 0x44);
  serial(true);
  EXPECT_EQ(board.take(), 0x44);
  board.apic(0xb0, 0);
  EXPECT_EQ(board.take(), -1);
  serial(false);
  serial(true);
  EXPECT_EQ(board.take(), 0x44);
}

TEST_F(IoApicTest, loses_an_edge_at_a_masked_pin) {
  board.redirect(4, 0x44 | kMasked);
  serial(true);
  board.redirect(4, 0x44);
  EXPECT_EQ(board.take(), -1);
}

TEST_F(IoApicTest, level_interrupt_repeats_until_the_line_falls) {
  board.redirect(9, 0x59 | kLevel);
  sci(true);
  EXPECT_EQ(board.take(), 0x59);
  EXPECT_EQ(board.io_apic(0x10 + 18), 0x59 | kLevel | kRemoteIrr);
  EXPECT_EQ(board.take(), -1);
  board.apic(0xb0, 0);
  EXPECT_EQ(board.take(), 0x59);
  sci(false);
  board.apic(0xb0, 0);
  EXPECT_EQ(board.take(), -1);
  EXPECT_EQ(board.io_apic(0x10 + 18), 0x59 | kLevel);
}

TEST_F(IoApicTest, masked_level_interrupt_comes_when_unmasked) {
  board.redirect(9, 0x59 | kLevel | kMasked);
  sci(true);
  EXPECT_EQ(board.take(), -1);
  board.redirect(9, 0x59 | kLevel);
  EXPECT_EQ(board.take(), 0x59);
}

TEST_F(IoApicTest, change_to_edge_clears_remote_irr) {
  board.redirect(9, 0x59 | kLevel);
  sci(true);
  board.take();
  board.redirect(9, 0x59 | kMasked);
  EXPECT_EQ(board.io_apic(0x10 + 18), 0x59 | kMasked);
}

TEST_F(IoApicTest, level_interrupt_nobody_takes_stays_pending) {
  board.redirect(9, 0x59 | kLevel, 7);  // no such processor
  sci(true);
  EXPECT_EQ(board.io_apic(0x10 + 18), 0x59 | kLevel);
  board.redirect(9, 0x59 | kLevel, 0);
  EXPECT_EQ(board.take(), 0x59);
}

TEST_F(IoApicTest, physical_and_logical_destinations) {
  board.on(1);
  board.apic(0xf0, 0x1ff);
  board.apic(0xd0, 0x02000000);
  board.on(0);
  board.apic(0xd0, 0x01000000);
  board.redirect(4, 0x44, 1);
  serial(true);
  EXPECT_EQ(board.take(0), -1);
  EXPECT_EQ(board.take(1), 0x44);
  serial(false);
  board.redirect(4, 0x45 | kLogical, 3);
  serial(true);
  EXPECT_EQ(board.take(0), 0x45);
  board.on(1);
  board.apic(0xb0, 0);
  EXPECT_EQ(board.take(1), 0x45);
}

TEST_F(IoApicTest, lowest_priority_goes_to_the_less_busy) {
  board.on(1);
  board.apic(0xf0, 0x1ff);
  board.on(0);
  board.apic(0x80, 0x30);
  board.redirect(4, 0x44 | 1 << 8, 0xff);
  serial(true);
  EXPECT_EQ(board.take(0), -1);
  EXPECT_EQ(board.take(1), 0x44);
}

TEST_F(IoApicTest, nmi_and_init_and_smi) {
  board.redirect(4, 4 << 8);
  serial(true);
  EXPECT_TRUE(board.vcpu().state.nmi_pending);
  serial(false);
  board.redirect(4, 5 << 8, 1);
  serial(true);
  EXPECT_TRUE(board.vcpu(1).state.init_pending);
  serial(false);
  board.redirect(4, 2 << 8);
  serial(true);
  EXPECT_EQ(board.take(), -1);
}

TEST_F(IoApicTest, timer_is_on_pin_2_and_the_pics_on_pin_0) {
  board.init_pics(1);
  board.apic(0x350, 0x10000);  // not through LINT0
  board.redirect(0, 7 << 8);   // ExtINT
  board.redirect(2, 0x42);
  board.out(0x43, 0x30);
  board.out(0x40, 100);
  board.out(0x40, 0);
  board.run_for(100'000);
  EXPECT_EQ(board.vcpu().interrupts->source(), InterruptSource::pic);
  EXPECT_EQ(board.take(), 0x20);
  EXPECT_EQ(board.vcpu().interrupts->source(), InterruptSource::local_apic);
  EXPECT_EQ(board.take(), 0x42);
}

TEST_F(IoApicTest, illegal_vectors_are_an_error_of_the_receiver) {
  board.redirect(9, 0x0f | kLevel);
  sci(true);
  EXPECT_EQ(board.take(), -1);
  board.apic(0x280, 0);
  EXPECT_EQ(board.apic(0x280), 0x40u);
}

}  // namespace
}  // namespace retrovisor::test
