// A small seeded generator (xoshiro256**, seeded by splitmix64), and values that find edges.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace retrovisor::conformance {

class Random {
 public:
  Random(uint64_t seed, uint64_t stream) {
    uint64_t x = seed * 0x9e3779b97f4a7c15 ^ (stream + 1) * 0xd1b54a32d192ed03;
    for (uint64_t& s : s_) {
      x += 0x9e3779b97f4a7c15;
      uint64_t z = x;
      z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
      z = (z ^ z >> 27) * 0x94d049bb133111eb;
      s = z ^ z >> 31;
    }
  }
  uint64_t next() {
    const uint64_t result = std::rotl(s_[1] * 5, 7) * 9;
    const uint64_t t = s_[1] << 17;
    s_[2] ^= s_[0];
    s_[3] ^= s_[1];
    s_[1] ^= s_[2];
    s_[0] ^= s_[3];
    s_[2] ^= t;
    s_[3] = std::rotl(s_[3], 45);
    return result;
  }
  // 0 <= result < n.
  uint64_t below(uint64_t n) { return static_cast<uint64_t>(static_cast<unsigned __int128>(next()) * n >> 64); }
  unsigned pick(unsigned n) { return static_cast<unsigned>(below(n)); }
  bool chance(unsigned percent) { return below(100) < percent; }
  bool permille(unsigned n) { return below(1000) < n; }
  template <class T, size_t N>
  const T& of(const T (&values)[N]) {
    return values[below(N)];
  }

  // Integers near the borders of all sizes, small ones, masks, and anything.
  uint64_t integer();
  // Bit patterns of floating-point numbers that matter: zeros, infinities, NaNs, denormals, borders of integers, anything.
  uint32_t single();
  uint64_t real();
  // 80-bit: the significand, and sign and exponent.
  struct Extended {
    uint64_t significand;
    uint16_t sign_exponent;
  };
  Extended extended();

 private:
  std::array<uint64_t, 4> s_{};
};

}  // namespace retrovisor::conformance
