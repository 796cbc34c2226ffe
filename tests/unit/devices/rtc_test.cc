#include <gtest/gtest.h>

#include <random>

#include "tests/unit/devices/board.h"
#include "vmm/devices/calendar.h"
#include "vmm/devices/rtc.h"
#include "vmm/devices/ticks.h"

namespace retrovisor::test {
namespace {

constexpr uint64_t kSecond = kNsPerSecond;
constexpr uint64_t kRam = uint64_t{5} << 30;

class RtcTest : public ::testing::Test {
 protected:
  void SetUp() override {
    RV_ASSERT(board.ports.map({.first = 0x70, .count = 2, .device = &rtc}).ok());
    rtc.reset({});
    set_wall_clock(951782399);  // 2000-02-28 23:59:59, a Monday
  }
  void set_wall_clock(uint64_t seconds) { rtc.set_time(seconds); }
  uint8_t get(unsigned index) {
    board.out(0x70, index);
    return board.in(0x71);
  }
  void put(unsigned index, unsigned value) {
    board.out(0x70, index);
    board.out(0x71, value);
  }
  // "CCYY-MM-DD hh:mm:ss w", digits as the registers hold them.
  std::string time() {
    char text[40];
    std::snprintf(text, sizeof text, "%02x%02x-%02x-%02x %02x:%02x:%02x %x", get(0x32), get(9), get(8), get(7), get(4),
                  get(2), get(0), get(6));
    return text;
  }
  BareBoard board;
  LineRecorder irq;
  Rtc rtc{board.clock, board.deadlines, IrqLine(irq, 8), kRam};
};

TEST_F(RtcTest, starts_at_the_wall_clock_in_bcd_and_24_hours) {
  EXPECT_EQ(time(), "2000-02-28 23:59:59 2");
  EXPECT_EQ(get(0x0b), 0x02);
  EXPECT_EQ(get(0x0d), 0x80);
}

TEST_F(RtcTest, carries_into_a_leap_day_and_out_of_a_year) {
  board.run_for(kSecond - 1);
  EXPECT_EQ(time(), "2000-02-28 23:59:59 2");
  board.run_for(1);
  EXPECT_EQ(time(), "2000-02-29 00:00:00 3");
  set_wall_clock(4102444799);  // 2099-12-31 23:59:59
  board.run_for(kSecond);
  EXPECT_EQ(time(), "2100-01-01 00:00:00 6");
  set_wall_clock(4107542399);  // 2100-02-28 23:59:59: no leap year
  board.run_for(kSecond);
  EXPECT_EQ(time(), "2100-03-01 00:00:00 2");
}

TEST_F(RtcTest, advances_over_long_idle_times_at_once) {
  board.run_for(kSecond * 86400 * 366 + kSecond);
  EXPECT_EQ(time(), "2001-03-01 00:00:00 5");
}

// The host's clock can stand anywhere: the calendar of ten thousand years (calendar.h) begins again at its end.
TEST_F(RtcTest, shows_a_date_for_any_wall_clock) {
  constexpr uint64_t kEpoch = days_from_civil(1970, 1, 1) * 86400;
  set_wall_clock(kCalendarSeconds - kEpoch - 1);
  EXPECT_EQ(time(), "9999-12-31 23:59:59 6");
  board.run_for(kSecond);
  EXPECT_EQ(time(), "0000-01-01 00:00:00 7");
  set_wall_clock(kCalendarSeconds + 951782399);
  EXPECT_EQ(time(), "2000-02-28 23:59:59 2");
  // 2^64 - 1 seconds after 1970-01-01, modulo the calendar.
  set_wall_clock(UINT64_MAX);
  const std::string last = time();
  set_wall_clock(UINT64_MAX % kCalendarSeconds);
  EXPECT_EQ(time(), last);
  const std::string date = time();
  for (const size_t digit : {0u, 1u, 2u, 3u, 5u, 6u, 8u, 9u, 11u, 12u, 14u, 15u, 17u, 18u})
    EXPECT_TRUE(date[digit] >= '0' && date[digit] <= '9') << date;
}

TEST_F(RtcTest, shows_binary_and_12_hour_formats) {
  put(0x0b, 0x00);
  board.run_for(kSecond);
  EXPECT_EQ(get(4), 0x12);  // midnight is 12 AM
  put(0x0b, 0x04);
  board.run_for(kSecond * 3600 * 13);
  EXPECT_EQ(get(4), 0x81);  // 1 PM
  put(0x0b, 0x06);
  board.run_for(kSecond * 86400 * 3);
  EXPECT_EQ(get(4), 13);
  EXPECT_EQ(get(7), 3);
  EXPECT_EQ(get(8), 3);
  EXPECT_EQ(get(9), 0);
  EXPECT_EQ(get(0x32), 0x20);  // the century byte is BCD always
}

TEST_F(RtcTest, can_be_set) {
  put(0x0b, 0x82);  // SET: the time stands
  board.run_for(10 * kSecond);
  EXPECT_EQ(time(), "2000-02-28 23:59:59 2");
  put(0x32, 0x19);
  put(9, 0x99);
  put(8, 0x12);
  put(7, 0x31);
  put(6, 6);
  put(4, 0x22);
  put(2, 0x58);
  put(0, 0x30);
  EXPECT_EQ(time(), "1999-12-31 22:58:30 6");
  put(0x0b, 0x02);
  board.run_for(90 * kSecond + 3600 * kSecond);
  EXPECT_EQ(time(), "2000-01-01 00:00:00 7");
}

TEST_F(RtcTest, divider_reset_starts_the_next_second_half_a_second_later) {
  put(0x0a, 0x66);
  board.run_for(7 * kSecond);
  EXPECT_EQ(get(0), 0x59);
  put(0x0a, 0x26);
  board.run_for(kSecond / 2 - 1);
  EXPECT_EQ(get(0), 0x59);
  board.run_for(1);
  EXPECT_EQ(get(0), 0x00);
}

TEST_F(RtcTest, impossible_settings_are_brought_into_range) {
  std::mt19937 random(146818);
  for (int i = 0; i < 20000; ++i) {
    const auto index = static_cast<unsigned>(random() % 12);
    put(index == 11 ? 0x32 : index, random() & 0xff);
    board.run_for(random() % (3 * kSecond));
    EXPECT_LE(get(8), 0xff);
  }
  put(0x0a, 0x26);
  put(0x0b, 0x02);
  put(2, 0x99);
  board.run_for(2 * kSecond);
  EXPECT_LE(get(2), 0x59);
}

TEST_F(RtcTest, announces_updates) {
  EXPECT_EQ(get(0x0a), 0x26);
  board.run_for(kSecond - 2228 * 1000 - 1);
  EXPECT_EQ(get(0x0a), 0x26);
  board.run_for(1);
  EXPECT_EQ(get(0x0a), 0xa6);
  board.run_for(2228 * 1000);
  EXPECT_EQ(get(0x0a), 0x26);
  put(0x0b, 0x82);
  board.run_for(kSecond - 1);
  EXPECT_EQ(get(0x0a), 0x26);  // no update cycles while SET
}

TEST_F(RtcTest, arms_nothing_while_no_interrupt_is_enabled) {
  EXPECT_EQ(board.deadlines.next(), kNever);
  board.run_for(3 * kSecond);
  EXPECT_EQ(get(0x0c), 0x70);  // but the flags tell, the alarm's too: it stands at 00:00:00
  board.run_for(kSecond);
  EXPECT_EQ(get(0x0c), 0x50);
  EXPECT_EQ(get(0x0c), 0x00);
}

TEST_F(RtcTest, update_interrupt_comes_every_second) {
  put(5, 0x12);
  put(0x0b, 0x12);
  board.run_for(kSecond - 1);
  EXPECT_FALSE(irq.levels[8]);
  board.run_for(1);
  EXPECT_TRUE(irq.levels[8]);
  EXPECT_EQ(get(0x0c), 0xd0);  // PF is set too, by the 1024 Hz rate that is not enabled
  EXPECT_FALSE(irq.levels[8]);
  for (int i = 0; i < 10; ++i) {
    board.run_for(kSecond);
    get(0x0c);
  }
  EXPECT_EQ(irq.rises[8], 11u);
}

TEST_F(RtcTest, periodic_interrupt_keeps_its_rate) {
  put(0x0a, 0x26);
  put(0x0b, 0x42);
  unsigned count = 0;
  for (int i = 0; i < 100000; ++i) {
    board.run_for(100000);
    if (irq.levels[8]) {
      EXPECT_EQ(get(0x0c) & 0xc0, 0xc0);
      ++count;
    }
  }
  EXPECT_EQ(count, 10240u);  // 1024 Hz for 10 s
}

TEST_F(RtcTest, unread_interrupt_stops_asking_for_time) {
  put(0x0b, 0x42);
  board.run_for(kSecond);
  EXPECT_TRUE(irq.levels[8]);
  EXPECT_EQ(irq.rises[8], 1u);
  EXPECT_EQ(board.deadlines.next(), kNever);
}

TEST_F(RtcTest, enabling_an_interrupt_whose_flag_is_set_raises_it) {
  board.run_for(kSecond);
  put(0x0b, 0x12);
  EXPECT_TRUE(irq.levels[8]);
}

TEST_F(RtcTest, alarm_matches_time_of_day) {
  put(1, 0x30);
  put(3, 0x05);
  put(5, 0x07);
  put(0x0b, 0x22);
  const uint64_t due = kSecond * (1 + 7 * 3600 + 5 * 60 + 30);
  board.run_to(due - 1);
  EXPECT_FALSE(irq.levels[8]);
  board.run_to(due);
  EXPECT_TRUE(irq.levels[8]);
  EXPECT_EQ(get(0x0c) & 0xa0, 0xa0);
  board.run_to(due + 86400 * kSecond - 1);
  EXPECT_FALSE(irq.levels[8]);
  board.run_to(due + 86400 * kSecond);
  EXPECT_TRUE(irq.levels[8]);
}

TEST_F(RtcTest, alarm_with_dont_care_fields_comes_every_hour_and_every_second) {
  put(1, 0x00);
  put(3, 0x00);
  put(5, 0xff);
  put(0x0b, 0x22);
  board.run_for(kSecond);
  EXPECT_TRUE(irq.levels[8]);
  get(0x0c);
  board.run_for(3600 * kSecond - 1);
  EXPECT_FALSE(irq.levels[8]);
  board.run_for(1);
  EXPECT_TRUE(irq.levels[8]);
  put(1, 0xc0);
  put(3, 0xc0);
  get(0x0c);
  board.run_for(kSecond);
  EXPECT_TRUE(irq.levels[8]);
}

TEST_F(RtcTest, alarm_that_no_time_matches_never_comes) {
  put(1, 0x60);
  put(3, 0xff);
  put(5, 0xff);
  put(0x0b, 0x22);
  EXPECT_EQ(board.deadlines.next(), kNever);
  put(1, 0x00);
  put(5, 0x24);
  EXPECT_EQ(board.deadlines.next(), kNever);
}

TEST_F(RtcTest, memory_keeps_what_is_written_and_tells_the_ram_size) {
  put(0x40, 0xa5);
  put(0x7f, 0x5a);
  EXPECT_EQ(get(0x40), 0xa5);
  EXPECT_EQ(get(0x7f), 0x5a);
  EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
  EXPECT_EQ(get(0x34) | get(0x35) << 8, (3072 - 16) * 16);
  EXPECT_EQ(get(0x5b) | get(0x5c) << 8, 2048 * 16);
  unsigned sum = 0;
  for (unsigned i = 0x10; i <= 0x2d; ++i) sum += get(i);
  EXPECT_EQ(unsigned{get(0x2e)} << 8 | get(0x2f), sum);
}

TEST_F(RtcTest, index_port_holds_the_nmi_mask) {
  board.out(0x70, 0x8d);
  EXPECT_TRUE(rtc.nmi_masked());
  EXPECT_EQ(board.in(0x71), 0x80);  // register D
  EXPECT_EQ(board.in(0x70), 0xff);
}

TEST_F(RtcTest, registers_c_and_d_cannot_be_written) {
  put(0x0c, 0xff);
  put(0x0d, 0x00);
  EXPECT_EQ(get(0x0c), 0x00);
  EXPECT_EQ(get(0x0d), 0x80);
}

TEST(Calendar, converts_every_day_of_ten_thousand_years) {
  for (uint64_t day = 0; day < kCalendarDays; day += 17) {
    const Civil date = civil_from_days(day);
    ASSERT_EQ(days_from_civil(date.year, date.month, date.day), day);
    ASSERT_LE(date.day, days_in_month(date.year, date.month));
  }
  EXPECT_EQ(civil_from_days(kCalendarDays - 1).year, 9999u);
}

}  // namespace
}  // namespace retrovisor::test
