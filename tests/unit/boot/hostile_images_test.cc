// Damaged images give an error or a loaded guest: never a crash, and (under a sanitizer) never a read out of bounds.
#include <random>

#include "tests/unit/boot/test_images.h"

namespace retrovisor::boot_test {
namespace {

std::vector<std::pair<std::string, Bytes>> all_images() {
  return {{"bzImage", make_bzimage()},
          {"PVH", make_elf(true)},
          {"multiboot", make_multiboot()},
          {"multiboot ELF", make_multiboot_elf()},
          {"boot sector", make_boot_sector(1536)},
          {"multiboot, packed", make_gzip(make_multiboot())},
          {"bzImage of 32 bits", make_bzimage_of(true)},
          {"bzImage of 16 bits", make_bzimage_of(false)}};
}

TEST(HostileImages, truncation_at_every_length_is_survived) {
  auto memory = make_memory(16);
  for (const auto& [name, whole] : all_images()) {
    BootImages images;
    images.initrd = Bytes(100, 1);
    size_t loaded = 0;
    for (size_t size = 0; size < whole.size(); ++size) {
      // A buffer of exactly this size, so that a read beyond it is seen.
      images.kernel = Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      images.kernel.shrink_to_fit();
      CpuState state;
      const auto result = load(images, *memory, state);
      loaded += result.ok() ? 1 : 0;
      ASSERT_TRUE(result.ok() || !result.error().message.empty());
    }
    // The files end in bytes that are not part of the kernel, at most.
    if (name == "bzImage") {  // the size is in units of 16 bytes
      EXPECT_EQ(loaded, 15U);
    }
    if (name == "PVH") {
      EXPECT_LE(loaded, whole.size() - 0x82c);
    }
    if (name == "multiboot") {
      EXPECT_EQ(loaded, 0x600 - 0x500U);
    }
    if (name == "multiboot ELF") {
      EXPECT_EQ(loaded, 0x800 - 0x600U);
    }
  }
}

TEST(HostileImages, extreme_values_in_every_header_field_are_survived) {
  auto memory = make_memory(16);
  for (const auto& [name, whole] : all_images()) {
    BootImages images;
    images.initrd = Bytes(100, 1);
    images.command_line = "x";
    for (size_t at = 0; at + 8 <= std::min<size_t>(whole.size(), 0x840); at += 2) {
      for (const unsigned size : {1U, 2U, 4U, 8U}) {
        for (const uint64_t value : {uint64_t{0}, UINT64_MAX, uint64_t{0x7fffffff'80000040}}) {
          images.kernel = whole;
          put(images.kernel, at, size, value);
          CpuState state;
          const auto result = load(images, *memory, state);
          ASSERT_TRUE(result.ok() || !result.error().message.empty());
        }
      }
    }
  }
}

TEST(HostileImages, random_damage_is_survived) {
  auto memory = make_memory(16);
  std::mt19937_64 random(1);
  for (const auto& [name, whole] : all_images()) {
    for (int round = 0; round < 3000; ++round) {
      BootImages images;
      images.kernel = whole;
      for (uint64_t n = random() % 6 + 1; n > 0; --n) {
        const size_t at = random() % 2 == 0 ? random() % whole.size() : random() % 0x280;
        const unsigned size = 1U << random() % 4;
        if (at + size <= images.kernel.size()) put(images.kernel, at, size, random() >> random() % 64);
      }
      if (random() % 4 == 0) images.kernel.resize(random() % whole.size());
      images.initrd.resize(random() % 2 * (random() % 5000));
      CpuState state;
      const auto result = load(images, *memory, state);
      ASSERT_FALSE((result.ok() ? result->format : result.error().message).empty());
    }
  }
}

TEST(HostileImages, processors_out_of_range_are_refused) {
  BootImages images;
  images.kernel = make_bzimage();
  auto memory = make_memory(16);
  CpuState state;
  EXPECT_FALSE(load_guest(images, *memory, state, 0, pc_devices()).ok());
  EXPECT_FALSE(load_guest(images, *memory, state, kMaxVcpus + 1, pc_devices()).ok());
  EXPECT_TRUE(load_guest(images, *memory, state, kMaxVcpus, pc_devices()).ok());
}

}  // namespace
}  // namespace retrovisor::boot_test
