// The named CPU model that guests see: fixed, at x86-64-v2 level, nothing of the host.
#pragma once

#include <cstdint>
#include <string_view>

#include "vmm/cpu/state.h"

namespace retrovisor {

inline constexpr std::string_view kCpuModelName = "retrovisor-v2";
inline constexpr uint64_t kTscHz = 1'000'000'000;  // one tick per ns of guest time

// What the model implements, for the checks of control registers and MSRs.
inline constexpr unsigned kPhysicalBits = 40;
inline constexpr uint64_t kCr4Supported = cr4::VME | cr4::PVI | cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::MCE |
                                          cr4::PGE | cr4::PCE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::UMIP | cr4::FSGSBASE |
                                          cr4::OSXSAVE | cr4::SMEP | cr4::SMAP;
inline constexpr uint64_t kEferSupported = efer::SCE | efer::LME | efer::LMA | efer::NXE;
inline constexpr uint64_t kXcr0Supported = 3;  // x87, SSE
inline constexpr uint32_t kXsaveSize = 576;    // legacy area and header

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Answers CPUID for `state` (OSXSAVE and the XSAVE size depend on it) of vCPU `id` among `vcpus`. `apic`: IA32_APIC_BASE.EN, which
// leaf 1 shows (SDM 3A 10.4.3).
CpuidResult cpuid(uint32_t leaf, uint32_t subleaf, const CpuState& state, VcpuId id, uint32_t vcpus, bool apic = true);

}  // namespace retrovisor
