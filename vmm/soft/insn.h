// A decoded instruction, before it becomes an Op: the decoder's output and the emitters' input.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/cpu/registers.h"
#include "vmm/processor_model.h"
#include "vmm/soft/op.h"

namespace retrovisor::soft {

inline constexpr unsigned kMaxInsnLength = 15;

enum class OpMap : uint8_t { one_byte, map_0f, map_0f38, map_0f3a };

inline constexpr uint8_t kNoRegister = 0xff;
inline constexpr uint8_t kRipBase = 0xfe;  // Insn::base of a RIP-relative operand

struct Insn {
  uint8_t length = 0;          // bytes, prefixes included
  uint8_t mode = 0;            // block_mode::code16, code32, code64
  bool flat = false;           // set by the engine: block_mode::flat
  ProcessorModel processor_model = ProcessorModel::model;  // set by the engine: the vendor's (vendor_of)
  bool scans_keep_flags = false;  // set by the engine: BSF and BSR change ZF only (ProcessorModel::amd_zen3)
  OpMap map = OpMap::one_byte;
  uint8_t opcode = 0;          // last opcode byte
  uint8_t operand_size = 0;    // 2, 4 or 8 after prefixes, REX.W and mode; 8 where 64-bit mode forces or defaults it (push, near jumps, ...)
  uint8_t address_size = 0;    // 2, 4, 8
  uint8_t rex = 0;             // REX byte as it counts (0 if none or not directly before the opcode)
  uint8_t rep = 0;             // last of 0xf2, 0xf3 seen, or 0
  bool prefix66 = false;
  bool prefix67 = false;
  bool lock = false;
  uint8_t segment_override = kNoRegister;  // SegReg; in 64-bit mode only FS and GS count

  bool has_modrm = false;
  uint8_t modrm = 0;
  uint8_t reg = 0;             // ModRM.reg with REX.R (or the register of the opcode's low bits with REX.B, for opcodes that hold one)
  uint8_t rm = 0;              // ModRM.rm with REX.B, when mod == 3
  bool memory = false;         // ModRM names memory, or the opcode has a moffs
  uint8_t base = kNoRegister;  // Gpr, kRipBase
  uint8_t index = kNoRegister;
  uint8_t scale = 0;           // 0-3
  uint8_t segment = DS;        // SegReg of the memory operand: override, else SS for rBP/rSP based, else DS
  int64_t disp = 0;            // sign-extended displacement; the whole offset of a moffs (8 bytes in 64-bit mode)
  int64_t imm = 0;             // sign-extended immediate; relative displacement of branches; offset of far pointers
  uint16_t imm2 = 0;           // ENTER's level, EXTRQ/INSERTQ's second; selector of far pointers

  uint8_t mod() const { return modrm >> 6; }
  uint8_t reg_field() const { return modrm >> 3 & 7; }  // opcode extension (/digit)
  uint8_t rm_field() const { return modrm & 7; }
};

enum class DecodeStatus : uint8_t {
  ok,
  truncated,  // more bytes are needed than there are (fewer than kMaxInsnLength were given)
  too_long,   // more than 15 bytes: #GP(0)
  invalid,    // no such opcode: #UD; `length` holds what was read
};

// Decodes one instruction from the `available` bytes at `bytes`. `mode`: block_mode::code16, code32 or code64.
// Knows every defined one-, two- and three-byte opcode's format (so lengths are right even for instructions that the
// engine then answers with #UD, such as VEX-coded ones).
DecodeStatus decode(const uint8_t* bytes, size_t available, uint8_t mode, Insn& out);

// What an emitter made of an instruction.
enum class Emit : uint8_t {
  unknown,  // not of this group, or no such form: #UD
  next,     // execution falls through to the next Op
  end,      // ends the block
  branch,   // ends the block; the handler gets the Block in op.imm and finds the branch target in Block::target
};

// What CR0 and CR4 have to allow before the instruction runs.
enum class FpuClass : uint8_t { none, x87, wait, mmx, sse, fxsave };  // fxsave: FXSAVE and FXRSTOR, #NM for EM or TS

// Emitters choose the handler. When they are called, op's addressing fields (base, index, scale, ea, disp, seg_off),
// length, ip_offset and remaining are filled, r0 and r1 hold insn.reg and insn.rm as slot_of() offsets, imm holds
// insn.imm. They may change any of r0, r1, imm, base, index if the form does not use them.
Emit emit_integer(const Insn& insn, Op& op);                    // integer, control flow, string; also flags
Emit emit_system(const Insn& insn, Op& op);                     // far transfers, segments, control registers, I/O, ...
Emit emit_x87(const Insn& insn, Op& op, FpuClass& fpu);         // D8-DF, 9B
Emit emit_sse(const Insn& insn, Op& op, FpuClass& fpu);         // MMX, SSE-SSE4.2, FXSAVE/XSAVE, and what shares their opcodes

// Raises #UD and counts the instruction's bytes in the statistics.
bool exec_undefined(SoftCpu& cpu, const Op& op);

}  // namespace retrovisor::soft
