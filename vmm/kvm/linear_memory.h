// Guest memory at linear addresses, as the guest has it mapped now. Looks only: no accessed flags, no rights.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "vmm/cpu/state.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor::kvm {

inline constexpr size_t kLongestInstruction = 15;  // bytes (SDM 2A 2.3.11)

// False: some of it is not mapped, or no RAM; `out` is then filled in part.
bool read_linear(const CpuState& s, GuestMemory& memory, LinearAddr from, std::span<uint8_t> out);
// The bytes at CS:RIP, as many of them as can be read.
size_t read_code(const CpuState& s, GuestMemory& memory, std::span<uint8_t, kLongestInstruction> out);

}  // namespace retrovisor::kvm
