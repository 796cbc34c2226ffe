// From a decoded instruction to an Op: what the emitters of all groups share, and the one that asks them in turn.
#pragma once

#include "vmm/soft/insn.h"
#include "vmm/soft/op.h"

namespace retrovisor::soft {

// What an emitter made of an instruction.
enum class Emit : uint8_t {
  unknown,  // not of this group, or no such form: #UD
  next,     // execution falls through to the next Op
  end,      // ends the block
  branch,   // ends the block; the handler gets the Block in op.imm and finds the branch target in Block::target
};

// What CR0 and CR4 have to allow before the instruction runs.
enum class FpuClass : uint8_t { none, x87, wait, mmx, sse, fxsave };  // fxsave: FXSAVE and FXRSTOR, #NM for EM or TS

inline Emit emit_as(Op& op, Handler h, Emit e = Emit::next) {
  op.fn = h;
  return e;
}

// Fills the addressing fields (base, index, scale, ea, disp, seg_off), length and ip_offset; r0 and r1 hold insn.reg and insn.rm as
// slot_of() offsets, imm holds insn.imm.
void prepare_op(const Insn& insn, unsigned ip_offset, Op& op);

// Chooses the handler of an `op` that is prepared: asks the emitter of each group (emit_alu() and so on) in turn. They may change
// any of r0, r1, imm, base, index if the form does not use them. `fpu`: what CR0 and CR4 have to allow first.
Emit emit(const Insn& insn, FpuClass& fpu, Op& op);

// Does the instruction, of which no emitter knew anything, raise #UD on every processor?
bool undefined_everywhere(const Insn& insn);

// An op to put before one of class `fpu` in blocks of block_mode::fpu_trap: raises #NM or #UD if CR0 or CR4 say so.
Handler fpu_check_handler(FpuClass fpu);

}  // namespace retrovisor::soft
