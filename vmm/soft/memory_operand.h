// The memory that an instruction accesses where ModRM names it or its opcode does: where, how much, and whether it reads or writes
// it.
#pragma once

#include <array>
#include <cstdint>

#include "vmm/soft/insn.h"

namespace retrovisor::soft {

enum class MemoryUse : uint8_t {
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
  MemoryUse use = MemoryUse::read;
  bool implicit = false;       // the opcode names it: stack, string operations, XLAT (whose index is AL), MASKMOV
  // BT and its kin: the register whose value, a signed number of bits, counts from the address on: by `size` bytes for each 8 * size
  // of them. kNoRegister: none does.
  uint8_t bit_register = kNoRegister;
  uint16_t size = 0;           // in bytes; 0: it depends on more than the instruction (XSAVE: on XCR0 and EDX:EAX)
  int64_t displacement = 0;
};

// In the order in which they are accessed. An address alone (LEA, hints, INVLPG) is none. Repeated instructions: what one iteration
// accesses. May be accessed in part, or not at all, by what comes of it: REP with a count of zero, masks, POPA.
struct MemoryOperands {
  std::array<MemoryOperand, 3> list;
  uint8_t count = 0;
  // Depending on mode and descriptors, also tables (descriptors, gates, interrupt vectors, task states), and stacks that these name:
  // far transfers, interrupts, loads of segment registers, port accesses. A transfer to another privilege level, and INT at any, has
  // its frame there.
  bool tables = false;

  const MemoryOperand* begin() const { return list.data(); }
  const MemoryOperand* end() const { return list.data() + count; }
};
MemoryOperands memory_operands_of(const Insn& insn);

}  // namespace retrovisor::soft
