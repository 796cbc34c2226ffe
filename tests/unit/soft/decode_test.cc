// The decoder's fields, case by case.
#include "vmm/soft/decode.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

constexpr uint8_t kCode16 = block_mode::code16, kCode32 = block_mode::code32, kCode64 = block_mode::code64;

struct Decoded {
  DecodeStatus status;
  Insn insn;
};

Decoded decode_bytes(uint8_t mode, std::initializer_list<uint8_t> bytes) {
  // An exactly sized heap block, so that a sanitizer sees any read behind it.
  const std::vector<uint8_t> copy(bytes);
  Decoded out{};
  out.status = decode(copy.data(), copy.size(), mode, out.insn);
  return out;
}

Insn ok(uint8_t mode, std::initializer_list<uint8_t> bytes) {
  const Decoded d = decode_bytes(mode, bytes);
  EXPECT_EQ(d.status, DecodeStatus::ok);
  EXPECT_EQ(d.insn.length, bytes.size());
  return d.insn;
}

unsigned operand_size(uint8_t mode, std::initializer_list<uint8_t> bytes) { return ok(mode, bytes).operand_size; }

void expect_invalid(uint8_t mode, std::initializer_list<uint8_t> bytes) {
  const Decoded d = decode_bytes(mode, bytes);
  EXPECT_EQ(d.status, DecodeStatus::invalid);
  EXPECT_EQ(d.insn.length, bytes.size());
}

void expect_memory(const Insn& insn, unsigned base, unsigned index, unsigned scale, int64_t disp, unsigned segment) {
  EXPECT_TRUE(insn.memory);
  EXPECT_EQ(insn.base, base);
  EXPECT_EQ(insn.index, index);
  EXPECT_EQ(insn.scale, scale);
  EXPECT_EQ(insn.disp, disp);
  EXPECT_EQ(insn.segment, segment);
}

TEST(Decode, reads_a_plain_register_form) {
  const Insn insn = ok(kCode64, {0x01, 0xd8});  // add eax, ebx
  EXPECT_EQ(insn.map, OpMap::one_byte);
  EXPECT_EQ(insn.opcode, 0x01);
  EXPECT_TRUE(insn.has_modrm);
  EXPECT_FALSE(insn.memory);
  EXPECT_EQ(insn.reg, RBX);
  EXPECT_EQ(insn.rm, RAX);
  EXPECT_EQ(insn.operand_size, 4);
  EXPECT_EQ(insn.address_size, 8);
  EXPECT_EQ(insn.mode, kCode64);
}

TEST(Decode, names_the_opcode_map) {
  EXPECT_EQ(ok(kCode64, {0x0f, 0xaf, 0xc1}).map, OpMap::map_0f);
  EXPECT_EQ(ok(kCode64, {0x0f, 0x38, 0xf0, 0x01}).map, OpMap::map_0f38);
  const Insn insn = ok(kCode64, {0x66, 0x0f, 0x3a, 0x0f, 0xc1, 0x08});  // palignr
  EXPECT_EQ(insn.map, OpMap::map_0f3a);
  EXPECT_EQ(insn.opcode, 0x0f);
  EXPECT_EQ(insn.imm, 8);
}

TEST(Decode, extends_registers_with_rex) {
  const Insn insn = ok(kCode64, {0x4f, 0x01, 0x44, 0xd1, 0x10});  // add [r9 + r10*8 + 16], r8
  EXPECT_EQ(insn.rex, 0x4f);
  EXPECT_EQ(insn.reg, R8);
  EXPECT_EQ(insn.operand_size, 8);
  expect_memory(insn, R9, R10, 3, 16, DS);
  EXPECT_EQ(ok(kCode64, {0x41, 0x50}).reg, R8);   // push r8
  EXPECT_EQ(ok(kCode64, {0x49, 0x0f, 0xc9}).reg, R9);  // bswap r9
  EXPECT_EQ(ok(kCode64, {0x45, 0x01, 0xc8}).rm, R8);
}

TEST(Decode, rex_counts_only_directly_before_the_opcode) {
  const Insn insn = ok(kCode64, {0x48, 0x66, 0x01, 0xd8});
  EXPECT_EQ(insn.rex, 0);
  EXPECT_EQ(insn.operand_size, 2);
  EXPECT_EQ(ok(kCode64, {0x4f, 0x41, 0x50}).rex, 0x41);  // of two the last
  EXPECT_EQ(ok(kCode32, {0x48}).reg, RAX);                // dec eax outside 64-bit mode
  EXPECT_EQ(ok(kCode32, {0x48}).rex, 0);
}

TEST(Decode, operand_size_follows_mode_and_prefixes) {
  EXPECT_EQ(operand_size(kCode16, {0x01, 0xd8}), 2u);
  EXPECT_EQ(operand_size(kCode16, {0x66, 0x01, 0xd8}), 4u);
  EXPECT_EQ(operand_size(kCode32, {0x01, 0xd8}), 4u);
  EXPECT_EQ(operand_size(kCode32, {0x66, 0x01, 0xd8}), 2u);
  EXPECT_EQ(operand_size(kCode64, {0x01, 0xd8}), 4u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x01, 0xd8}), 2u);
  EXPECT_EQ(operand_size(kCode64, {0x48, 0x01, 0xd8}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x48, 0x01, 0xd8}), 8u);  // REX.W wins
}

TEST(Decode, stack_operations_default_to_64_bits_in_64_bit_mode) {
  EXPECT_EQ(operand_size(kCode64, {0x50}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x50}), 2u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x48, 0x50}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x8f, 0x00}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x68, 1, 2, 3, 4}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x68, 1, 2}), 2u);
  EXPECT_EQ(operand_size(kCode64, {0x6a, 1}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x9c}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x9d}), 2u);
  EXPECT_EQ(operand_size(kCode64, {0xc8, 0, 0, 0}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0xc9}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x0f, 0xa0}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x0f, 0xa9}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0xff, 0x30}), 8u);        // push [rax]
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xff, 0x30}), 2u);
  EXPECT_EQ(operand_size(kCode32, {0x50}), 4u);
  EXPECT_EQ(operand_size(kCode16, {0x50}), 2u);
}

TEST(Decode, near_branches_are_64_bit_whatever_the_prefix_in_64_bit_mode) {
  EXPECT_EQ(operand_size(kCode64, {0xe8, 1, 2, 3, 4}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xe8, 1, 2, 3, 4}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xe9, 1, 2, 3, 4}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x0f, 0x84, 1, 2, 3, 4}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xeb, 1}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0x74, 1}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xe3, 1}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xc3}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xc2, 8, 0}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xff, 0xd0}), 8u);  // call rax
  EXPECT_EQ(operand_size(kCode64, {0x66, 0xff, 0xe0}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0xff, 0xc0}), 4u);        // inc eax
  EXPECT_EQ(operand_size(kCode64, {0xff, 0x28}), 4u);        // far jump: 32 bit
  EXPECT_EQ(operand_size(kCode64, {0x48, 0xff, 0x28}), 8u);
  EXPECT_EQ(operand_size(kCode64, {0xca, 8, 0}), 4u);
  EXPECT_EQ(operand_size(kCode32, {0x66, 0xe9, 1, 2}), 2u);
  EXPECT_EQ(operand_size(kCode16, {0x66, 0xe8, 1, 2, 3, 4}), 4u);
}

TEST(Decode, control_and_debug_registers_ignore_mod_and_operand_size) {
  Insn insn = ok(kCode64, {0x66, 0x0f, 0x20, 0x1b});  // mov rbx, cr3 with mod 0
  EXPECT_EQ(insn.operand_size, 8);
  EXPECT_FALSE(insn.memory);
  EXPECT_EQ(insn.rm, RBX);
  EXPECT_EQ(insn.reg, 3);
  insn = ok(kCode32, {0x66, 0x0f, 0x23, 0x7c});
  EXPECT_EQ(insn.operand_size, 4);
  EXPECT_EQ(insn.reg, 7);
  EXPECT_EQ(insn.rm, 4);
  EXPECT_EQ(ok(kCode16, {0x0f, 0x22, 0xc0}).operand_size, 4);
  EXPECT_EQ(ok(kCode64, {0x44, 0x0f, 0x20, 0xc0}).reg, 8);  // cr8
}

TEST(Decode, last_repeat_prefix_counts) {
  EXPECT_EQ(ok(kCode64, {0xf2, 0xf3, 0xa4}).rep, 0xf3);
  EXPECT_EQ(ok(kCode64, {0xf3, 0xf2, 0xa4}).rep, 0xf2);
  const Insn insn = ok(kCode64, {0xf3, 0x66, 0x48, 0x0f, 0xb8, 0xc1});
  EXPECT_EQ(insn.rep, 0xf3);
  EXPECT_TRUE(insn.prefix66);
  EXPECT_EQ(insn.operand_size, 8);
  EXPECT_TRUE(ok(kCode64, {0xf0, 0xf2, 0x0f, 0xb1, 0x08}).lock);
}

TEST(Decode, only_fs_and_gs_override_in_64_bit_mode) {
  EXPECT_EQ(ok(kCode64, {0x2e, 0x8b, 0x00}).segment, DS);
  EXPECT_EQ(ok(kCode64, {0x2e, 0x8b, 0x00}).segment_override, kNoRegister);
  EXPECT_EQ(ok(kCode64, {0x65, 0x8b, 0x00}).segment, GS);
  EXPECT_EQ(ok(kCode64, {0x64, 0x3e, 0x8b, 0x00}).segment, FS);
  EXPECT_EQ(ok(kCode64, {0x64, 0x65, 0x8b, 0x00}).segment, GS);
  EXPECT_EQ(ok(kCode32, {0x26, 0x8b, 0x00}).segment, ES);
  EXPECT_EQ(ok(kCode32, {0x2e, 0x8b, 0x00}).segment, CS);
  EXPECT_EQ(ok(kCode32, {0x36, 0x8b, 0x00}).segment, SS);
  EXPECT_EQ(ok(kCode32, {0x3e, 0x8b, 0x45, 0}).segment, DS);
  EXPECT_EQ(ok(kCode32, {0x64, 0x2e, 0xa4}).segment_override, CS);
}

TEST(Decode, stack_bases_default_to_ss) {
  EXPECT_EQ(ok(kCode64, {0x8b, 0x45, 0x08}).segment, SS);        // [rbp + 8]
  EXPECT_EQ(ok(kCode64, {0x8b, 0x04, 0x24}).segment, SS);        // [rsp]
  EXPECT_EQ(ok(kCode64, {0x8b, 0x04, 0x05, 0, 0, 0, 0}).segment, DS);  // [rax + disp32], no base
  EXPECT_EQ(ok(kCode64, {0x8b, 0x04, 0x28}).segment, DS);        // [rax + rbp]
  EXPECT_EQ(ok(kCode64, {0x41, 0x8b, 0x45, 0x08}).segment, DS);  // [r13 + 8]
  EXPECT_EQ(ok(kCode64, {0x41, 0x8b, 0x04, 0x24}).segment, DS);  // [r12]
  EXPECT_EQ(ok(kCode64, {0x64, 0x8b, 0x45, 0x08}).segment, FS);
  EXPECT_EQ(ok(kCode16, {0x8b, 0x02}).segment, SS);              // [bp + si]
  EXPECT_EQ(ok(kCode16, {0x8b, 0x03}).segment, SS);
  EXPECT_EQ(ok(kCode16, {0x8b, 0x46, 0}).segment, SS);
  EXPECT_EQ(ok(kCode16, {0x8b, 0x06, 0, 0}).segment, DS);        // [disp16]
  EXPECT_EQ(ok(kCode16, {0x8b, 0x04}).segment, DS);
}

TEST(Decode, reads_16_bit_addressing) {
  struct Form {
    unsigned base, index;
  };
  static constexpr Form kForms[8] = {{RBX, RSI},         {RBX, RDI},         {RBP, RSI},         {RBP, RDI},
                                    {RSI, kNoRegister}, {RDI, kNoRegister}, {RBP, kNoRegister}, {RBX, kNoRegister}};
  for (uint8_t rm = 0; rm < 8; ++rm) {
    const unsigned segment = kForms[rm].base == RBP ? SS : DS;
    const auto [base, index] = kForms[rm];
    expect_memory(ok(kCode16, {0x8b, static_cast<uint8_t>(0x40 | rm), 0xfe}), base, index, 0, -2, segment);
    expect_memory(ok(kCode16, {0x8b, static_cast<uint8_t>(0x80 | rm), 0x34, 0x12}), base, index, 0, 0x1234, segment);
    if (rm != 6) expect_memory(ok(kCode32, {0x67, 0x8b, rm}), base, index, 0, 0, segment);
  }
  const Insn absolute = ok(kCode16, {0x8b, 0x06, 0x00, 0x80});
  EXPECT_EQ(absolute.base, kNoRegister);
  EXPECT_EQ(absolute.address_size, 2);
  EXPECT_EQ(static_cast<uint16_t>(absolute.disp), 0x8000);
  EXPECT_EQ(ok(kCode16, {0x67, 0x8b, 0x04, 0x24}).address_size, 4);
}

TEST(Decode, reads_sib_addressing) {
  expect_memory(ok(kCode32, {0x8b, 0x44, 0x8b, 0x80}), RBX, RCX, 2, -128, DS);
  expect_memory(ok(kCode32, {0x8b, 0x04, 0x25, 1, 0, 0, 0x80}), kNoRegister, kNoRegister, 0, INT32_MIN + 1, DS);
  expect_memory(ok(kCode64, {0x8b, 0x04, 0x65, 1, 0, 0, 0}), kNoRegister, kNoRegister, 0, 1, DS);  // index RSP: none
  expect_memory(ok(kCode64, {0x42, 0x8b, 0x04, 0x65, 1, 0, 0, 0}), kNoRegister, R12, 1, 1, DS);
  // REX.B does not make R13 of "no base".
  expect_memory(ok(kCode64, {0x41, 0x8b, 0x04, 0x05, 1, 0, 0, 0}), kNoRegister, RAX, 0, 1, DS);
  expect_memory(ok(kCode64, {0x41, 0x8b, 0x44, 0x05, 1}), R13, RAX, 0, 1, DS);
  expect_memory(ok(kCode32, {0x8b, 0x05, 1, 0, 0, 0}), kNoRegister, kNoRegister, 0, 1, DS);
}

TEST(Decode, rip_relative_only_in_64_bit_mode) {
  expect_memory(ok(kCode64, {0x8b, 0x05, 0xff, 0xff, 0xff, 0xff}), kRipBase, kNoRegister, 0, -1, DS);
  expect_memory(ok(kCode64, {0x41, 0x8b, 0x05, 1, 0, 0, 0}), kRipBase, kNoRegister, 0, 1, DS);
  const Insn eip = ok(kCode64, {0x67, 0x8b, 0x05, 1, 0, 0, 0});
  EXPECT_EQ(eip.address_size, 4);
  EXPECT_EQ(eip.base, kRipBase);
  EXPECT_EQ(ok(kCode64, {0xc7, 0x05, 1, 0, 0, 0, 2, 0, 0, 0}).imm, 2);
}

TEST(Decode, moffs_has_the_size_of_an_address) {
  Insn insn = ok(kCode64, {0xa1, 1, 2, 3, 4, 5, 6, 7, 0x88});
  EXPECT_TRUE(insn.memory);
  EXPECT_EQ(insn.disp, static_cast<int64_t>(0x8807060504030201));
  EXPECT_EQ(insn.base, kNoRegister);
  insn = ok(kCode64, {0x64, 0x67, 0xa3, 1, 2, 3, 0x84});
  EXPECT_EQ(insn.disp, 0x84030201);
  EXPECT_EQ(insn.segment, FS);
  EXPECT_EQ(ok(kCode32, {0xa0, 1, 2, 3, 4}).disp, 0x04030201);
  EXPECT_EQ(ok(kCode16, {0xa2, 1, 0x82}).disp, 0x8201);
  EXPECT_EQ(ok(kCode16, {0x67, 0xa2, 1, 2, 3, 4}).disp, 0x04030201);
}

TEST(Decode, immediates_are_sign_extended) {
  EXPECT_EQ(ok(kCode64, {0x48, 0x83, 0xc0, 0xff}).imm, -1);
  EXPECT_EQ(ok(kCode64, {0x48, 0x05, 0xff, 0xff, 0xff, 0xff}).imm, -1);
  EXPECT_EQ(ok(kCode64, {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}).imm, 0x0807060504030201);
  EXPECT_EQ(ok(kCode64, {0xb8, 1, 2, 3, 4}).imm, 0x04030201);
  EXPECT_EQ(ok(kCode64, {0x66, 0xb8, 1, 2}).imm, 0x0201);
  EXPECT_EQ(ok(kCode64, {0x48, 0xc7, 0xc0, 0xfe, 0xff, 0xff, 0xff}).imm, -2);
  EXPECT_EQ(ok(kCode32, {0x66, 0x81, 0xc0, 0xfe, 0xff}).imm, -2);
  EXPECT_EQ(ok(kCode16, {0xe9, 0xfd, 0xff}).imm, -3);
  EXPECT_EQ(ok(kCode64, {0xc2, 0xff, 0xff}).imm, 0xffff);  // RET n is unsigned
}

TEST(Decode, group_3_has_an_immediate_for_test_only) {
  EXPECT_EQ(ok(kCode64, {0xf6, 0xc0, 0x80}).imm, -128);
  EXPECT_EQ(ok(kCode64, {0xf6, 0xc8, 0x80}).imm, -128);  // the undocumented /1
  EXPECT_EQ(ok(kCode64, {0xf7, 0x08, 1, 2, 3, 4}).imm, 0x04030201);
  EXPECT_EQ(ok(kCode64, {0x66, 0xf7, 0xc0, 1, 2}).imm, 0x0201);
  EXPECT_EQ(ok(kCode64, {0xf6, 0xd0}).length, 2);
  EXPECT_EQ(ok(kCode64, {0xf7, 0xf8}).length, 2);
}

TEST(Decode, reads_far_pointers_and_enter) {
  Insn insn = ok(kCode32, {0xea, 1, 2, 3, 0x84, 0x10, 0x20});
  EXPECT_EQ(insn.imm, 0x84030201);
  EXPECT_EQ(insn.imm2, 0x2010);
  insn = ok(kCode16, {0x9a, 1, 0x82, 0x10, 0xf0});
  EXPECT_EQ(insn.imm, 0x8201);
  EXPECT_EQ(insn.imm2, 0xf010);
  EXPECT_EQ(ok(kCode16, {0x66, 0xea, 1, 2, 3, 4, 8, 0}).imm2, 8);
  insn = ok(kCode64, {0xc8, 0x00, 0x80, 0x1f});
  EXPECT_EQ(insn.imm, 0x8000);
  EXPECT_EQ(insn.imm2, 0x1f);
}

TEST(Decode, extrq_and_insertq_have_two_immediates) {
  Insn insn = ok(kCode64, {0x66, 0x0f, 0x78, 0xc1, 3, 4});
  EXPECT_EQ(insn.imm, 3);
  EXPECT_EQ(insn.imm2, 4);
  insn = ok(kCode64, {0xf2, 0x0f, 0x78, 0xc1, 3, 4});
  EXPECT_EQ(insn.imm2, 4);
  EXPECT_EQ(ok(kCode64, {0x0f, 0x78, 0xc1}).length, 3);  // vmread
}

TEST(Decode, refuses_opcodes_that_64_bit_mode_dropped) {
  static constexpr uint8_t kDropped[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60,
                                         0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea};
  for (const uint8_t opcode : kDropped) {
    SCOPED_TRACE(opcode);
    expect_invalid(kCode64, {opcode});
    const Decoded legacy = decode_bytes(kCode32, {opcode, 0xc0, 0, 0, 0, 0, 0, 0, 0});
    EXPECT_EQ(legacy.status, DecodeStatus::ok);
  }
}

TEST(Decode, undefined_two_byte_opcodes_are_invalid) {
  static constexpr uint8_t kUndefined[] = {0x04, 0x0a, 0x0c, 0x0e, 0x24, 0x27, 0x36,
                                           0x39, 0x3b, 0x3f, 0x7a, 0x7b, 0xa6, 0xa7};
  for (const uint8_t opcode : kUndefined) {
    SCOPED_TRACE(opcode);
    expect_invalid(kCode64, {0x0f, opcode});
  }
}

TEST(Decode, undefined_instructions_decode) {
  EXPECT_EQ(ok(kCode64, {0x0f, 0x0b}).opcode, 0x0b);
  EXPECT_EQ(ok(kCode64, {0x0f, 0xb9, 0xc8}).opcode, 0xb9);
  EXPECT_EQ(ok(kCode64, {0x0f, 0xff, 0x40, 0x01}).opcode, 0xff);
}

TEST(Decode, undefined_group_members_decode) {
  ok(kCode64, {0xff, 0xf8});
  ok(kCode64, {0xfe, 0xd0});
  ok(kCode64, {0x0f, 0xba, 0xc0, 0x01});
  ok(kCode64, {0xc6, 0xc8, 0x01});
  ok(kCode64, {0x8f, 0xe0});
}

TEST(Decode, vector_extensions_have_a_length_and_are_invalid) {
  expect_invalid(kCode64, {0xc5, 0xf8, 0x77});                                      // vzeroupper
  expect_invalid(kCode64, {0xc5, 0xfe, 0x6f, 0x44, 0x88, 0x10});                    // vmovdqu ymm0, [rax+rcx*4+16]
  expect_invalid(kCode64, {0xc4, 0xe2, 0x79, 0x58, 0x05, 1, 2, 3, 4});              // vpbroadcastd xmm0, [rip+..]
  expect_invalid(kCode64, {0xc4, 0xe3, 0x7d, 0x39, 0xc1, 0x01});                    // vextracti128
  expect_invalid(kCode64, {0xc5, 0xf9, 0x70, 0xc1, 0x1b});                          // vpshufd
  expect_invalid(kCode64, {0xc4, 0xe3, 0xfb, 0xf0, 0xc0, 0x05});                    // rorx
  expect_invalid(kCode64, {0x62, 0xf1, 0x7c, 0x48, 0x28, 0x40, 0x01});              // vmovaps zmm0, [rax+64]
  expect_invalid(kCode64, {0x62, 0xf3, 0x75, 0x48, 0x25, 0xc2, 0xff});              // vpternlogd
  expect_invalid(kCode64, {0x8f, 0xe9, 0x78, 0x01, 0xc8});                          // blcfill
  expect_invalid(kCode64, {0x8f, 0xe8, 0x78, 0xc0, 0xc1, 0x02});                    // vprotb
  expect_invalid(kCode64, {0x8f, 0xea, 0x78, 0x10, 0xc1, 1, 2, 3, 4});              // bextr
  expect_invalid(kCode64, {0x66, 0xc5, 0xf8, 0x77});                                // with a prefix: #UD as well
  expect_invalid(kCode32, {0xc5, 0xf8, 0x77});
  expect_invalid(kCode32, {0xc4, 0xe3, 0x7d, 0x39, 0xc1, 0x01});
  expect_invalid(kCode32, {0x62, 0xf1, 0x7c, 0x48, 0x28, 0x40, 0x01});
  expect_invalid(kCode64, {0x0f, 0x0f, 0xc1, 0x9e});                                // 3DNow! pfadd
}

TEST(Decode, les_lds_and_bound_keep_their_opcodes_outside_64_bit_mode) {
  EXPECT_EQ(ok(kCode32, {0xc4, 0x00}).opcode, 0xc4);
  EXPECT_EQ(ok(kCode32, {0xc5, 0x44, 0x24, 0x04}).opcode, 0xc5);
  EXPECT_EQ(ok(kCode16, {0x62, 0x06, 0, 0}).opcode, 0x62);
}

TEST(Decode, pop_is_not_taken_for_xop) {
  EXPECT_EQ(ok(kCode64, {0x8f, 0xc0}).opcode, 0x8f);
  EXPECT_EQ(ok(kCode64, {0x8f, 0x44, 0x24, 0x08}).opcode, 0x8f);
}

TEST(Decode, every_shorter_prefix_of_an_instruction_is_truncated) {
  static const std::vector<std::vector<uint8_t>> kLong = {
      {0x66, 0x48, 0x0f, 0x3a, 0x0f, 0x84, 0x88, 1, 2, 3, 4, 5},
      {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8},
      {0xa1, 1, 2, 3, 4, 5, 6, 7, 8},
      {0xc7, 0x84, 0x88, 1, 2, 3, 4, 5, 6, 7, 8},
      {0xc8, 1, 2, 3},
      {0xf7, 0x05, 1, 2, 3, 4, 5, 6, 7, 8},
      {0x62, 0xf3, 0x75, 0x48, 0x25, 0x44, 0x88, 0x01, 0x02},
      {0xc4, 0xe3, 0x7d, 0x39, 0xc1, 0x01},
      {0x8f, 0xe8, 0x78, 0xc0, 0xc1, 0x02},
  };
  for (const std::vector<uint8_t>& whole : kLong) {
    for (size_t size = 0; size < whole.size(); ++size) {
      const std::vector<uint8_t> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      Insn insn;
      EXPECT_EQ(decode(part.data(), part.size(), kCode64, insn), DecodeStatus::truncated) << size;
    }
    Insn insn;
    decode(whole.data(), whole.size(), kCode64, insn);
    EXPECT_EQ(insn.length, whole.size());
  }
}

TEST(Decode, fifteen_bytes_are_allowed_and_sixteen_are_not) {
  std::vector<uint8_t> bytes(13, 0x2e);
  bytes.insert(bytes.end(), {0x01, 0xc8});
  Insn insn;
  EXPECT_EQ(decode(bytes.data(), bytes.size(), kCode64, insn), DecodeStatus::ok);
  EXPECT_EQ(insn.length, 15);
  bytes.insert(bytes.begin(), 0x2e);
  EXPECT_EQ(decode(bytes.data(), bytes.size(), kCode64, insn), DecodeStatus::too_long);
  EXPECT_EQ(decode(bytes.data(), 15, kCode64, insn), DecodeStatus::too_long);
  EXPECT_EQ(decode(bytes.data(), 14, kCode64, insn), DecodeStatus::truncated);
  const std::vector<uint8_t> prefixes(32, 0x66);
  EXPECT_EQ(decode(prefixes.data(), prefixes.size(), kCode32, insn), DecodeStatus::too_long);
  EXPECT_LE(insn.length, 15);
  // An immediate that would end behind the limit.
  std::vector<uint8_t> immediate(10, 0x2e);
  immediate.insert(immediate.end(), {0x81, 0xc0, 1, 2, 3, 4, 5});
  EXPECT_EQ(decode(immediate.data(), immediate.size(), kCode64, insn), DecodeStatus::too_long);
}

}  // namespace
}  // namespace retrovisor::soft
