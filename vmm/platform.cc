#include "vmm/platform.h"

#include <bit>

namespace retrovisor {

std::string_view to_string(StopReason reason) {
  switch (reason) {
    case StopReason::position: return "position reached";
    case StopReason::power_off: return "power-off";
    case StopReason::reset: return "reset";
    case StopReason::triple_fault: return "triple fault";
    case StopReason::debug_exit: return "debug exit";
    case StopReason::guest_panic: return "guest panic";
    case StopReason::halted_forever: return "halted for ever";
    case StopReason::stuck: return "endless exceptions";
    case StopReason::host_request: return "host request";
    case StopReason::observed: return "observer";
    case StopReason::engine_failed: return "engine failed";
  }
  return "unknown";
}

// xoshiro256** (Blackman, Vigna: Scrambled linear pseudorandom number generators).
uint64_t Entropy::next() {
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

void Entropy::save(StateWriter& out) const {
  out.section("entropy");
  out.u64("s0", s_[0]);
  out.u64("s1", s_[1]);
  out.u64("s2", s_[2]);
  out.u64("s3", s_[3]);
}

void Entropy::restore(StateReader& in) {
  in.section("entropy");
  in.u64("s0", s_[0]);
  in.u64("s1", s_[1]);
  in.u64("s2", s_[2]);
  in.u64("s3", s_[3]);
}

}  // namespace retrovisor
