#include "vmm/memory/guest_memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace retrovisor {
namespace {

TEST(GuestMemory, refuses_sizes_outside_the_model) {
  EXPECT_FALSE(GuestMemory::create(kMinRam - kPageSize).ok());
  EXPECT_FALSE(GuestMemory::create(kMinRam + 1).ok());
  EXPECT_FALSE(GuestMemory::create(kMaxRam + kPageSize).ok());
}

TEST(GuestMemory, ram_has_a_video_hole_and_goes_on_above_4_gib) {
  auto m = GuestMemory::create(uint64_t{8} << 30);
  ASSERT_TRUE(m.ok());
  EXPECT_TRUE((*m)->is_ram(PhysAddr(kVideoHoleBegin - 1)));
  EXPECT_FALSE((*m)->is_ram(PhysAddr(kVideoHoleBegin)));
  EXPECT_TRUE((*m)->is_ram(PhysAddr(kVideoHoleEnd)));
  EXPECT_FALSE((*m)->is_ram(PhysAddr(kLowRamEnd)));
  EXPECT_TRUE((*m)->is_ram(PhysAddr(kHighRamBegin)));
  EXPECT_EQ((*m)->high_end() - kHighRamBegin + (*m)->low_end(), uint64_t{8} << 30);
  EXPECT_FALSE((*m)->is_ram(PhysAddr((*m)->high_end())));
}

TEST(GuestMemory, copies_cross_pages_and_stop_where_ram_does) {
  auto m = GuestMemory::create(kMinRam);
  ASSERT_TRUE(m.ok());
  const std::vector<uint8_t> data(100, 0xab);
  EXPECT_TRUE((*m)->write(PhysAddr(kPageSize - 50), data));
  std::vector<uint8_t> back(100);
  EXPECT_TRUE((*m)->read(PhysAddr(kPageSize - 50), back));
  EXPECT_EQ(back, data);
  EXPECT_FALSE((*m)->read(PhysAddr(kVideoHoleBegin - 50), back));
  EXPECT_FALSE((*m)->write(PhysAddr(kMinRam - 50), data));
  EXPECT_FALSE((*m)->read(PhysAddr(UINT64_MAX - 10), back));
}

TEST(GuestMemory, knows_which_pages_were_written) {
  auto m = GuestMemory::create(kMinRam);
  ASSERT_TRUE(m.ok());
  const uint8_t byte = 1;
  for (const uint64_t page : {7u, 3u, 4095u}) ASSERT_TRUE((*m)->write(PhysAddr(page * kPageSize), std::span(&byte, 1)));
  std::vector<uint64_t> pages;
  (*m)->take_dirty([&](uint64_t page) { pages.push_back(page); });
  EXPECT_EQ(pages, (std::vector<uint64_t>{3, 7, 4095}));
  pages.clear();
  (*m)->take_dirty([&](uint64_t page) { pages.push_back(page); });
  EXPECT_TRUE(pages.empty());
}

}  // namespace
}  // namespace retrovisor
