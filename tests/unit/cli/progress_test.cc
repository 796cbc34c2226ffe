#include "cli/progress.h"

#include <gtest/gtest.h>

namespace retrovisor::cli {
namespace {

TEST(Texts, numbers_are_grouped_by_thousands) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1 000");
  EXPECT_EQ(grouped(1234567890), "1 234 567 890");
}

TEST(Texts, durations_and_sizes_have_fitting_units) {
  EXPECT_EQ(duration_text(0.04), "0.0 s");
  EXPECT_EQ(duration_text(90), "90 s");
  EXPECT_EQ(duration_text(125), "2 min 5 s");
  EXPECT_EQ(duration_text(7300), "2 h 1 min");
  EXPECT_EQ(bytes_text(1023), "1023 bytes");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(uint64_t{8} << 30), "8.00 GiB");
}

}  // namespace
}  // namespace retrovisor::cli
