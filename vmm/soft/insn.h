// A decoded instruction: what the decoder makes of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/cpu/registers.h"
#include "vmm/processor_model.h"

namespace retrovisor::soft {

inline constexpr unsigned kMaxInsnLength = 15;

enum class OpMap : uint8_t { one_byte, map_0f, map_0f38, map_0f3a };

inline constexpr uint8_t kNoRegister = 0xff;
inline constexpr uint8_t kRipBase = 0xfe;  // Insn::base of a RIP-relative operand

struct Insn {
  uint8_t length = 0;          // bytes, prefixes included
  uint8_t mode = 0;            // block_mode::code16, code32, code64
  bool flat = false;           // set by the builder of blocks: block_mode::flat
  ProcessorModel processor_model = ProcessorModel::model;  // likewise: the vendor's (vendor_of)
  bool scans_keep_flags = false;  // likewise: BSF and BSR change ZF only (ProcessorModel::amd_zen3)
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
  bool has_imm = false;        // there is one in the bytes, which may be 0
  uint16_t imm2 = 0;           // ENTER's level, EXTRQ/INSERTQ's second; selector of far pointers

  uint8_t mod() const { return modrm >> 6; }
  uint8_t reg_field() const { return modrm >> 3 & 7; }  // opcode extension (/digit)
  uint8_t rm_field() const { return modrm & 7; }
};

}  // namespace retrovisor::soft
