#include "vmm/mmio_split.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace retrovisor {
namespace {

using Pieces = std::vector<std::pair<unsigned, unsigned>>;  // offset, size

Pieces pieces(uint64_t address, unsigned size) {
  Pieces out;
  split_mmio(address, size, [&](unsigned offset, unsigned piece) { out.emplace_back(offset, piece); });
  return out;
}

TEST(MmioSplit, leaves_whole_what_devices_take) {
  for (const unsigned size : {1u, 2u, 4u, 8u})
    for (uint64_t address = 0xfee00000; address < 0xfee00008; ++address) EXPECT_EQ(pieces(address, size), (Pieces{{0, size}})) << address;
}

TEST(MmioSplit, cuts_other_sizes_at_natural_borders) {
  EXPECT_EQ(pieces(0x1000, 16), (Pieces{{0, 8}, {8, 8}}));
  EXPECT_EQ(pieces(0x1000, 10), (Pieces{{0, 8}, {8, 2}}));
  EXPECT_EQ(pieces(0x1000, 3), (Pieces{{0, 2}, {2, 1}}));
  EXPECT_EQ(pieces(0x1001, 3), (Pieces{{0, 1}, {1, 2}}));
  EXPECT_EQ(pieces(0x1002, 6), (Pieces{{0, 2}, {2, 4}}));
  EXPECT_EQ(pieces(0x1004, 16), (Pieces{{0, 4}, {4, 8}, {12, 4}}));
  // The rest is of a size that devices take, and goes whole.
  EXPECT_EQ(pieces(0x1001, 7), (Pieces{{0, 1}, {1, 2}, {3, 4}}));
  EXPECT_EQ(pieces(0x1007, 9), (Pieces{{0, 1}, {1, 8}}));
  EXPECT_EQ(pieces(0x1003, 5), (Pieces{{0, 1}, {1, 4}}));
}

TEST(MmioSplit, covers_each_byte_once_in_order) {
  for (uint64_t address = 0x2000; address < 0x2010; ++address) {
    for (unsigned size = 1; size <= 64; ++size) {
      unsigned next = 0;
      for (const auto& [offset, piece] : pieces(address, size)) {
        EXPECT_EQ(offset, next);
        EXPECT_TRUE(piece == 1 || piece == 2 || piece == 4 || piece == 8) << piece;
        EXPECT_TRUE((address + offset) % piece == 0 || offset + piece == size) << address << " " << size;
        next = offset + piece;
      }
      EXPECT_EQ(next, size);
    }
  }
}

}  // namespace
}  // namespace retrovisor
