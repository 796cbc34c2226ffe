// Keyboard controller, reset control, ACPI fixed hardware, debug ports.
#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

#include "tests/unit/devices/board.h"
#include "vmm/devices/ticks.h"

namespace retrovisor::test {
namespace {

class SystemPorts : public ::testing::Test {
 protected:
  void expect_stop(StopReason reason, uint64_t detail) {
    ASSERT_EQ(board.control.stops.size(), 1u);
    EXPECT_EQ(board.control.stops[0].reason, reason);
    EXPECT_EQ(board.control.stops[0].detail, detail);
  }
  uint8_t irr() {
    board.out(0x20, 0x0a);
    return board.in(0x20);
  }
  // A command to the keyboard controller and its answer.
  uint8_t ask(unsigned command) {
    board.out(0x64, command);
    EXPECT_EQ(board.in(0x64) & 1, 1);
    return board.in(0x60);
  }
  Board board;
};

TEST_F(SystemPorts, keyboard_controller_passes_its_tests) {
  EXPECT_EQ(ask(0xaa), 0x55);
  EXPECT_EQ(ask(0xab), 0x00);
  EXPECT_EQ(ask(0xa9), 0x00);
  EXPECT_EQ(board.in(0x64) & 0x17, 0x14);  // nothing more; system flag, not locked
}

TEST_F(SystemPorts, keyboard_controller_keeps_its_command_byte) {
  board.out(0x64, 0x60);
  board.out(0x60, 0x47);
  EXPECT_EQ(ask(0x20), 0x47);
  board.out(0x64, 0xa7);
  board.out(0x64, 0xad);
  EXPECT_EQ(ask(0x20), 0x77);
  board.out(0x64, 0xa8);
  board.out(0x64, 0xae);
  EXPECT_EQ(ask(0x20), 0x47);
}

TEST_F(SystemPorts, absent_keyboard_answers_with_a_time_out_and_an_interrupt) {
  board.init_pics();
  board.out(0x64, 0x60);
  board.out(0x60, 0x01);
  board.out(0x60, 0xf2);
  EXPECT_EQ(board.in(0x64) & 0x61, 0x41);
  EXPECT_EQ(irr(), 0x02);
  EXPECT_EQ(board.in(0x60), 0xfe);
  EXPECT_EQ(irr(), 0x00);
}

TEST_F(SystemPorts, auxiliary_loop_back_and_absent_mouse) {
  board.init_pics();
  board.out(0x64, 0x60);
  board.out(0x60, 0x02);
  board.out(0x64, 0xd3);
  board.out(0x60, 0x5a);
  EXPECT_EQ(board.in(0x64) & 0x61, 0x21);
  board.out(0xa0, 0x0a);
  EXPECT_EQ(board.in(0xa0), 0x10);  // IRQ 12
  EXPECT_EQ(board.in(0x60), 0x5a);
  board.out(0x64, 0xd4);
  board.out(0x60, 0xff);
  EXPECT_EQ(board.in(0x64) & 0x61, 0x61);
  EXPECT_EQ(board.in(0x60), 0xfe);
}

TEST_F(SystemPorts, keyboard_queue_is_bounded) {
  for (int i = 0; i < 1000; ++i) {
    board.out(0x64, 0xd2);
    board.out(0x60, static_cast<unsigned>(i) & 0xff);
  }
  int bytes = 0;
  while ((board.in(0x64) & 1) != 0) EXPECT_EQ(board.in(0x60), bytes++);
  EXPECT_EQ(bytes, 8);
}

TEST_F(SystemPorts, keyboard_controller_pulse_resets) {
  board.out(0x64, 0xff);
  EXPECT_TRUE(board.control.stops.empty());
  board.out(0x64, 0xfe);
  expect_stop(StopReason::reset, 0xfe);
}

TEST_F(SystemPorts, keyboard_output_port_resets_and_holds_a20) {
  board.out(0x64, 0xd1);
  board.out(0x60, 0x01);
  EXPECT_EQ(ask(0xd0), 0x01);
  EXPECT_EQ(board.in(0x92), 0x00);
  board.out(0x92, 0x02);
  EXPECT_EQ(ask(0xd0), 0x03);
  EXPECT_TRUE(board.control.stops.empty());
  board.out(0x64, 0xd1);
  board.out(0x60, 0x02);
  expect_stop(StopReason::reset, 0x02);
}

TEST_F(SystemPorts, port_92_resets) {
  board.out(0x92, 0x03);
  expect_stop(StopReason::reset, 0x03);
}

TEST_F(SystemPorts, reset_control_resets_on_the_rising_edge_of_rcpu) {
  board.out(0xcf9, 0x02);
  EXPECT_EQ(board.in(0xcf9), 0x02);
  EXPECT_TRUE(board.control.stops.empty());
  board.out(0xcf9, 0x06);
  expect_stop(StopReason::reset, 0x06);
  board.out(0xcf9, 0x06);
  EXPECT_EQ(board.control.stops.size(), 1u);
}

// What stands in CMOS register 0Fh and in 40:67 when a reset comes.
class ShutdownCodes : public SystemPorts {
 protected:
  void set(unsigned code, uint16_t segment, uint16_t offset) {
    board.out(0x70, 0x0f);
    board.out(0x71, code);
    for (unsigned i = 0; i < 2; ++i) {
      board.memory().write(PhysAddr(0x467 + i), std::array{static_cast<uint8_t>(offset >> 8 * i)});
      board.memory().write(PhysAddr(0x469 + i), std::array{static_cast<uint8_t>(segment >> 8 * i)});
    }
  }
  unsigned code() {
    board.out(0x70, 0x0f);
    return board.in(0x71);
  }
  std::vector<uint8_t> start_code() {
    std::vector<uint8_t> bytes(13);
    board.memory().read(PhysAddr(machine_map::kRestartCode), bytes);
    return bytes;
  }
  void expect_restart() {
    EXPECT_TRUE(board.control.stops.empty());
    const CpuState& s = board.vcpu().state;
    EXPECT_TRUE(s.init_pending && s.sipi_pending);
    EXPECT_EQ(uint64_t{s.sipi_vector} << 12, machine_map::kRestartCode);
    EXPECT_EQ(code(), 0u);
  }
};

TEST_F(ShutdownCodes, jump_goes_on_at_the_pointer_without_eoi) {
  set(0x0a, 0x1234, 0x5678);
  board.out(0x64, 0xfe);
  expect_restart();
  EXPECT_EQ(start_code(), (std::vector<uint8_t>{0xea, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_F(ShutdownCodes, jump_with_eoi_goes_on_behind_one_for_each_8259) {
  set(0x05, 0x1234, 0x5678);
  board.out(0x92, 0x01);
  expect_restart();
  EXPECT_EQ(start_code(),
            (std::vector<uint8_t>{0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0xb0, 0x00, 0xea, 0x78, 0x56, 0x34, 0x12}));
}

TEST_F(ShutdownCodes, iret_and_retf_go_on_from_the_stack_at_the_pointer) {
  for (const auto& [value, last] : {std::pair<unsigned, uint8_t>{0x0b, 0xcf}, {0x0c, 0xcb}}) {
    set(value, 0x1234, 0x5678);
    board.out(0x64, 0xfe);
    expect_restart();
    EXPECT_EQ(start_code(), (std::vector<uint8_t>{0xb8, 0x34, 0x12, 0x8e, 0xd0, 0xbc, 0x78, 0x56, 0xb8, 0, 0, last, 0}));
    board.vcpu().state.init_pending = board.vcpu().state.sipi_pending = false;
  }
}

TEST_F(ShutdownCodes, every_reset_of_the_processors_alone_looks_at_the_code) {
  const auto fresh = [this] { board.vcpu().state.init_pending = board.vcpu().state.sipi_pending = false; };
  set(0x0a, 1, 2);
  board.out(0x64, 0xd1);
  board.out(0x60, 0x02);
  expect_restart();
  fresh();
  set(0x0a, 1, 2);
  board.out(0xcf9, 0x04);
  expect_restart();
}

TEST_F(ShutdownCodes, all_others_and_a_hard_reset_end_the_run) {
  for (unsigned value = 0; value < 256; ++value) {
    if (value == 0x05 || (value >= 0x0a && value <= 0x0c)) continue;
    set(value, 1, 2);
    board.out(0x64, 0xfe);
    expect_stop(StopReason::reset, 0xfe);
    board.control.stops.clear();
    EXPECT_EQ(code(), value);
  }
  set(0x0a, 1, 2);
  board.out(0xcf9, 0x06);
  expect_stop(StopReason::reset, 0x06);
  EXPECT_FALSE(board.vcpu().state.init_pending);
}

TEST_F(ShutdownCodes, other_processors_wait_for_a_start_up_ipi_again) {
  Board two(2);
  two.vcpu(1).state.activity = Activity::running;
  two.vcpu(1).state.sipi_pending = true;
  two.out(0x70, 0x0f);
  two.out(0x71, 0x0a);
  two.out(0x64, 0xfe);
  for (uint32_t id = 0; id < 2; ++id) {
    Vcpu& v = two.vcpu(id);
    EXPECT_TRUE(v.state.init_pending);
    EXPECT_EQ(v.state.after_init(v.id).activity, Activity::wait_for_sipi);
    EXPECT_EQ(v.state.sipi_pending, id == 0);
  }
}

TEST_F(SystemPorts, pci_configuration_mechanism_is_absent) {
  board.ports.write(board.running, 0xcf8, 4, 0x80000600);  // would be a reset if its second byte reached 0xcf9
  EXPECT_TRUE(board.control.stops.empty());
  EXPECT_EQ(board.ports.read(board.running, 0xcf8, 4), 0xffffffffu);
  EXPECT_EQ(board.ports.read(board.running, 0xcf8, 2), 0xffffu);
  EXPECT_EQ(board.ports.read(board.running, 0xcf9, 2), 0xffffu);
  EXPECT_EQ(board.ports.read(board.running, 0xcfc, 4), 0xffffffffu);
  EXPECT_EQ(board.in(0xcf8), 0xff);
}

TEST_F(SystemPorts, sleep_type_5_switches_off_and_others_do_nothing) {
  EXPECT_EQ(board.ports.read(board.running, 0x604, 2), 1u);  // SCI_EN
  board.ports.write(board.running, 0x604, 2, 0x2001 | 3 << 10);
  EXPECT_TRUE(board.control.stops.empty());
  board.ports.write(board.running, 0x604, 2, 0x0001 | 5 << 10);
  EXPECT_TRUE(board.control.stops.empty());
  EXPECT_EQ(board.ports.read(board.running, 0x604, 2), 1u | 5 << 10);
  board.ports.write(board.running, 0x604, 2, 0x2001 | 5 << 10);
  expect_stop(StopReason::power_off, 0);
}

TEST_F(SystemPorts, power_management_timer_counts_3579545_hz) {
  board.run_for(1'000'000'000);
  EXPECT_EQ(board.ports.read(board.running, 0x608, 4), 3579545u);
  board.run_for(uint64_t{3600} * 1'000'000'000);
  EXPECT_EQ(board.ports.read(board.running, 0x608, 4), static_cast<uint32_t>(uint64_t{3601} * 3579545));
  board.ports.write(board.running, 0x608, 4, 0);
  EXPECT_EQ(board.ports.read(board.running, 0x608, 4), static_cast<uint32_t>(uint64_t{3601} * 3579545));
}

TEST_F(SystemPorts, power_management_timer_raises_sci_when_its_top_bit_changes) {
  board.init_pics(1u << 9 | 4);
  const uint64_t carry = TickClock(3579545).time_of(uint64_t{1} << 31).value;
  EXPECT_EQ(board.ports.read(board.running, 0x600, 4), 0u);
  board.ports.write(board.running, 0x602, 2, 1);
  EXPECT_EQ(board.deadlines.next(), VirtualTime(carry));
  board.run_to(carry - 1);
  EXPECT_EQ(board.take(), -1);
  board.run_to(carry);
  EXPECT_EQ(board.take(), 0x29);
  EXPECT_EQ(board.ports.read(board.running, 0x600, 4), 0x10001u);
  board.ports.write(board.running, 0x600, 2, 1);
  EXPECT_EQ(board.ports.read(board.running, 0x600, 2), 0u);
  EXPECT_EQ(board.deadlines.next(), VirtualTime(TickClock(3579545).time_of(uint64_t{2} << 31)));
  board.ports.write(board.running, 0x602, 2, 0);
  board.run_for(2 * carry);
  EXPECT_EQ(board.ports.read(board.running, 0x600, 2), 1u);  // status tells without the interrupt
  board.out(0xa0, 0x20);
  board.out(0x20, 0x20);
  EXPECT_EQ(board.take(), -1);
}

TEST_F(SystemPorts, debug_exit_takes_every_width) {
  board.ports.write(board.running, 0xf4, 1, 0x10);
  board.ports.write(board.running, 0xf4, 2, 0x1234);
  board.ports.write(board.running, 0xf4, 4, 0x80000000);
  ASSERT_EQ(board.control.stops.size(), 3u);
  EXPECT_EQ(board.control.stops[0].detail, 0x21u);
  EXPECT_EQ(board.control.stops[1].detail, 0x2469u);
  EXPECT_EQ(board.control.stops[2].detail, 0x100000001u);
  EXPECT_EQ(board.control.stops[0].reason, StopReason::debug_exit);
}

TEST_F(SystemPorts, debug_consoles_tell_that_they_are_there_and_write) {
  EXPECT_EQ(board.in(0xe9), 0xe9);
  EXPECT_EQ(board.in(0x402), 0xe9);
  board.out(0xe9, 'a');
  board.out(0x402, 'b');
  EXPECT_EQ(board.debug, "ab");
  EXPECT_EQ(board.serial, "");
}

}  // namespace
}  // namespace retrovisor::test
