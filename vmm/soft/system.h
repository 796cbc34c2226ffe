// What the Execs of the system group share (far transfers, segments, control registers, I/O, ...).
//
// What emit_system packs into an Op beside its addressing fields:
//   r0   the operand size in bytes (2, 4, 8), or what the Exec's comment says
//   r1   byte offset of a general register, or what the comment says
//   imm  see the comment
// "end" there: runs through op_call_end; all others through op_call.
#pragma once

#include "vmm/soft/segments.h"

namespace retrovisor::soft {

// In op.ea, where an Exec takes a register or memory: the operand is register r1. Bit 3 is free in namespace ea.
inline constexpr uint8_t kRegisterOperand = 1 << 3;

// Privilege checks that most of them begin with: #GP(0) unless CPL is 0.
inline bool require_ring0(SoftCpu& cpu) { return cpu.s.cpl() == 0 || raise_gp(cpu, 0); }

// Virtual-8086 mode in which IF is not the program's: it is VIF with CR4.VME, and a fault without.
inline bool vm86_below_iopl(const SoftCpu& cpu) { return cpu.s.vm86() && cpu.s.iopl() != 3; }
// Flags that POPF and IRET pop there: IF goes to VIF (SDM 3B 20.3.3.6). False: #GP(0), for TF, or because an interrupt waits (VIP).
inline bool virtual_flags(uint64_t& image, uint64_t old) {
  if ((image & flag::TF) != 0 || ((image & flag::IF) != 0 && (old & flag::VIP) != 0)) return false;
  image = (image & ~flag::VIF) | ((image & flag::IF) != 0 ? flag::VIF : 0);
  return true;
}

// The segment register an Op names in imm.
inline Segment& segment_of(SoftCpu& cpu, const Op& op) { return cpu.s.segment[static_cast<size_t>(op.imm)]; }

// Address of the instruction behind this one, in an Exec that ends a block.
inline uint64_t next_rip(const SoftCpu& cpu, const Op& op) { return (cpu.s.rip + op.length) & ip_mask(cpu); }

// A general register by byte offset with an operand size: 32-bit writes clear the upper half, 16-bit writes keep it.
inline uint64_t get_sized(const SoftCpu& cpu, unsigned offset, unsigned size) {
  const uint64_t v = get<uint64_t>(&cpu, offset);
  return size == 8 ? v : size == 4 ? v & 0xffffffff : v & 0xffff;
}
inline void set_sized(SoftCpu& cpu, unsigned offset, unsigned size, uint64_t v) {
  if (size == 8) set<uint64_t>(&cpu, offset, v);
  else if (size == 4) set<uint32_t>(&cpu, offset, static_cast<uint32_t>(v));
  else set<uint16_t>(&cpu, offset, static_cast<uint16_t>(v));
}

}  // namespace retrovisor::soft
