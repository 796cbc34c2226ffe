// A boundary with nothing behind it: always the same date and entropy, no input, idle time passes at once, output is lost. To look at a
// machine that need not talk to anybody; what differs is overridden.
#pragma once

#include <algorithm>

#include "vmm/boundary.h"

namespace retrovisor {

class QuietBoundary : public Boundary {
 public:
  uint64_t wall_clock(Moment) override { return 1'700'000'000; }
  void entropy(Moment, std::span<uint8_t> out) override { std::fill(out.begin(), out.end(), uint8_t{0x5a}); }
  size_t receive(Moment, EndpointId, std::span<uint8_t>) override { return 0; }
  IdleWait idle_wait(Moment, uint64_t ns, bool) override { return {ns, false}; }
  void transmit(Moment, EndpointId, std::span<const uint8_t>) override {}
};

}  // namespace retrovisor
