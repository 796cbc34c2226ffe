// Sleep to RAM, through the bus and guest memory.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "tests/unit/devices/board.h"
#include "vmm/board/device_type.h"

namespace retrovisor::test {
namespace {

constexpr uint16_t kStatus = 0x600, kEnable = 0x602, kControl = 0x604;
constexpr unsigned TMR = 1, RTC = 0x400, WAK = 0x8000;
constexpr uint64_t kSecond = 1'000'000'000;

DeviceList with_s3() {
  DeviceList list = pc_devices();
  RV_ASSERT(add_device(list, {"acpi-pm", {{"s3", "on"}}}).ok());
  return list;
}

// The tables as small as they can be.
constexpr uint64_t kRsdt = 0x20000, kFadt = 0x21000, kFacs = 0x22000;

class SleepToRam : public ::testing::Test {
 protected:
  explicit SleepToRam(uint32_t vcpus = 2) : board(vcpus, 0, with_s3()) {
    text(machine_map::kRsdp, "RSD PTR ");
    number(machine_map::kRsdp + 16, kRsdt);
    text(kRsdt, "RSDT");
    number(kRsdt + 4, 36 + 8);
    number(kRsdt + 36, kRsdt);  // another table
    number(kRsdt + 40, kFadt);
    text(kFadt, "FACP");
    number(kFadt + 36, kFacs);
    text(kFacs, "FACS");
    number(kFacs + 12, 0x12345);
  }
  void text(uint64_t at, std::string_view s) {
    board.memory().write(PhysAddr(at), std::span(reinterpret_cast<const uint8_t*>(s.data()), s.size()));
  }
  void number(uint64_t at, uint32_t v) {
    for (unsigned i = 0; i < 4; ++i) board.memory().write(PhysAddr(at + i), std::array{static_cast<uint8_t>(v >> 8 * i)});
  }
  void out16(uint16_t port, unsigned value) { board.ports.write(board.running, port, 2, value); }
  unsigned in16(uint16_t port) { return static_cast<unsigned>(board.ports.read(board.running, port, 2)); }
  // An alarm at each second; the first is less than a second away.
  void alarm_each_second() {
    for (const unsigned index : {1u, 3u, 5u}) cmos(index, 0xff);
    cmos(0x0b, 0x22);
  }
  void cmos(unsigned index, unsigned value) {
    board.out(0x70, index);
    board.out(0x71, value);
  }
  void sleep() { out16(kControl, 1 | 1 << 10 | 1 << 13); }
  bool all(Activity activity) {
    for (const auto& v : board.vcpus)
      if (v->state.activity != activity || v->state.init_pending != (activity == Activity::halted)) return false;
    return true;
  }
  void expect_asleep() {
    EXPECT_TRUE(all(Activity::wait_for_sipi));
    for (const auto& v : board.vcpus) EXPECT_FALSE(has_work(*v));
    EXPECT_TRUE(board.control.stops.empty());
  }
  void expect_awake() {
    EXPECT_TRUE(all(Activity::halted));
    EXPECT_EQ(in16(kStatus) & WAK, WAK);
    EXPECT_TRUE(board.control.stops.empty());
    const CpuState& s = board.vcpu().state;
    ASSERT_TRUE(s.sipi_pending);
    std::vector<uint8_t> code(5);
    board.memory().read(PhysAddr(uint64_t{s.sipi_vector} << 12), code);
    EXPECT_EQ(code, (std::vector<uint8_t>{0xea, 0x05, 0x00, 0x34, 0x12}));  // 1234:0005
  }
  void expect_reset() {
    ASSERT_EQ(board.control.stops.size(), 1u);
    EXPECT_EQ(board.control.stops[0].reason, StopReason::reset);
    EXPECT_FALSE(board.vcpu().state.sipi_pending);
  }

  Board board;
};

TEST_F(SleepToRam, the_clock_s_alarm_wakes_at_the_waking_vector) {
  out16(kEnable, RTC);
  alarm_each_second();
  sleep();
  expect_asleep();
  board.run_for(kSecond);
  expect_awake();
  EXPECT_EQ(in16(kStatus), WAK | RTC);
  out16(kStatus, WAK | RTC);
  EXPECT_EQ(in16(kStatus), 0u);
}

TEST_F(SleepToRam, the_timer_wakes) {
  out16(kEnable, TMR);
  sleep();
  board.run_for(599 * kSecond);  // bit 31 changes each 599.9 s
  expect_asleep();
  board.run_for(2 * kSecond);
  expect_awake();
  EXPECT_EQ(in16(kStatus), WAK | TMR);
}

TEST_F(SleepToRam, what_is_not_enabled_does_not_wake) {
  alarm_each_second();
  sleep();
  board.run_for(5 * kSecond);
  expect_asleep();
  EXPECT_EQ(in16(kStatus), RTC);
}

TEST_F(SleepToRam, what_has_happened_before_wakes_at_once) {
  out16(kEnable, RTC);
  alarm_each_second();
  board.run_for(kSecond);
  sleep();
  expect_awake();
}

TEST_F(SleepToRam, a_clock_s_interrupt_that_stays_is_one_event) {
  alarm_each_second();
  board.run_for(kSecond);
  out16(kStatus, RTC);
  board.run_for(3 * kSecond);  // register C was not read
  EXPECT_EQ(in16(kStatus) & RTC, 0u);
}

TEST_F(SleepToRam, a_sleep_is_state) {
  out16(kEnable, RTC);
  alarm_each_second();
  sleep();
  const auto state = board.save();
  Board other(2, 0, with_s3());
  ASSERT_TRUE(other.restore(state).ok());
  EXPECT_EQ(other.save(), state);
  board.run_for(kSecond);
  const auto awake = board.save();
  ASSERT_TRUE(board.restore(state).ok());
  board.control.stops.clear();
  sleep();  // the vCPUs are not the board's state
  board.run_for(kSecond);
  EXPECT_EQ(board.save(), awake);
}

TEST_F(SleepToRam, tables_that_lead_nowhere_are_a_reset) {
  struct Field {
    uint64_t at;
    uint32_t bad;
  };
  const Field fields[] = {{machine_map::kRsdp, 0},     {machine_map::kRsdp + 16, 0xfffffffe}, {machine_map::kRsdp + 16, 0xfee00000},
                          {kRsdt, 0},                  {kRsdt + 4, 0},                        {kRsdt + 4, 35},
                          {kRsdt + 4, 36 + 4},         {kRsdt + 40, 0xffffffff},              {kFadt, 0},
                          {kFadt + 36, 0xfffffffd},    {kFacs, 0},                            {kFacs + 12, 0},
                          {kFacs + 12, 0x100000},      {kFacs + 12, 0xffffffff}};
  out16(kEnable, RTC);
  alarm_each_second();
  board.run_for(kSecond);
  for (const Field& f : fields) {
    std::vector<uint8_t> good(4);
    board.memory().read(PhysAddr(f.at), good);
    number(f.at, f.bad);
    SCOPED_TRACE(f.at);
    sleep();
    expect_reset();
    board.control.stops.clear();
    board.memory().write(PhysAddr(f.at), good);
  }
  number(kRsdt + 4, 0xffffffff);  // longer than there is memory: what is looked at is bounded
  sleep();
  expect_awake();
}

TEST(NoSleepToRam, without_the_option_nothing_of_it_is_there) {
  Board board;
  board.ports.write(board.running, kEnable, 2, RTC);
  board.out(0x70, 0x01);
  board.out(0x71, 0xff);
  board.out(0x70, 0x03);
  board.out(0x71, 0xff);
  board.out(0x70, 0x05);
  board.out(0x71, 0xff);
  board.out(0x70, 0x0b);
  board.out(0x71, 0x22);
  board.ports.write(board.running, kControl, 2, 1 | 1 << 10 | 1 << 13);
  EXPECT_EQ(board.vcpu().state.activity, Activity::running);
  board.run_for(2 * kSecond);
  EXPECT_EQ(board.ports.read(board.running, kStatus, 2), 0u);
  const auto state = board.save();
  EXPECT_FALSE(Board(1, 0, with_s3()).restore(state).ok());
}

}  // namespace
}  // namespace retrovisor::test
