// A guest whose pages have several addresses, which writes through all of them, remaps them, and changes its address space.
#pragma once

#include <cstdint>
#include <vector>

namespace retrovisor {

// Linear pages from kAliases on, in its two address spaces (page directories at kTables and kTables + 0x3000):
//   kAliases            A, or C in the second
//   kAliases + 0x1000   A
//   kAliases + 0x2000   B or D: it remaps this page in both
//   kAliases + 0x3000   B + 0x1000
//   kAliases + 0x4000   A
// What lies below 4 MiB is mapped as it is.
inline constexpr uint64_t kAliases = 0x400000;
inline constexpr uint64_t kPageA = 0x200000, kPageB = 0x201000, kPageC = 0x205000, kPageD = 0x206000;
inline constexpr uint64_t kTables = 0x300000;
// What is written once at kPageA + 0xf00, one after the other through kAliases, kAliases + 0x1000 and kPageA itself.
inline constexpr uint32_t kThrough[3] = {0x11111111, 0x22222222, 0x33333333};
// What the second address space writes to kAliases + 0xf10, after the first has written kFirstSpace there.
inline constexpr uint32_t kFirstSpace = 0x44444444, kSecondSpace = 0x55555555;

// A flat binary for 0x100000 and FlatMode::protected32. It runs for about 25'000 instructions.
std::vector<uint8_t> alias_guest();

}  // namespace retrovisor
