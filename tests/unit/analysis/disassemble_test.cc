#include "analysis/disassemble.h"

#include <gtest/gtest.h>

#include <vector>

namespace retrovisor {
namespace {

TEST(Disassemble, follows_the_mode) {
  const std::vector<uint8_t> bytes{0xb8, 0x34, 0x12, 0x00, 0x00};
  EXPECT_EQ(disassemble(bytes, 0, CodeMode::bits16).size, 3u);
  EXPECT_EQ(disassemble(bytes, 0, CodeMode::bits32).size, 5u);
  EXPECT_EQ(disassemble(bytes, 0, CodeMode::bits64).text, "mov eax, 0x1234");
  EXPECT_EQ(disassemble(std::span(bytes).first(1), 0, CodeMode::bits64).size, 0u);
  EXPECT_EQ(disassemble({}, 0, CodeMode::bits64).size, 0u);
}

}  // namespace
}  // namespace retrovisor
