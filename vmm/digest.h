// Digests of a machine's state: what a recording and its replay compare.
#pragma once

#include <cstdint>

namespace retrovisor {

// Digests of a machine state, equal if and only if (up to hash collisions) the states are.
struct StateDigest {
  uint64_t cpu = 0;
  uint64_t memory = 0;
  uint64_t devices = 0;
  bool operator==(const StateDigest&) const = default;
};

}  // namespace retrovisor
