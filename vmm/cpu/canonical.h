// Linear addresses of four-level paging: bits 63-47 are alike ("canonical", SDM 1 3.3.7.1).
#pragma once

#include <cstdint>

namespace retrovisor {

inline constexpr unsigned kLinearBits = 48;  // CPUID 80000008h tells guests of it

// The canonical address with the same bits 47-0.
constexpr uint64_t sign_extended(uint64_t linear) {
  return static_cast<uint64_t>(static_cast<int64_t>(linear << (64 - kLinearBits)) >> (64 - kLinearBits));
}
constexpr bool is_canonical(uint64_t linear) { return sign_extended(linear) == linear; }
// The first and the last of `size` bytes, at least one. An access that wraps round the top of the address space is canonical.
constexpr bool is_canonical(uint64_t linear, uint64_t size) { return is_canonical(linear) && is_canonical(linear + size - 1); }

}  // namespace retrovisor
