// The boundary: everything nondeterministic enters the machine here, and only here.
// Three implementations: live (vmm/host), recording (record/), replaying (replay/).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "vmm/types.h"

namespace retrovisor {

enum class Channel : uint8_t { serial0 = 0 };

struct IdleWait {
  uint64_t waited_ns = 0;  // <= what was asked; less only if input came or the host wants control
};

class Boundary {
 public:
  virtual ~Boundary() = default;
  // Seconds since 1970 at reset: seeds the RTC. Asked once per reset.
  virtual uint64_t wall_clock(Position at) = 0;
  // Fills `out` with entropy: seeds the machine's own generator (RDRAND). Asked once per reset.
  virtual void entropy(Position at, std::span<uint8_t> out) = 0;
  // Bytes that have arrived on `channel`, at most out.size(). Asked at positions that depend on machine state only.
  virtual size_t poll_input(Position at, Channel channel, std::span<uint8_t> out) = 0;
  // The vCPUs are all halted and nothing is due for `ns` (UINT64_MAX: nothing is due at all). How long did it last?
  // Virtual time: all of it at once. Real time: sleeps, returns early when input arrives.
  virtual IdleWait idle_wait(Position at, uint64_t ns) = 0;
  // The guest wrote to the console. Not a source of nondeterminism: replaying boundaries may show or drop it.
  virtual void output(Position at, Channel channel, std::span<const uint8_t> bytes) = 0;
};

}  // namespace retrovisor
