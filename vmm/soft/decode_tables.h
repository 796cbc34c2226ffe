// Formats of the opcodes: what follows the opcode byte, and how operand size behaves in 64-bit mode.
// Source: SDM 2D appendix A (opcode maps), SDM 2A 2.2.1.7 (default operand size in 64-bit mode), APM 3 appendix A.
#pragma once

#include <array>
#include <cstdint>

namespace retrovisor::soft::format {

// Bits 0-3: the immediate.
inline constexpr uint16_t imm_mask = 0xf;
inline constexpr uint16_t imm8 = 1;      // one byte, sign-extended
inline constexpr uint16_t imm16 = 2;     // two bytes, unsigned: RET n
inline constexpr uint16_t immz = 3;      // two bytes at operand size 16, else four, sign-extended
inline constexpr uint16_t immv = 4;      // as many as the operand has: MOV r, imm
inline constexpr uint16_t moffs = 5;     // as many as an address has: the operand's offset
inline constexpr uint16_t far_ptr = 6;   // offset of operand size, selector
inline constexpr uint16_t enter = 7;     // two bytes and one
inline constexpr uint16_t group3b = 8;   // F6: imm8 for /0 and /1
inline constexpr uint16_t group3z = 9;   // F7: immz for /0 and /1
inline constexpr uint16_t extract = 10;  // 0F78: two bytes in the register forms with 66 or F2 (SSE4a)
// How the opcode continues and which modes know it.
inline constexpr uint16_t modrm = 1 << 4;
inline constexpr uint16_t opcode_register = 1 << 5;  // bits 0-2 of the opcode and REX.B name a register
inline constexpr uint16_t no_memory = 1 << 6;        // ModRM.mod is ignored: MOV to and from CRn, DRn
inline constexpr uint16_t not_in_64 = 1 << 7;        // #UD in 64-bit mode
inline constexpr uint16_t undefined = 1 << 8;        // #UD
// Operand size in 64-bit mode.
inline constexpr uint16_t default_64 = 1 << 9;       // 64 bit, or 16 with prefix 66
inline constexpr uint16_t force_64 = 1 << 10;        // 64 bit whatever the prefixes
// Bytes that are no plain opcodes.
inline constexpr uint16_t prefix = 1 << 11;
inline constexpr uint16_t special = 1 << 12;         // escapes, and bytes that can start a VEX, EVEX or XOP encoding

extern const std::array<uint16_t, 256> one_byte;
extern const std::array<uint16_t, 256> map_0f;
// All of 0F38 is ModRM alone, all of 0F3A is ModRM and imm8.
inline constexpr uint16_t map_0f38 = modrm;
inline constexpr uint16_t map_0f3a = modrm | imm8;

// What follows the opcode of a VEX or EVEX encoding in its opcode map 1 (0F). Maps 2, 5 and 6 are ModRM alone, map 3 is
// ModRM and imm8.
uint16_t vex_0f(uint8_t opcode);

}  // namespace retrovisor::soft::format
