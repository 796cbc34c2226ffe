// Names for the instructions that KVM leaves to the soft engine: for statistics.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "vmm/cpu/state.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor::kvm {

class InstructionNames {
 public:
  InstructionNames() = default;
  ~InstructionNames();
  InstructionNames(const InstructionNames&) = delete;
  InstructionNames& operator=(const InstructionNames&) = delete;

  // The mnemonic of the first instruction in `bytes`, in code of 16, 32 or 64 bits: "popcnt", "lock cmpxchg16b". Where
  // nobody knows it, its first bytes in hex: "0f 04 90".
  std::string name(std::span<const uint8_t> bytes, unsigned bits);
  // Of the instruction that a vCPU is about to execute; "?" if it cannot be read.
  std::string at_rip(const CpuState& s, GuestMemory& memory);

 private:
  size_t disassembler_ = 0;  // Capstone's handle
};

}  // namespace retrovisor::kvm
