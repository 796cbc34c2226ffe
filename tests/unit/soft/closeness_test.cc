// When the conformance tests take two approximate results for the same.
#include "tests/conformance/closeness.h"

#include <gtest/gtest.h>

#include <array>

namespace retrovisor::conformance {
namespace {

using Bytes = std::array<uint8_t, 10>;

Bytes extended(uint16_t sign_and_exponent, uint64_t significand) {
  Bytes out;
  std::memcpy(out.data(), &significand, 8);
  std::memcpy(out.data() + 8, &sign_and_exponent, 2);
  return out;
}

// In either order.
bool close(const Bytes& a, const Bytes& b) {
  const bool result = close_extended(a.data(), b.data());
  EXPECT_EQ(close_extended(b.data(), a.data()), result);
  return result;
}

constexpr uint64_t kFirst = uint64_t{1} << 63, kLast = UINT64_MAX;

TEST(Closeness, of_extended_values_is_two_in_the_last_place) {
  EXPECT_TRUE(close(extended(0x4000, kFirst + 10), extended(0x4000, kFirst + 12)));
  EXPECT_FALSE(close(extended(0x4000, kFirst + 10), extended(0x4000, kFirst + 13)));
  EXPECT_FALSE(close(extended(0x4000, kFirst + 10), extended(0xc000, kFirst + 10)));
}

TEST(Closeness, of_extended_values_counts_across_a_power_of_two) {
  EXPECT_TRUE(close(extended(0xc046, kLast), extended(0xc047, kFirst)));
  EXPECT_TRUE(close(extended(0x3ffe, kLast - 1), extended(0x3fff, kFirst)));
  EXPECT_TRUE(close(extended(0x3ffe, kLast), extended(0x3fff, kFirst + 1)));
  EXPECT_FALSE(close(extended(0x3ffe, kLast - 1), extended(0x3fff, kFirst + 1)));
  EXPECT_FALSE(close(extended(0x3ffe, kLast - 2), extended(0x3fff, kFirst)));
  EXPECT_FALSE(close(extended(0x3ffe, kLast), extended(0x4000, kFirst)));
  EXPECT_TRUE(close(extended(0x8000, kFirst - 1), extended(0x8001, kFirst + 1)));
  EXPECT_FALSE(close(extended(0x8000, kFirst - 1), extended(0x8001, kFirst + 2)));
  EXPECT_FALSE(close(extended(0x3ffe, kFirst), extended(0x3fff, kFirst))) << "twice as much";
  EXPECT_FALSE(close(extended(0x3ffe, kLast), extended(0xbfff, kFirst)));
  EXPECT_FALSE(close(extended(0x7fff, kFirst), extended(0x8000, 0))) << "infinity, and zero with a sign";
  EXPECT_FALSE(close(extended(0x7ffe, kLast), extended(0x7fff, kFirst))) << "infinity";
  EXPECT_FALSE(close(extended(0x3ffe, kLast >> 1), extended(0x3fff, 0))) << "not a number";
}

}  // namespace
}  // namespace retrovisor::conformance
