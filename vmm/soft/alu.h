// ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NOT NEG.
#pragma once

#include <optional>

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_alu(const Insn& insn, Op& op);

// A comparison that fuse_compare_branch() can take up: CMP or TEST of a register of 8, 32 or 64 bits with another or an immediate.
struct Compare {
  unsigned size = 0;  // in bytes
  bool test = false;
  bool immediate = false;
};
std::optional<Compare> compare_of(const Insn& insn);

}  // namespace retrovisor::soft
