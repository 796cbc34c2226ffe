// The named CPU model that guests see: fixed, at x86-64-v2 level, nothing of the host.
#pragma once

#include <cstdint>

#include "vmm/cpu/state.h"

namespace retrovisor {

inline constexpr std::string_view kCpuModelName = "retrovisor-v2";
inline constexpr uint64_t kTscHz = 1'000'000'000;  // one tick per ns of guest time

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Answers CPUID for `state` (OSXSAVE and the XSAVE size depend on it) of vCPU `id` among `vcpus`.
CpuidResult cpuid(uint32_t leaf, uint32_t subleaf, const CpuState& state, VcpuId id, uint32_t vcpus);

}  // namespace retrovisor
