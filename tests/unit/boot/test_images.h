// Synthetic kernels for the loader's tests, and what they share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vmm/boot/load_plan.h"
#include "vmm/boot/loader.h"
#include "vmm/devices/pc.h"

namespace retrovisor::boot_test {

using Bytes = std::vector<uint8_t>;

inline void put(Bytes& b, size_t at, unsigned size, uint64_t v) {
  for (unsigned i = 0; i < size; ++i) b[at + i] = static_cast<uint8_t>(v >> (8 * i));
}
inline uint64_t get(const Bytes& b, size_t at, unsigned size) {
  uint64_t v = 0;
  for (unsigned i = 0; i < size; ++i) v |= uint64_t{b[at + i]} << (8 * i);
  return v;
}

inline std::unique_ptr<GuestMemory> make_memory(uint64_t mib) {
  auto m = GuestMemory::create(mib << 20);
  EXPECT_TRUE(m.ok());
  return std::move(m).value();
}
inline Bytes read_memory(const GuestMemory& memory, uint64_t at, size_t size) {
  Bytes b(size);
  EXPECT_TRUE(memory.read(PhysAddr(at), b)) << std::hex << at;
  return b;
}
inline std::string read_string(const GuestMemory& memory, uint64_t at) {
  std::string s;
  for (uint8_t c = 0; memory.read(PhysAddr(at), std::span(&c, 1)) && c != 0; ++at) s.push_back(static_cast<char>(c));
  return s;
}

// Protocol 2.15, 2 setup sectors, 4 KiB of kernel, relocatable, preferred at 1 MiB (bytes 0, 1, 2, ... from its start).
inline constexpr size_t kSetupSize = 3 * 512;
inline constexpr size_t kKernelSize = 4096;
inline Bytes make_bzimage() {
  Bytes b(kSetupSize + kKernelSize, 0);
  b[0x1f1] = 2;
  put(b, 0x1f4, 4, kKernelSize / 16);
  put(b, 0x1fe, 2, 0xaa55);
  b[0x200] = 0xeb;
  b[0x201] = 0x6a;  // header ends at 0x26c
  put(b, 0x202, 4, 0x53726448);
  put(b, 0x206, 2, 0x20f);
  put(b, 0x20e, 2, 0x100);  // version string at 0x300
  b[0x211] = 1;
  put(b, 0x214, 4, 0x100000);
  put(b, 0x22c, 4, 0x7fffffff);
  put(b, 0x230, 4, 0x200000);
  b[0x234] = 1;
  put(b, 0x236, 2, 3);
  put(b, 0x238, 4, 2047);
  put(b, 0x248, 4, 0x300);
  put(b, 0x24c, 4, 0x400);
  put(b, 0x258, 8, 0x100000);
  put(b, 0x260, 4, 0x20000);
  const std::string version = "6.1.0-test (builder@host) #1";
  std::copy(version.begin(), version.end(), b.begin() + 0x300);
  for (size_t i = 0; i < kKernelSize; ++i) b[kSetupSize + i] = static_cast<uint8_t>(i * 7 + 1);
  return b;
}

// The same without a 64-bit entry; or (protocol 2.07) without a 32-bit one, too.
inline Bytes make_bzimage_of(bool has_32) {
  Bytes b = make_bzimage();
  put(b, 0x236, 2, 0);
  if (has_32) return b;
  put(b, 0x206, 2, 0x207);
  put(b, 0x214, 4, 0);
  b[0x234] = 0;
  put(b, 0x230, 4, 0);
  return b;
}

// ELF64 with one PT_LOAD (0x200 bytes in the file, 0x3000 in memory, at 2 MiB) and, if asked for, a PVH note.
inline Bytes make_elf(bool note, unsigned note_size = 4) {
  Bytes b(0x1000, 0);
  put(b, 0, 4, 0x464c457f);
  b[4] = 2;
  b[5] = 1;
  b[6] = 1;
  put(b, 16, 2, 2);
  put(b, 18, 2, 62);
  put(b, 24, 8, 0xffffffff81000010);
  put(b, 32, 8, 64);
  put(b, 54, 2, 56);
  put(b, 56, 2, note ? 2 : 1);
  put(b, 64, 4, 1);
  put(b, 64 + 8, 8, 0x400);
  put(b, 64 + 16, 8, 0xffffffff81000000);
  put(b, 64 + 24, 8, 0x200000);
  put(b, 64 + 32, 8, 0x200);
  put(b, 64 + 40, 8, 0x3000);
  for (size_t i = 0; i < 0x200; ++i) b[0x400 + i] = static_cast<uint8_t>(i * 5 + 3);
  if (!note) return b;
  put(b, 120, 4, 4);
  put(b, 120 + 8, 8, 0x800);
  put(b, 120 + 32, 8, 16 + 8 + 16 + note_size);
  put(b, 120 + 48, 8, 4);
  // A note of somebody else first.
  put(b, 0x800, 4, 4);
  put(b, 0x804, 4, 8);
  put(b, 0x808, 4, 3);
  b[0x80c] = 'G', b[0x80d] = 'N', b[0x80e] = 'U';
  put(b, 0x818, 4, 4);
  put(b, 0x81c, 4, note_size);
  put(b, 0x820, 4, 18);
  b[0x824] = 'X', b[0x825] = 'e', b[0x826] = 'n';
  put(b, 0x828, note_size, 0x200020);
  return b;
}

// Multiboot 1 with address fields: header at 0x20, loads itself from file offset 0x10 to 0x300010, bss to 0x304000.
inline Bytes make_multiboot() {
  Bytes b(0x600, 0x90);
  const uint32_t flags = 1 << 16 | 3;
  put(b, 0x20, 4, 0x1badb002);
  put(b, 0x24, 4, flags);
  put(b, 0x28, 4, static_cast<uint32_t>(-(0x1badb002 + flags)));
  put(b, 0x2c, 4, 0x300020);
  put(b, 0x30, 4, 0x300010);
  put(b, 0x34, 4, 0x300500);
  put(b, 0x38, 4, 0x304000);
  put(b, 0x3c, 4, 0x300100);
  return b;
}

// ELF32 with a multiboot header in its loaded segment at 1 MiB.
inline Bytes make_multiboot_elf() {
  Bytes b(0x800, 0x90);
  put(b, 0, 8, 0x00010101464c457f);
  put(b, 8, 8, 0);
  put(b, 16, 2, 2);
  put(b, 18, 2, 3);
  put(b, 24, 4, 0xc0100040);
  put(b, 28, 4, 52);
  put(b, 42, 2, 32);
  put(b, 44, 2, 1);
  put(b, 52, 4, 1);
  put(b, 56, 4, 0x200);
  put(b, 60, 4, 0xc0100000);
  put(b, 64, 4, 0x100000);
  put(b, 68, 4, 0x400);
  put(b, 72, 4, 0x1000);
  put(b, 80, 4, 0x1000);
  put(b, 0x200, 4, 0x1badb002);
  put(b, 0x204, 4, 2);
  put(b, 0x208, 4, static_cast<uint32_t>(-(0x1badb002 + 2)));
  return b;
}

// A boot sector and, if `size` is more than that, the disk behind it.
inline Bytes make_boot_sector(size_t size) {
  Bytes b(size, 0);
  b[0] = 0xf4;
  put(b, 510, 2, 0xaa55);
  return b;
}

// As gzip writes it, unpacked: stored blocks (RFC 1951, 3.2.4).
inline uint32_t crc32_of(const Bytes& b) {
  uint32_t crc = ~uint32_t{0};
  for (const uint8_t byte : b) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xedb88320 & (0 - (crc & 1)));
  }
  return ~crc;
}
inline Bytes make_gzip(const Bytes& contents) {
  Bytes b{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3};
  size_t at = 0;
  do {
    const size_t n = std::min<size_t>(contents.size() - at, 0xffff);
    b.push_back(at + n == contents.size() ? 1 : 0);
    for (const size_t v : {n & 0xff, n >> 8, ~n & 0xff, ~n >> 8 & 0xff}) b.push_back(static_cast<uint8_t>(v));
    b.insert(b.end(), contents.begin() + static_cast<std::ptrdiff_t>(at), contents.begin() + static_cast<std::ptrdiff_t>(at + n));
    at += n;
  } while (at < contents.size());
  b.resize(b.size() + 8);
  put(b, b.size() - 8, 4, crc32_of(contents));
  put(b, b.size() - 4, 4, contents.size());
  return b;
}

inline Result<LoadedGuest> load(const BootImages& images, GuestMemory& memory, CpuState& state) {
  return load_guest(images, memory, state, 1, pc_devices());
}
inline std::string error_of(const BootImages& images, uint64_t mib = 64) {
  auto memory = make_memory(mib);
  CpuState state;
  const auto loaded = load(images, *memory, state);
  return loaded.ok() ? "loaded as " + loaded->format : loaded.error().text();
}

}  // namespace retrovisor::boot_test
