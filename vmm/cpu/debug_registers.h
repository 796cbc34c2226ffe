// What DR6 and DR7 can hold, and the four breakpoints that DR7 describes (SDM 3B 17.2).
#pragma once

#include <cstdint>

#include "vmm/cpu/registers.h"

namespace retrovisor {

// A register's value as the processor keeps it: DR7's bits 11, 12, 14 and 15 read as zero.
constexpr uint64_t stored_dr6(uint64_t value) { return (value & dr6::writable) | dr6::fixed; }
constexpr uint64_t stored_dr7(uint64_t value) { return (value & dr7::writable) | dr7::fixed; }

// Is any of the four on?
constexpr bool breakpoints_armed(uint64_t dr7) { return (dr7 & 0xff) != 0; }

enum class BreakOn : uint8_t { execution = 0, write = 1, port = 2 /* with CR4.DE */, access = 3 };

struct BreakpointControl {
  bool on = false;  // L or G
  BreakOn what{};
  unsigned length = 1;

  // Does an access to `size` bytes at `at` touch the bytes that `dr` names? The low bits of the address do not count.
  constexpr bool touches(uint64_t dr, uint64_t at, uint64_t size) const {
    const uint64_t begin = dr & ~uint64_t{length - 1};
    return at < begin + length && begin < at + size;
  }
};

// Breakpoint `i` of DR7.
constexpr BreakpointControl breakpoint_control(uint64_t dr7, unsigned i) {
  constexpr unsigned kLengths[4] = {1, 2, 8, 4};
  const uint64_t field = dr7 >> (16 + 4 * i);
  return {(dr7 >> (2 * i) & 3) != 0, static_cast<BreakOn>(field & 3), kLengths[field >> 2 & 3]};
}

}  // namespace retrovisor
