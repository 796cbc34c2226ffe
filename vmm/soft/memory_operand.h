// The memory that an instruction names, in ModRM or by its opcode: where, how much, and whether it reads or writes it.
#pragma once

#include <array>
#include <cstdint>

#include "vmm/soft/insn.h"

namespace retrovisor::soft {

enum class MemoryUse : uint8_t {
  none,        // the address alone is wanted: LEA, hints, INVLPG
  read,
  write,
  read_write,  // or one of the two, as it turns out: CMPXCHG
};

struct MemoryOperand {
  uint8_t segment = DS;        // SegReg
  uint8_t base = kNoRegister;  // Gpr, kRipBase (of the next instruction), kNoRegister
  uint8_t index = kNoRegister;
  uint8_t scale = 0;           // 0-3: index << scale
  uint8_t address_size = 0;    // 2, 4, 8; 0: that of the stack segment (legacy modes)
  MemoryUse use = MemoryUse::none;
  bool implicit = false;       // the opcode names it: stack, string operations, XLAT (whose index is AL), MASKMOV
  uint16_t size = 0;           // in bytes; 0: nothing, or it depends on more than the instruction (XSAVE)
  int64_t displacement = 0;
};

// Explicit ones first. What far transfers, interrupts and the loads of segment registers do with stacks, tables and task states is
// not among them.
struct MemoryOperands {
  std::array<MemoryOperand, 2> list;
  uint8_t count = 0;

  const MemoryOperand* begin() const { return list.data(); }
  const MemoryOperand* end() const { return list.data() + count; }
};
MemoryOperands memory_operands_of(const Insn& insn);

}  // namespace retrovisor::soft
