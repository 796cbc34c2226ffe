#include "vmm/soft/decode_tables.h"

namespace retrovisor::soft::format {
namespace {

constexpr void fill(std::array<uint16_t, 256>& table, unsigned first, unsigned last, unsigned value) {
  for (unsigned i = first; i <= last; ++i) table[i] = static_cast<uint16_t>(value);
}

constexpr std::array<uint16_t, 256> make_one_byte() {
  std::array<uint16_t, 256> t{};
  for (unsigned row = 0; row < 0x40; row += 8) {  // ADD, OR, ADC, SBB, AND, SUB, XOR, CMP
    fill(t, row, row + 3, modrm);
    t[row + 4] = imm8;
    t[row + 5] = immz;
    fill(t, row + 6, row + 7, not_in_64);  // PUSH, POP of segment registers; DAA, DAS, AAA, AAS
  }
  t[0x0f] = special;
  t[0x26] = t[0x2e] = t[0x36] = t[0x3e] = prefix;
  fill(t, 0x40, 0x4f, opcode_register);  // INC, DEC; REX in 64-bit mode
  fill(t, 0x50, 0x5f, opcode_register | default_64);
  fill(t, 0x60, 0x61, not_in_64);
  t[0x62] = special | modrm | not_in_64;  // BOUND or EVEX
  t[0x63] = modrm;
  fill(t, 0x64, 0x67, prefix);
  t[0x68] = immz | default_64;
  t[0x69] = modrm | immz;
  t[0x6a] = imm8 | default_64;
  t[0x6b] = modrm | imm8;
  fill(t, 0x70, 0x7f, imm8 | force_64);
  t[0x80] = modrm | imm8;
  t[0x81] = modrm | immz;
  t[0x82] = modrm | imm8 | not_in_64;
  t[0x83] = modrm | imm8;
  fill(t, 0x84, 0x8e, modrm);
  t[0x8f] = special | modrm | default_64;  // POP or XOP
  fill(t, 0x90, 0x97, opcode_register);
  t[0x9a] = far_ptr | not_in_64;
  fill(t, 0x9c, 0x9d, default_64);
  fill(t, 0xa0, 0xa3, moffs);
  t[0xa8] = imm8;
  t[0xa9] = immz;
  fill(t, 0xb0, 0xb7, opcode_register | imm8);
  fill(t, 0xb8, 0xbf, opcode_register | immv);
  fill(t, 0xc0, 0xc1, modrm | imm8);
  t[0xc2] = imm16 | force_64;
  t[0xc3] = force_64;
  fill(t, 0xc4, 0xc5, special | modrm | not_in_64);  // LES, LDS or VEX
  t[0xc6] = modrm | imm8;
  t[0xc7] = modrm | immz;
  t[0xc8] = enter | default_64;
  t[0xc9] = default_64;
  t[0xca] = imm16;
  t[0xcd] = imm8;
  t[0xce] = not_in_64;
  fill(t, 0xd0, 0xd3, modrm);
  fill(t, 0xd4, 0xd5, imm8 | not_in_64);
  t[0xd6] = not_in_64;
  fill(t, 0xd8, 0xdf, modrm);
  fill(t, 0xe0, 0xe3, imm8 | force_64);
  fill(t, 0xe4, 0xe7, imm8);
  fill(t, 0xe8, 0xe9, immz | force_64);
  t[0xea] = far_ptr | not_in_64;
  t[0xeb] = imm8 | force_64;
  t[0xf0] = t[0xf2] = t[0xf3] = prefix;
  t[0xf6] = modrm | group3b;
  t[0xf7] = modrm | group3z;
  t[0xfe] = t[0xff] = modrm;
  return t;
}

constexpr std::array<uint16_t, 256> make_map_0f() {
  std::array<uint16_t, 256> t{};
  fill(t, 0x00, 0xff, modrm);
  t[0x04] = t[0x0a] = t[0x0c] = t[0x36] = t[0x39] = undefined;
  fill(t, 0x05, 0x09, 0);
  t[0x0b] = 0;  // UD2
  t[0x0e] = undefined;  // FEMMS (3DNow!)
  t[0x0f] = modrm | imm8 | undefined;  // 3DNow!: the last byte is the opcode proper
  fill(t, 0x20, 0x23, modrm | no_memory);
  fill(t, 0x24, 0x27, undefined);
  fill(t, 0x30, 0x35, 0);
  t[0x37] = 0;
  t[0x38] = t[0x3a] = special;
  fill(t, 0x3b, 0x3f, undefined);
  fill(t, 0x70, 0x73, modrm | imm8);
  t[0x77] = 0;
  t[0x78] = modrm | extract;
  fill(t, 0x7a, 0x7b, undefined);
  fill(t, 0x80, 0x8f, immz | force_64);
  fill(t, 0xa0, 0xa1, default_64);
  t[0xa2] = 0;
  t[0xa4] = modrm | imm8;
  fill(t, 0xa6, 0xa7, undefined);
  fill(t, 0xa8, 0xa9, default_64);
  t[0xaa] = 0;
  t[0xac] = t[0xba] = t[0xc2] = modrm | imm8;
  fill(t, 0xc4, 0xc6, modrm | imm8);
  fill(t, 0xc8, 0xcf, opcode_register);
  return t;
}

}  // namespace

constexpr std::array<uint16_t, 256> one_byte = make_one_byte();
constexpr std::array<uint16_t, 256> map_0f = make_map_0f();

uint16_t vex_0f(uint8_t opcode) {
  if (opcode == 0x77) return 0;  // VZEROUPPER, VZEROALL
  const bool immediate = (opcode >= 0x70 && opcode <= 0x73) || opcode == 0xc2 || (opcode >= 0xc4 && opcode <= 0xc6);
  return immediate ? modrm | imm8 : modrm;
}

}  // namespace retrovisor::soft::format
