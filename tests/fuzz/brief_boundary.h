// A boundary without a host: the same date, the same entropy, no input; idle time passes at once, but not for ever.
#pragma once

#include <algorithm>

#include "tests/fuzz/target.h"
#include "vmm/boundary.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor::fuzz {

class BriefBoundary final : public QuietBoundary {
 public:
  explicit BriefBoundary(unsigned idle_waits) : idle_waits_(idle_waits) {}

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
