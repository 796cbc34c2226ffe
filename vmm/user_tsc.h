// How RDTSC and RDTSCP of a guest's programs (CPL 3) are answered, where the guest lets them read the TSC. Traces store
// the number.
#pragma once

#include <cstdint>

namespace retrovisor {

enum class UserTsc : uint8_t {
  direct = 0,  // at once
  // In long mode, by a #GP that is taken back: what KVM's API allows a VMM to do (CR4.TSD behind the guest's back, and a
  // breakpoint on the guest's #GP handler). The processor pushes the exception's frame on the guest's kernel stack, above
  // which nothing is while a program runs; then all registers are as before, and the instruction gives its value. The frame
  // remains in memory, so whoever replays such a machine has to push it, too.
  by_exception = 1,
};

}  // namespace retrovisor
