#include "cli/say.h"

#include <gtest/gtest.h>

namespace retrovisor::cli {
namespace {

TEST(Say, hostile_names_cannot_drive_the_terminal) {
  EXPECT_EQ(printable("a\x1b[2Jb\r\x7f\n\tc\xc3\xbc"), "a?[2Jb??\n\tc\xc3\xbc");
  EXPECT_EQ(printable(""), "");
}

}  // namespace
}  // namespace retrovisor::cli
