// The stack in any mode. 64-bit code has fast forms of its own in stack.cc and branch.cc.
#pragma once

#include "vmm/soft/emit.h"
#include "vmm/soft/memory.h"

namespace retrovisor::soft {

// PUSH POP PUSHA POPA ENTER LEAVE.
Emit emit_stack(const Insn& insn, Op& op);

// Mask of the stack pointer: 64-bit mode, SS.B, or 16 bits (SDM 1 6.2.3).
inline uint64_t sp_mask(const SoftCpu& cpu) {
  if (cpu.s.mode64()) return ~uint64_t{0};
  return (cpu.s.segment[SS].attributes & seg::DB) != 0 ? 0xffffffff : 0xffff;
}
// Adds to the stack pointer; bits above the stack's width stay.
inline void move_sp(SoftCpu& cpu, int64_t by) {
  const uint64_t mask = sp_mask(cpu);
  cpu.s.gpr[RSP] = (cpu.s.gpr[RSP] & ~mask) | ((cpu.s.gpr[RSP] + static_cast<uint64_t>(by)) & mask);
}
// Reads the `size` (2, 4, 8) bytes at SP + offset. False: cpu.fault is set.
bool peek(SoftCpu& cpu, const Op& op, int64_t offset, uint64_t& value, unsigned size);
// Writes at SP + offset, without moving SP.
bool poke(SoftCpu& cpu, const Op& op, int64_t offset, uint64_t value, unsigned size);
inline bool push(SoftCpu& cpu, const Op& op, uint64_t value, unsigned size) {
  if (!poke(cpu, op, -static_cast<int64_t>(size), value, size)) return false;
  move_sp(cpu, -static_cast<int64_t>(size));
  return true;
}

}  // namespace retrovisor::soft
