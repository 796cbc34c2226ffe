// A boundary without a host: the same date, the same entropy, no input; idle time passes at once, but not for ever.
#pragma once

#include <algorithm>

#include "tests/fuzz/target.h"
#include "vmm/boundary.h"

namespace retrovisor::fuzz {

class QuietBoundary final : public Boundary {
 public:
  explicit QuietBoundary(unsigned idle_waits) : idle_waits_(idle_waits) {}

  uint64_t wall_clock(Moment) override { return 1'700'000'000; }
  void entropy(Moment, std::span<uint8_t> out) override { std::fill(out.begin(), out.end(), uint8_t{0x5a}); }
  size_t receive(Moment, EndpointId, std::span<uint8_t>) override { return 0; }
  IdleWait idle_wait(Moment, uint64_t ns, bool) override {
    if (idle_waits_ == 0) return {0, true};
    --idle_waits_;
    return {ns, false};
  }
  void transmit(Moment, EndpointId, std::span<const uint8_t> bytes) override { append(console, bytes); }

  // As many waits as at first.
  void start_again(unsigned idle_waits) { idle_waits_ = idle_waits; }

  Bytes console;

 private:
  unsigned idle_waits_;
};

}  // namespace retrovisor::fuzz
