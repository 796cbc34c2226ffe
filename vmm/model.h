// The version of the machine model: everything about devices, memory map, CPUID and timing that a guest can see.
#pragma once

#include <cstdint>

namespace retrovisor {

// Raised by every guest-visible change of devices, memory map, CPUID or timing. Traces name it.
inline constexpr uint32_t kMachineModelVersion = 3;

}  // namespace retrovisor
