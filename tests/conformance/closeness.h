// How far two results may be apart where the architecture gives a bound instead of a value. Both as they lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace retrovisor::conformance {

// RCPPS and RSQRTPS, four singles, are within a relative error of 1.5 * 2^-12 (SDM 2B): two implementations are at most 3 * 2^-12
// apart. Results so small that they may be flushed to zero count as equal.
inline bool close_singles(const uint8_t* native, const uint8_t* soft) {
  for (unsigned lane = 0; lane < 4; ++lane) {
    uint32_t n = 0, s = 0;
    std::memcpy(&n, native + 4 * lane, 4);
    std::memcpy(&s, soft + 4 * lane, 4);
    if (n == s) continue;
    constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000, kTiny = 0x01000000, kBound = 3 << 12;
    if (((n ^ s) & ~kMagnitude) != 0) return false;
    n &= kMagnitude;
    s &= kMagnitude;
    if (n < kTiny && s < kTiny) continue;
    if (n >= kInfinity || s >= kInfinity || std::max(n, s) - std::min(n, s) > kBound) return false;
  }
  return true;
}

// x87 transcendentals, ten bytes, are within one unit in the last place (SDM 1, 8.3.10): two implementations are at most two
// representable values apart, with a power of two between them perhaps.
inline bool close_extended(const uint8_t* native, const uint8_t* soft) {
  struct Value {
    uint64_t significand = 0;
    uint16_t sign_and_exponent = 0;
    explicit Value(const uint8_t* bytes) {
      std::memcpy(&significand, bytes, 8);
      std::memcpy(&sign_and_exponent, bytes + 8, 2);
    }
    uint16_t exponent() const { return sign_and_exponent & 0x7fff; }
    bool normal() const { return significand >> 63 != 0 && exponent() != 0x7fff; }
  };
  constexpr uint64_t kBound = 2, kFirst = uint64_t{1} << 63;  // the significand of a power of two
  Value low(native), high(soft);
  if (low.exponent() > high.exponent()) std::swap(low, high);
  if (low.sign_and_exponent == high.sign_and_exponent)
    return std::max(low.significand, high.significand) - std::min(low.significand, high.significand) <= kBound;
  if (low.sign_and_exponent + 1 != high.sign_and_exponent || !high.normal()) return false;
  if (low.exponent() == 0) return high.significand - low.significand <= kBound;  // a denormal: the same scale
  if (!low.normal()) return false;
  // From the lower one up to the power of two, and on to the higher one; no sum of these wraps.
  const uint64_t below = UINT64_MAX - low.significand + 1, above = high.significand - kFirst;
  return below <= kBound && above <= kBound - below;
}

}  // namespace retrovisor::conformance
