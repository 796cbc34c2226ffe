// The unit of execution of the soft engine: a decoded operation, and how handlers follow one another.
//
// A block is an array of Ops. Each handler does its work and tail-calls the handler of the next Op; the last one of a
// block leads to the next block or returns to the run loop. With clang the tail calls are guaranteed (musttail, and
// preserve_none so that nothing is saved around them); elsewhere handlers return the next Op to a small loop.
#pragma once

#include <cstdint>

namespace retrovisor::soft {

struct SoftCpu;
struct Op;
struct Block;

#if defined(__clang__) && __has_cpp_attribute(clang::musttail) && __has_attribute(preserve_none) && !defined(RV_NO_TAIL_CALLS)
#define RV_TAIL_CALLS 1
typedef __attribute__((preserve_none)) void (*Handler)(SoftCpu*, const Op*);
#define RV_HANDLER __attribute__((preserve_none)) void
// Goes on with Op `o`.
#define RV_GOTO(o) \
  do { \
    const Op* rv_target_ = (o); \
    [[clang::musttail]] return rv_target_->fn(cpu, rv_target_); \
  } while (false)
// Leaves the block; the run loop looks at cpu->exit.
#define RV_LEAVE return
#define RV_FAULT [[clang::musttail]] return op_fault(cpu, op)
#else
#define RV_TAIL_CALLS 0
using Handler = const Op* (*)(SoftCpu*, const Op*);
#define RV_HANDLER const Op*
#define RV_GOTO(o) return (o)
#define RV_LEAVE return nullptr
#define RV_FAULT return op_fault(cpu, op)
#endif
#define RV_NEXT RV_GOTO(op + 1)

// What an Op says about its memory operand, beside base, index, scale and displacement.
namespace ea {
inline constexpr uint8_t seg_mask = 7;      // bits 0-2: SegReg
inline constexpr uint8_t size_shift = 4;    // bits 4-5: address size: 0: 16 bit, 1: 32 bit, 2: 64 bit
inline constexpr uint8_t size_mask = 3;
inline constexpr uint8_t wide = 1 << 6;     // 2^32 is to be added to disp: a RIP-relative displacement that grew past 31 bits
inline constexpr uint8_t legacy = 1 << 7;   // not 64-bit mode: segment limits and types are checked
}  // namespace ea

// An Op is what the interpreter runs, and nothing else: whoever wants to know what a block does reads the DecodedBlock it was made
// of. The fields from `base` on say the same in all Ops, but for the exceptions below; prepare_op() fills them. What the first ones
// say is up to the group of instructions:
//
//   group                     r0                        r1                       imm
//   alu, move, bits           slot of the destination   slot of the source       the immediate
//   shift, multiply, unary    slot of a second operand  slot of the operand      the immediate, or the count
//   stack                     operand size, in the      slot of the register     the immediate; ENTER: its size
//                             forms for any mode
//   branch, fast forms        as alu, if a comparison   as alu                   the Block* that the Op ends
//                             is in it
//   branch, any mode          -                         slot of the target       the relative target; operand size (indirect)
//   far, segments, control,   operand size              slot of the register     by instruction: the comments in the headers
//   MSRs, flags, ports                                                           (far_transfer.h, segment_ops.h, ...)
//   x87                       i of ST(i)                1: 16-bit operand size   FOP, as FSTENV shows it
//   MMX, SSE                  number of ModRM.reg's     number of ModRM.rm's     the immediate; FXSAVE and the like: REX.W
//                             register, or its slot     register, or its slot
//
// A slot is the byte offset of a general register in SoftCpu (number * 8, + 1 for AH, CH, DH, BH). The exceptions: branches for any
// mode have the operand size in `scale`, LOOPcc and JrCXZ the address size in `disp`, a comparison with its branch the immediate in
// `disp`; MOV with a moffs has the whole offset in `imm`, ENTER its level in `disp`, XLAT the address size in `r0`.
struct Op {
  Handler fn;
  int64_t imm;         // the immediate, or as above; in Ops that end a block and find the next by themselves: Block*
  int32_t disp;        // displacement; for RIP-relative operands relative to the start of the block
  uint8_t r0;          // as above
  uint8_t r1;          // as above
  uint8_t base;        // slot of the base register; of the zero slot if absent; of RIP (= start of block)
  uint8_t index;       // slot of the index register; of the zero slot if absent
  uint8_t scale;       // 0-3: index << scale
  uint8_t ea;          // namespace ea
  uint8_t remaining;   // instructions from this one to the end of the block, this one included
  uint8_t length;      // of the instruction, in bytes
  uint16_t ip_offset;  // of the instruction from the start of the block
  uint16_t seg_off;    // byte offset into SoftCpu of the segment base to add (64-bit mode: the zero slot, or FS or GS base)
};
static_assert(sizeof(Op) == 32);

// The common end of all faults: cpu->fault is set, nothing of the instruction has happened.
// Makes RIP and the instruction count exact and leaves the block.
RV_HANDLER op_fault(SoftCpu* cpu, const Op* op);

// Most instructions need no hand-tuned handler: they are written as a plain function.
// True: done. False: cpu.fault is set (or an exit was asked for) and no architectural state has changed.
// During the call s.rip is the start of the block; use instruction_rip() if needed.
using Exec = bool (*)(SoftCpu& cpu, const Op& op);

template <Exec F>
RV_HANDLER op_call(SoftCpu* cpu, const Op* op) {
  if (__builtin_expect(F(*cpu, *op), 1)) RV_NEXT;
  RV_FAULT;
}

// The same for instructions that end a block (anything that changes RIP, CPL, mode, paging or interruptibility, all
// port I/O). When F is entered, s.rip is the address of the instruction itself, position and clock are exact
// (this instruction not counted); emitters make the displacement of a RIP-relative operand relative to the instruction then,
// not to the block. On success F has moved s.rip on (advance_rip() for those that fall through).
bool call_end(SoftCpu& cpu, const Op& op, Exec f);
template <Exec F>
RV_HANDLER op_call_end(SoftCpu* cpu, const Op* op) {
  call_end(*cpu, *op, F);
  RV_LEAVE;
}

}  // namespace retrovisor::soft
