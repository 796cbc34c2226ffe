// From a decoded instruction to an Op: addressing fields, the emitter groups, and the checks of CR0 and CR4.
#include "vmm/soft/emit.h"

#include "vmm/soft/alu.h"
#include "vmm/soft/bits.h"
#include "vmm/soft/branch.h"
#include "vmm/soft/decode_tables.h"
#include "vmm/soft/emit_sse.h"
#include "vmm/soft/emit_system.h"
#include "vmm/soft/emit_x87.h"
#include "vmm/soft/move.h"
#include "vmm/soft/multiply.h"
#include "vmm/soft/shift.h"
#include "vmm/soft/soft_cpu.h"
#include "vmm/soft/stack.h"
#include "vmm/soft/string.h"

namespace retrovisor::soft {
namespace {

// x87, MMX and SSE while CR0 or CR4 may forbid them (SDM 3A 2.5, table 11-1 of volume 1). Blocks decoded in such a mode
// have an op with this check before the op proper; when all is allowed the mode is another one, and costs nothing.
bool fpu_allowed(SoftCpu& cpu, FpuClass fpu) {
  const uint64_t cr0 = cpu.s.cr0;
  const bool em = (cr0 & cr0::EM) != 0, ts = (cr0 & cr0::TS) != 0;
  switch (fpu) {
    case FpuClass::none: return true;
    case FpuClass::x87: return em || ts ? raise(cpu, vec::NM) : true;
    case FpuClass::wait: return ts && (cr0 & cr0::MP) != 0 ? raise(cpu, vec::NM) : true;
    case FpuClass::mmx: return em ? raise_ud(cpu) : ts ? raise(cpu, vec::NM) : true;
    case FpuClass::sse:
      if (em || (cpu.s.cr4 & cr4::OSFXSR) == 0) return raise_ud(cpu);
      return ts ? raise(cpu, vec::NM) : true;
    case FpuClass::fxsave: return em || ts ? raise(cpu, vec::NM) : true;
  }
  return true;
}

template <FpuClass C>
RV_HANDLER op_fpu_check(SoftCpu* cpu, const Op* op) {
  if (!fpu_allowed(*cpu, C)) RV_FAULT;
  RV_NEXT;
}

}  // namespace

Handler fpu_check_handler(FpuClass fpu) {
  switch (fpu) {
    case FpuClass::x87: return op_fpu_check<FpuClass::x87>;
    case FpuClass::wait: return op_fpu_check<FpuClass::wait>;
    case FpuClass::mmx: return op_fpu_check<FpuClass::mmx>;
    case FpuClass::fxsave: return op_fpu_check<FpuClass::fxsave>;
    default: return op_fpu_check<FpuClass::sse>;
  }
}

void prepare_op(const Insn& insn, unsigned ip_offset, Op& op) {
  op = Op{};
  op.length = insn.length;
  op.ip_offset = static_cast<uint16_t>(ip_offset);
  op.imm = insn.imm;
  op.r0 = slot_of(insn.reg);
  op.r1 = slot_of(insn.rm);
  op.base = insn.base == kNoRegister ? kZeroSlot : slot_of(insn.base);
  op.index = insn.index == kNoRegister ? kZeroSlot : slot_of(insn.index);
  op.scale = insn.scale;
  op.disp = static_cast<int32_t>(insn.disp);
  op.seg_off = kZeroSlot;
  const bool code64 = insn.mode == block_mode::code64;
  if (code64 && insn.segment >= FS) {
    op.seg_off = static_cast<uint16_t>(offsetof(CpuState, segment) + insn.segment * sizeof(Segment) + offsetof(Segment, base));
  }
  const unsigned size = insn.address_size == 2 ? 0 : insn.address_size == 4 ? 1 : 2;
  op.ea = static_cast<uint8_t>(insn.segment | size << ea::size_shift | (code64 ? 0u : unsigned{ea::legacy}));
  if (insn.base == kRipBase) {
    op.base = kRipSlot;
    const int64_t disp = insn.disp + static_cast<int64_t>(ip_offset) + insn.length;
    op.disp = static_cast<int32_t>(static_cast<uint32_t>(disp));
    if (disp != op.disp) op.ea |= ea::wide;
  }
}

namespace {

Emit emit_integer(const Insn& insn, Op& op) {
  for (const auto group : {emit_alu, emit_move, emit_branch, emit_stack, emit_shift, emit_multiply, emit_bits, emit_string}) {
    const Op before = op;
    const Emit result = group(insn, op);
    if (result != Emit::unknown) return result;
    op = before;
  }
  return Emit::unknown;
}

}  // namespace

Emit emit(const Insn& insn, FpuClass& fpu, Op& op) {
  fpu = FpuClass::none;
  const Op before = op;
  Emit result = emit_integer(insn, op);
  if (result != Emit::unknown) return result;
  op = before;
  result = emit_system(insn, op);
  if (result != Emit::unknown) return result;
  op = before;
  result = emit_x87(insn, op, fpu);
  if (result != Emit::unknown) return result;
  op = before;
  fpu = FpuClass::none;
  return emit_sse(insn, op, fpu);
}

// SDM 2: UD0, UD1, UD2; MOV to CS, to or from segment and control registers that there are not; a LOCK that the instruction may not
// have; forms of LEA, INC, CALL and JMP that there are not; opcodes that 64-bit mode has lost.
bool undefined_everywhere(const Insn& insn) {
  const unsigned field = insn.reg_field();
  if (insn.map == OpMap::one_byte) {
    switch (insn.opcode) {
      case 0x8c: if (field > GS) return true; break;
      case 0x8d: if (!insn.memory) return true; break;
      case 0x8e: if (field == CS || field > GS) return true; break;
      case 0xfe: if (field > 1) return true; break;
      case 0xff: if (field == 7 || (!insn.memory && (field == 3 || field == 5))) return true; break;
      default: break;
    }
    const uint16_t format = format::one_byte[insn.opcode];
    if (insn.mode == block_mode::code64 && (format & format::not_in_64) != 0 && (format & format::special) == 0) return true;
  } else if (insn.map == OpMap::map_0f) {
    switch (insn.opcode) {
      case 0x0b: case 0xb9: case 0xff: return true;
      case 0x20: case 0x22: if (insn.reg != 0 && insn.reg != 2 && insn.reg != 3 && insn.reg != 4 && insn.reg != 8) return true; break;
      default: break;
    }
  }
  if (!insn.lock) return false;
  Insn plain = insn;
  plain.lock = false;
  Op op;
  prepare_op(plain, 0, op);
  FpuClass fpu = FpuClass::none;
  return emit(plain, fpu, op) != Emit::unknown;
}

}  // namespace retrovisor::soft
