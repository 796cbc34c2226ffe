// Counting clock ticks of a device in guest time, in integers: no drift, however time is cut.
#pragma once

#include <cstdint>

#include "vmm/types.h"

namespace retrovisor {

inline constexpr uint64_t kNsPerSecond = 1'000'000'000;

// A clock of `hz` that has run since guest time 0. Tick n happens at the first nanosecond t with floor(t * hz / 1e9) >= n.
class TickClock {
 public:
  constexpr explicit TickClock(uint64_t hz) : hz_(hz) {}
  // Ticks that have happened up to and including `now`.
  constexpr uint64_t ticks(VirtualTime now) const {
    return static_cast<uint64_t>(static_cast<Wide>(now.value) * hz_ / kNsPerSecond);
  }
  // When tick `n` happens; kNever if that is beyond what guest time can hold.
  constexpr VirtualTime time_of(uint64_t n) const {
    const Wide ns = (static_cast<Wide>(n) * kNsPerSecond + hz_ - 1) / hz_;
    return ns >= kNever.value ? kNever : VirtualTime(static_cast<uint64_t>(ns));
  }

 private:
  __extension__ using Wide = unsigned __int128;
  uint64_t hz_;
};

// Times and ticks in restored state are below this, so that sums of them cannot overflow.
inline constexpr uint64_t kMaxRestoredTime = uint64_t{1} << 63;

}  // namespace retrovisor
