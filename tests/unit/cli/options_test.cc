#include "cli/options.h"

#include <gtest/gtest.h>

namespace retrovisor::cli {
namespace {

template <class T>
std::optional<T> value_of(Result<T> result) {
  if (!result) {
    EXPECT_EQ(result.error().code, ErrorCode::bad_argument);
    EXPECT_EQ(result.error().where, "--x");
    return std::nullopt;
  }
  return *result;
}

TEST(Options, sizes_have_binary_units) {
  EXPECT_EQ(value_of(parse_size("512M", "--x")), uint64_t{512} << 20);
  EXPECT_EQ(value_of(parse_size("8G", "--x")), uint64_t{8} << 30);
  EXPECT_EQ(value_of(parse_size("64K", "--x")), 65536u);
  EXPECT_EQ(value_of(parse_size("4096", "--x")), 4096u);
  for (const char* bad : {"", "M", "1.5G", "-1", "5MB", "12345678901234567890123", "99999999999T", " 1"})
    EXPECT_EQ(value_of(parse_size(bad, "--x")), std::nullopt) << bad;
}

TEST(Options, memory_without_a_unit_is_in_mebibytes) {
  EXPECT_EQ(value_of(parse_memory("512", "--x")), uint64_t{512} << 20);
  EXPECT_EQ(value_of(parse_memory("1'024", "--x")), uint64_t{1024} << 20);
  EXPECT_EQ(value_of(parse_memory("2G", "--x")), uint64_t{2} << 30);
  EXPECT_EQ(value_of(parse_memory("65536K", "--x")), uint64_t{64} << 20);
  for (const char* bad : {"", "'", "_", "M", "99999999999999999999"}) EXPECT_EQ(value_of(parse_memory(bad, "--x")), std::nullopt) << bad;
}

TEST(Options, durations_have_a_unit) {
  EXPECT_EQ(value_of(parse_duration("90s", "--x")), 90'000'000'000u);
  EXPECT_EQ(value_of(parse_duration("30m", "--x")), 1'800'000'000'000u);
  EXPECT_EQ(value_of(parse_duration("1h", "--x")), 3'600'000'000'000u);
  EXPECT_EQ(value_of(parse_duration("1d", "--x")), 86'400'000'000'000u);
  EXPECT_EQ(value_of(parse_duration("none", "--x")), 0u);
  for (const char* bad : {"", "5", "0s", "h", "1.5h", "-1s", "1w", "36501d", "99999999999999999999s"})
    EXPECT_EQ(value_of(parse_duration(bad, "--x")), std::nullopt) << bad;
}

TEST(Options, positions_have_decimal_units_and_separators) {
  EXPECT_EQ(value_of(parse_position("1'500'000", "--x")), Position(1'500'000));
  EXPECT_EQ(value_of(parse_position("200M", "--x")), Position(200'000'000));
  EXPECT_EQ(value_of(parse_position("3_0k", "--x")), Position(30'000));
  for (const char* bad : {"", "'5", "k", "0x10", "9223372036854775807", "10000000000G"})
    EXPECT_EQ(value_of(parse_position(bad, "--x")), std::nullopt) << bad;
}

TEST(Options, numbers_are_decimal_or_hexadecimal) {
  EXPECT_EQ(value_of(parse_number("18446744073709551615", "--x")), UINT64_MAX);
  EXPECT_EQ(value_of(parse_number("0xffffffffffffffff", "--x")), UINT64_MAX);
  EXPECT_EQ(value_of(parse_number("0x7C00", "--x")), 0x7c00u);
  for (const char* bad : {"", "0x", "0xg", "18446744073709551616", "0x10000000000000000", "1k", "-1"})
    EXPECT_EQ(value_of(parse_number(bad, "--x")), std::nullopt) << bad;
}

TEST(Options, the_clock_is_seconds_or_a_date) {
  EXPECT_EQ(value_of(parse_rtc("1767225600", "--x")), 1767225600u);
  EXPECT_EQ(value_of(parse_rtc("2026-01-01T00:00:00", "--x")), 1767225600u);
  EXPECT_EQ(value_of(parse_rtc("2026-01-01T00:00:01Z", "--x")), 1767225601u);
  for (const char* bad : {"", "noon", "2026-13-01T00:00:00", "1969-12-31T23:59:59", "2026-01-01", "4102444800"})
    EXPECT_EQ(value_of(parse_rtc(bad, "--x")), std::nullopt) << bad;
}

TEST(Options, consoles) {
  EXPECT_EQ(parse_console("stdio")->kind, ConsoleKind::stdio);
  EXPECT_EQ(parse_console("tty")->kind, ConsoleKind::terminal);
  EXPECT_EQ(parse_console("none")->kind, ConsoleKind::none);
  EXPECT_EQ(parse_console("script:a b")->script_file, "a b");
  EXPECT_FALSE(parse_console("script:").ok());
  EXPECT_FALSE(parse_console("").ok());
}

}  // namespace
}  // namespace retrovisor::cli
