// Proleptic Gregorian calendar of the years 0-9999, counted in days since 0000-01-01.
#pragma once

#include <cstdint>

namespace retrovisor {

struct Civil {
  unsigned year, month, day;
};

constexpr bool is_leap(unsigned year) { return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0); }
constexpr unsigned days_in_month(unsigned year, unsigned month) {
  return month == 2 ? (is_leap(year) ? 29u : 28u) : month == 4 || month == 6 || month == 9 || month == 11 ? 30u : 31u;
}
// Days before January 1 of `year`: year 0 is a leap year.
constexpr uint64_t days_before_year(unsigned year) {
  return year == 0 ? 0 : uint64_t{year} * 365 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400 + 1;
}
constexpr uint64_t days_from_civil(unsigned year, unsigned month, unsigned day) {
  uint64_t days = days_before_year(year) + day - 1;
  for (unsigned m = 1; m < month; ++m) days += days_in_month(year, m);
  return days;
}
inline constexpr uint64_t kCalendarDays = days_before_year(10000);
inline constexpr uint64_t kCalendarSeconds = kCalendarDays * 86400;

// `days` < kCalendarDays.
constexpr Civil civil_from_days(uint64_t days) {
  auto year = static_cast<unsigned>(days / 366);
  while (days_before_year(year + 1) <= days) ++year;
  uint64_t rest = days - days_before_year(year);
  unsigned month = 1;
  for (; rest >= days_in_month(year, month); ++month) rest -= days_in_month(year, month);
  return {year, month, static_cast<unsigned>(rest) + 1};
}
// 0: Sunday. 0000-01-01 was a Saturday.
constexpr unsigned weekday_of(uint64_t days) { return static_cast<unsigned>((days + 6) % 7); }

static_assert(days_from_civil(1970, 1, 1) == 719528 && weekday_of(719528) == 4);
static_assert(civil_from_days(719528).year == 1970 && civil_from_days(719527).day == 31);

}  // namespace retrovisor
