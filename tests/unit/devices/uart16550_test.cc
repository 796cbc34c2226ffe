#include <gtest/gtest.h>

#include "tests/unit/devices/board.h"

namespace retrovisor::test {
namespace {

constexpr uint16_t kBase = machine_map::kSerialPort;
constexpr uint16_t RBR = kBase, THR = kBase, IER = kBase + 1, IIR = kBase + 2, FCR = kBase + 2, LCR = kBase + 3,
                   MCR = kBase + 4, LSR = kBase + 5, MSR = kBase + 6, SCR = kBase + 7;

class Uart : public ::testing::Test {
 protected:
  void SetUp() override {
    board.init_pics(1u << 4);
    board.out(MCR, 0x08);  // OUT2: lets interrupts out
  }
  void receive(std::string_view text) {
    board.board->receive(kPcConsole, std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  bool irq() {
    board.out(0x20, 0x0a);
    return (board.in(0x20) & 0x10) != 0;  // IRR of the PIC
  }
  size_t room() { return board.board->room(kPcConsole); }
  Board board;
};

TEST_F(Uart, sends_at_once_and_is_always_empty) {
  for (const char c : std::string("hello")) {
    EXPECT_EQ(board.in(LSR), 0x60);
    board.out(THR, static_cast<uint8_t>(c));
  }
  EXPECT_EQ(board.in(LSR), 0x60);
  EXPECT_EQ(board.serial, "hello");
}

TEST_F(Uart, is_recognised_as_a_16550a) {
  board.out(SCR, 0x5a);
  EXPECT_EQ(board.in(SCR), 0x5a);
  EXPECT_EQ(board.in(IIR), 0x01);  // FIFOs off
  board.out(FCR, 0x01);
  EXPECT_EQ(board.in(IIR), 0xc1);  // FIFOs on and usable
  board.out(FCR, 0x00);
  EXPECT_EQ(board.in(IIR), 0x01);
  board.out(IER, 0xff);
  EXPECT_EQ(board.in(IER), 0x0f);  // bits 7-4 always zero
}

TEST_F(Uart, divisor_is_behind_dlab_and_does_not_send) {
  board.out(LCR, 0x83);
  board.out(kBase, 0x34);
  board.out(IER, 0x12);
  EXPECT_EQ(board.in(kBase), 0x34);
  EXPECT_EQ(board.in(IER), 0x12);
  board.out(LCR, 0x03);
  EXPECT_EQ(board.in(IER), 0x00);
  EXPECT_EQ(board.serial, "");
}

TEST_F(Uart, thre_interrupt_comes_with_its_enable_and_is_cleared_by_reading_iir) {
  board.out(IER, 0x02);
  EXPECT_TRUE(irq());
  EXPECT_EQ(board.in(IIR), 0x02);
  EXPECT_FALSE(irq());
  EXPECT_EQ(board.in(IIR), 0x01);
  board.out(THR, 'x');  // empty again at once: the next one
  EXPECT_TRUE(irq());
  EXPECT_EQ(board.in(IIR), 0x02);
  board.out(IER, 0x02);  // was already enabled: no transition
  EXPECT_EQ(board.in(IIR), 0x01);
  board.out(IER, 0x00);
  board.out(IER, 0x02);
  EXPECT_EQ(board.in(IIR), 0x02);
}

TEST_F(Uart, reading_iir_for_a_higher_source_keeps_the_thre_interrupt) {
  board.out(IER, 0x03);
  receive("a");
  EXPECT_EQ(board.in(IIR), 0x04);
  EXPECT_EQ(board.in(RBR), 'a');
  EXPECT_EQ(board.in(IIR), 0x02);
  EXPECT_EQ(board.in(IIR), 0x01);
}

TEST_F(Uart, interrupt_needs_out2) {
  board.out(MCR, 0x00);
  board.out(IER, 0x02);
  EXPECT_FALSE(irq());
  board.out(MCR, 0x08);
  EXPECT_TRUE(irq());
}

TEST_F(Uart, receives_one_byte_at_a_time_without_fifos) {
  EXPECT_EQ(room(), 1u);
  receive("a");
  EXPECT_EQ(room(), 0u);
  EXPECT_EQ(board.in(LSR), 0x61);
  receive("b");  // nobody asked for it: overrun, the new character replaces the old
  EXPECT_EQ(board.in(LSR), 0x63);
  EXPECT_EQ(board.in(LSR), 0x61);  // OE is cleared by the read
  EXPECT_EQ(board.in(RBR), 'b');
  EXPECT_EQ(board.in(LSR), 0x60);
}

TEST_F(Uart, fifo_interrupts_at_its_trigger_level) {
  board.out(FCR, 0x81);  // 8 bytes
  board.out(IER, 0x01);
  EXPECT_EQ(room(), 16u);
  receive("0123456");
  EXPECT_FALSE(irq());
  EXPECT_EQ(board.in(IIR), 0xc1);
  receive("7");
  EXPECT_TRUE(irq());
  EXPECT_EQ(board.in(IIR), 0xc4);
  EXPECT_EQ(board.in(RBR), '0');
  EXPECT_FALSE(irq());  // below the level again
  EXPECT_EQ(room(), 9u);
}

TEST_F(Uart, fifo_keeps_order_and_drops_what_does_not_fit) {
  board.out(FCR, 0x01);
  receive("0123456789abcdefOVER");
  EXPECT_EQ(room(), 0u);
  EXPECT_EQ(board.in(LSR) & 0x02, 0x02);
  std::string got;
  while ((board.in(LSR) & 1) != 0) got.push_back(static_cast<char>(board.in(RBR)));
  EXPECT_EQ(got, "0123456789abcdef");
}

TEST_F(Uart, time_out_interrupt_comes_after_four_characters) {
  board.out(LCR, 0x83);
  board.out(kBase, 1);  // 115200 baud
  board.out(IER, 0);
  board.out(LCR, 0x03);  // 8N1: 10 bits
  board.out(FCR, 0xc1);
  board.out(IER, 0x01);
  receive("abc");
  constexpr uint64_t kFourCharacters = 40 * uint64_t{1'000'000'000} / 115200;
  board.run_for(kFourCharacters - 1);
  EXPECT_FALSE(irq());
  board.run_for(1);
  EXPECT_TRUE(irq());
  EXPECT_EQ(board.in(IIR), 0xcc);
  EXPECT_EQ(board.in(RBR), 'a');  // a read starts the wait anew
  EXPECT_FALSE(irq());
  EXPECT_EQ(board.in(IIR), 0xc1);
  board.run_for(kFourCharacters);
  EXPECT_EQ(board.in(IIR), 0xcc);
  EXPECT_EQ(board.in(RBR), 'b');
  EXPECT_EQ(board.in(RBR), 'c');
  board.run_for(kFourCharacters);
  EXPECT_EQ(board.in(IIR), 0xc1);
  EXPECT_EQ(board.deadlines.next(), kNever);
}

TEST_F(Uart, resetting_the_receiver_empties_it) {
  board.out(FCR, 0x01);
  receive("abc");
  board.out(FCR, 0x03);
  EXPECT_EQ(board.in(LSR) & 1, 0);
  receive("d");
  EXPECT_EQ(board.in(RBR), 'd');
  receive("e");
  board.out(FCR, 0x00);  // switching the FIFOs off empties them too
  EXPECT_EQ(board.in(LSR) & 1, 0);
}

TEST_F(Uart, line_status_has_the_highest_priority) {
  board.out(IER, 0x0f);
  receive("ab");
  board.out(MCR, 0x18);
  board.out(MCR, 0x08);  // leaves modem deltas
  EXPECT_EQ(board.in(IIR), 0x06);
  board.in(LSR);
  EXPECT_EQ(board.in(IIR), 0x04);
  board.in(RBR);
  EXPECT_EQ(board.in(IIR), 0x02);
  EXPECT_EQ(board.in(IIR), 0x00);
  board.in(MSR);
  EXPECT_EQ(board.in(IIR), 0x01);
}

TEST_F(Uart, loopback_connects_sender_and_modem_lines_and_cuts_off_the_outside) {
  EXPECT_EQ(board.in(MSR), 0xb0);  // a terminal is there
  board.out(FCR, 0x01);
  board.out(MCR, 0x1b);            // LOOP, OUT2, RTS, DTR
  EXPECT_EQ(board.in(MSR) & 0xf0, 0xb0);
  board.out(MCR, 0x14);            // LOOP, OUT1
  EXPECT_EQ(board.in(MSR), 0x4b);  // RI on; CTS, DSR, DCD have changed
  EXPECT_EQ(board.in(MSR), 0x40);
  board.out(MCR, 0x10);
  EXPECT_EQ(board.in(MSR), 0x04);  // trailing edge of RI
  EXPECT_EQ(room(), 0u);
  receive("lost");
  board.out(THR, 'x');
  EXPECT_EQ(board.in(RBR), 'x');
  EXPECT_EQ(board.in(LSR), 0x60);
  EXPECT_EQ(board.serial, "");
  for (int i = 0; i < 17; ++i) board.out(THR, 'y');
  EXPECT_EQ(board.in(LSR), 0x63);  // 16 fit
}

}  // namespace
}  // namespace retrovisor::test
