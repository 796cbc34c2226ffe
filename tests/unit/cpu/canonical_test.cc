#include "vmm/cpu/canonical.h"

#include <gtest/gtest.h>

namespace retrovisor {
namespace {

// The rule in SDM 1 3.3.7.1's words, bit by bit.
bool bits_alike(uint64_t linear) {
  for (unsigned bit = 48; bit < 64; ++bit)
    if ((linear >> bit & 1) != (linear >> 47 & 1)) return false;
  return true;
}

TEST(Canonical, says_whether_bits_63_to_47_are_alike) {
  for (uint64_t top = 0; top < 1 << 17; ++top) {
    const uint64_t linear = top << 47 | 0x1234'5678;
    EXPECT_EQ(is_canonical(linear), bits_alike(linear)) << std::hex << linear;
  }
}

TEST(Canonical, knows_the_edges_of_the_hole) {
  EXPECT_TRUE(is_canonical(0));
  EXPECT_TRUE(is_canonical(0x0000'7fff'ffff'ffff));
  EXPECT_FALSE(is_canonical(0x0000'8000'0000'0000));
  EXPECT_FALSE(is_canonical(0xffff'7fff'ffff'ffff));
  EXPECT_TRUE(is_canonical(0xffff'8000'0000'0000));
  EXPECT_TRUE(is_canonical(UINT64_MAX));
}

TEST(Canonical, a_range_needs_both_ends) {
  EXPECT_TRUE(is_canonical(0x0000'7fff'ffff'fff8, 8));
  EXPECT_FALSE(is_canonical(0x0000'7fff'ffff'fff9, 8));
  EXPECT_FALSE(is_canonical(0xffff'7fff'ffff'ffff, 2));
  EXPECT_TRUE(is_canonical(0xffff'8000'0000'0000, 1));
  EXPECT_TRUE(is_canonical(UINT64_MAX - 3, 8));  // wraps round the top
}

TEST(Canonical, sign_extension_keeps_48_bits) {
  EXPECT_EQ(sign_extended(0xabcd'7fff'ffff'ffff), 0x0000'7fff'ffff'ffffu);
  EXPECT_EQ(sign_extended(0x1234'8000'0000'0001), 0xffff'8000'0000'0001u);
}

}  // namespace
}  // namespace retrovisor
