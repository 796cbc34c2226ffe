// What the comparison with the host cannot show: which forms exist, alignment, faults, exceptions that are not masked.
#include <emmintrin.h>

#include <bit>
#include <cmath>
#include <random>
#include <set>
#include <sstream>
#include <string>

#include "sse_machine.h"

namespace retrovisor::soft {
namespace {

using Pair = std::array<uint64_t, 2>;
Pair pair_of(const Xmm& x) { return {x.q[0], x.q[1]}; }
Xmm singles(float a, float b = 0, float c = 0, float d = 0) {
  const auto u = [](float v) { return uint64_t{std::bit_cast<uint32_t>(v)}; };
  return {{u(a) | u(b) << 32, u(c) | u(d) << 32}};
}
float single(const Xmm& x, unsigned i = 0) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.q[i / 2] >> (i % 2 * 32)));
}
Xmm doubles(double a, double b = 0) { return {{std::bit_cast<uint64_t>(a), std::bit_cast<uint64_t>(b)}}; }

constexpr uint32_t kIE = 1, kDE = 2, kZE = 4, kOE = 8, kUE = 16, kPE = 32;
constexpr uint32_t unmasked(uint32_t exceptions) { return 0x1f80 & ~(exceptions << 7); }
constexpr Pair kOld = {0x1122334455667788, 0x99aabbccddeeff00};
Xmm old_value() { return {{kOld[0], kOld[1]}}; }

// ---- Which forms exist ----

// "10-12 14" to {0x10, 0x11, 0x12, 0x14}.
std::set<unsigned> opcodes(const std::string& list) {
  std::set<unsigned> out;
  std::istringstream in(list);
  for (std::string item; in >> item;) {
    const auto dash = item.find('-');
    const auto first = static_cast<unsigned>(std::stoul(item.substr(0, 2), nullptr, 16));
    const auto last =
        dash == std::string::npos ? first : static_cast<unsigned>(std::stoul(item.substr(dash + 1), nullptr, 16));
    for (unsigned o = first; o <= last; ++o) out.insert(o);
  }
  return out;
}

std::set<unsigned> known_opcodes(std::vector<uint8_t> head, uint8_t modrm) {
  SseMachine m;
  std::set<unsigned> out;
  for (unsigned o = 0; o < 256; ++o) {
    if (head.back() == 0x0f && (o == 0x38 || o == 0x3a)) continue;
    std::vector<uint8_t> bytes = head;
    bytes.insert(bytes.end(), {static_cast<uint8_t>(o), modrm, 0, 0, 0, 0, 0});
    if (m.prepare(bytes) != Emit::unknown) out.insert(o);
  }
  return out;
}
constexpr uint8_t kRegisters = 0xca;  // ModRM: /1, registers
constexpr uint8_t kMemory = 0x0b;     // ModRM: /1, [RBX]

TEST(SseForms, without_prefix_are_mmx_and_packed_single) {
  EXPECT_EQ(known_opcodes({0x0f}, kRegisters),
            opcodes("10-12 14-16 28-2a 2c-2f 50-5f 60-6b 6e-70 74-77 7e-7f c2 c4-c6 d1-d5 d7-df e0-e5 e8-ef f1-fe"));
  EXPECT_EQ(known_opcodes({0x0f}, kMemory),
            opcodes("10-17 28-2f 51-5f 60-6b 6e-70 74-77 7e-7f ae c2-c4 c6 d1-d5 d8-df e0-e5 e7-ef f1-f6 f8-fe"));
}
TEST(SseForms, with_66_are_integers_and_packed_double) {
  EXPECT_EQ(known_opcodes({0x66, 0x0f}, kRegisters),
            opcodes("10-11 14-15 28-2a 2c-2f 50-51 54-70 74-76 7c-7f c2 c4-c6 d0-df e0-e6 e8-ef f1-fe"));
  EXPECT_EQ(known_opcodes({0x66, 0x0f}, kMemory),
            opcodes("10-17 28-2f 51 54-70 74-76 7c-7f c2 c4 c6 d0-d6 d8-ef f1-f6 f8-fe"));
}
TEST(SseForms, with_f3_are_scalar_single) {
  EXPECT_EQ(known_opcodes({0xf3, 0x0f}, kRegisters), opcodes("10-12 16 2a 2c-2d 51-53 58-5f 6f-70 7e-7f b8 c2 d6 e6"));
  EXPECT_EQ(known_opcodes({0xf3, 0x0f}, kMemory), opcodes("10-12 16 2a 2c-2d 51-53 58-5f 6f-70 7e-7f b8 c2 e6"));
}
TEST(SseForms, with_f2_are_scalar_double) {
  EXPECT_EQ(known_opcodes({0xf2, 0x0f}, kRegisters), opcodes("10-12 2a 2c-2d 51 58-5a 5c-5f 70 7c-7d c2 d0 d6 e6"));
  EXPECT_EQ(known_opcodes({0xf2, 0x0f}, kMemory), opcodes("10-12 2a 2c-2d 51 58-5a 5c-5f 70 7c-7d c2 d0 e6 f0"));
}
TEST(SseForms, of_the_three_byte_maps) {
  EXPECT_EQ(known_opcodes({0x0f, 0x38}, kRegisters), opcodes("00-0b 1c-1e"));
  EXPECT_EQ(known_opcodes({0x0f, 0x38}, kMemory), opcodes("00-0b 1c-1e"));
  EXPECT_EQ(known_opcodes({0x66, 0x0f, 0x38}, kRegisters), opcodes("00-0b 10 14-15 17 1c-1e 20-25 28-29 2b 30-35 37-41"));
  EXPECT_EQ(known_opcodes({0x66, 0x0f, 0x38}, kMemory), opcodes("00-0b 10 14-15 17 1c-1e 20-25 28-2b 30-35 37-41"));
  EXPECT_EQ(known_opcodes({0xf2, 0x0f, 0x38}, kRegisters), opcodes("f0-f1"));
  EXPECT_EQ(known_opcodes({0xf3, 0x0f, 0x38}, kRegisters), opcodes(""));
  EXPECT_EQ(known_opcodes({0x0f, 0x3a}, kRegisters), opcodes("0f"));
  EXPECT_EQ(known_opcodes({0x66, 0x0f, 0x3a}, kRegisters), opcodes("08-0f 14-17 20-22 40-42 60-63"));
  EXPECT_EQ(known_opcodes({0x66, 0x0f, 0x3a}, kMemory), opcodes("08-0f 14-17 20-22 40-42 60-63"));
  EXPECT_EQ(known_opcodes({0xf2, 0x0f, 0x3a}, kRegisters), opcodes(""));
}
TEST(SseForms, outside_of_the_cpu_model_are_unknown) {
  SseMachine m;
  EXPECT_FALSE(m.known({0x66, 0x0f, 0x38, 0xdc, 0xc1}));     // AESENC
  EXPECT_FALSE(m.known({0x66, 0x0f, 0x3a, 0x44, 0xc1, 0}));  // PCLMULQDQ
  EXPECT_FALSE(m.known({0x0f, 0x38, 0xf0, 0x03}));           // MOVBE
  EXPECT_FALSE(m.known({0x66, 0x0f, 0x79, 0xc1}));           // EXTRQ
  EXPECT_FALSE(m.known({0xf3, 0x0f, 0x2b, 0x03}));           // MOVNTSS
  EXPECT_FALSE(m.known({0x0f, 0xae, 0x33}));                 // XSAVEOPT
  EXPECT_FALSE(m.known({0x66, 0x0f, 0xae, 0x03}));           // FXSAVE with 66
}
TEST(SseForms, with_lock_are_unknown) {
  SseMachine m;
  EXPECT_TRUE(m.known({0x0f, 0x29, 0x03}));
  EXPECT_FALSE(m.known({0xf0, 0x0f, 0x29, 0x03}));
}
TEST(SseForms, f3_and_f2_beat_66) {
  SseMachine m;
  m.s().xmm[0] = old_value();
  m.s().xmm[1] = {{1, 2}};
  ASSERT_TRUE(m.run({0x66, 0xf3, 0x0f, 0x10, 0xc1}));  // MOVSS
  EXPECT_EQ(pair_of(m.s().xmm[0]), (Pair{0x1122334400000001, kOld[1]}));
  ASSERT_TRUE(m.run({0xf3, 0xf2, 0x0f, 0x10, 0xc1}));  // the last counts: MOVSD
  EXPECT_EQ(pair_of(m.s().xmm[0]), (Pair{1, kOld[1]}));
}
TEST(SseForms, name_what_the_control_registers_have_to_allow) {
  SseMachine m;
  const auto fpu = [&](std::initializer_list<uint8_t> bytes) {
    EXPECT_TRUE(m.known(bytes));
    return m.fpu();
  };
  EXPECT_EQ(fpu({0x0f, 0x58, 0xc1}), FpuClass::sse);
  EXPECT_EQ(fpu({0x0f, 0xfc, 0xc1}), FpuClass::mmx);
  EXPECT_EQ(fpu({0x66, 0x0f, 0xfc, 0xc1}), FpuClass::sse);
  EXPECT_EQ(fpu({0x0f, 0x77}), FpuClass::mmx);
  EXPECT_EQ(fpu({0x0f, 0x2a, 0xc1}), FpuClass::mmx);        // CVTPI2PS
  EXPECT_EQ(fpu({0x66, 0x0f, 0x2a, 0x03}), FpuClass::sse);  // CVTPI2PD from memory
  EXPECT_EQ(fpu({0x0f, 0xae, 0x13}), FpuClass::sse);        // LDMXCSR
  EXPECT_EQ(fpu({0x0f, 0xae, 0x03}), FpuClass::fxsave);
  EXPECT_EQ(fpu({0x0f, 0xae, 0x23}), FpuClass::none);  // XSAVE
  EXPECT_EQ(fpu({0x0f, 0xae, 0xf0}), FpuClass::none);  // MFENCE
  EXPECT_EQ(fpu({0x0f, 0xc3, 0x03}), FpuClass::none);  // MOVNTI
  EXPECT_EQ(fpu({0xf3, 0x0f, 0xb8, 0xc1}), FpuClass::none);
  EXPECT_EQ(fpu({0xf2, 0x0f, 0x38, 0xf1, 0xc1}), FpuClass::none);
}

// ---- Operands ----

TEST(SseOperands, rex_reaches_registers_8_to_15) {
  SseMachine m;
  for (unsigned i = 0; i < 16; ++i) m.s().xmm[i] = {{i, i}};
  ASSERT_TRUE(m.run({0x66, 0x45, 0x0f, 0xd4, 0xef}));  // PADDQ XMM13, XMM15
  EXPECT_EQ(pair_of(m.s().xmm[13]), (Pair{28, 28}));
  EXPECT_EQ(pair_of(m.s().xmm[5]), (Pair{5, 5}));
  ASSERT_TRUE(m.run({0x66, 0x4d, 0x0f, 0x6e, 0xd9}));  // MOVQ XMM11, R9
  EXPECT_EQ(pair_of(m.s().xmm[11]), (Pair{m.s().gpr[R9], 0}));
  m.s().gpr[R9] = ~uint64_t{0};
  ASSERT_TRUE(m.run({0x66, 0x45, 0x0f, 0x7e, 0xe9}));  // MOVD R9D, XMM13
  EXPECT_EQ(m.s().gpr[R9], 28u);
}
TEST(SseOperands, every_address_form_reaches_the_same_bytes) {
  const Xmm value{{0x0123456789abcdef, 0xfedcba9876543210}};
  SseMachine m;
  CpuState& s = m.s();
  m.put(SseMachine::kData + 0x40, value);
  m.put(SseMachine::kCode + 7 + 0x40, value);
  s.gpr[RCX] = 0x10;
  s.segment[FS].base = SseMachine::kData;
  const auto load = [&](std::initializer_list<uint8_t> bytes) {
    s.xmm[0] = {};
    EXPECT_TRUE(m.run(bytes));
    return pair_of(s.xmm[0]);
  };
  EXPECT_EQ(load({0x0f, 0x28, 0x43, 0x40}), pair_of(value));                       // [RBX+0x40]
  EXPECT_EQ(load({0x0f, 0x28, 0x04, 0x8b}), pair_of(value));                       // [RBX+RCX*4]
  EXPECT_EQ(load({0x64, 0x0f, 0x28, 0x04, 0x25, 0x40, 0, 0, 0}), pair_of(value));  // FS:[0x40]
  EXPECT_EQ(load({0x67, 0x0f, 0x28, 0x43, 0x40}), pair_of(value));                 // [EBX+0x40]
  EXPECT_EQ(load({0x0f, 0x10, 0x05, 0x40, 0, 0, 0}), pair_of(value));              // [RIP+0x40]
  m.use_32_bit_code();
  EXPECT_EQ(load({0x0f, 0x28, 0x43, 0x40}), pair_of(value));  // [EBX+0x40]
}
TEST(SseOperands, unaligned_moves_cross_pages) {
  SseMachine m;
  const Xmm value{{0x0123456789abcdef, 0xfedcba9876543210}};
  const uint64_t at = SseMachine::kData + kPageSize - 5;
  m.s().gpr[RBX] = at;
  m.s().xmm[3] = value;
  ASSERT_TRUE(m.run({0xf3, 0x0f, 0x7f, 0x1b}));  // MOVDQU [RBX], XMM3
  EXPECT_EQ(pair_of(m.at<Xmm>(at)), pair_of(value));
  ASSERT_TRUE(m.run({0xf2, 0x0f, 0xf0, 0x23}));  // LDDQU XMM4, [RBX]
  EXPECT_EQ(pair_of(m.s().xmm[4]), pair_of(value));
}
TEST(SseOperands, misaligned_sixteen_bytes_are_a_general_protection_fault) {
  SseMachine m;
  m.s().gpr[RBX] = SseMachine::kData + 8;
  m.s().xmm[1] = old_value();
  for (const auto& bytes : std::initializer_list<std::initializer_list<uint8_t>>{{0x0f, 0x28, 0x0b},        // MOVAPS load
                                                                                 {0x0f, 0x29, 0x0b},        // MOVAPS store
                                                                                 {0x66, 0x0f, 0x6f, 0x0b},  // MOVDQA
                                                                                 {0x66, 0x0f, 0xe7, 0x0b},  // MOVNTDQ
                                                                                 {0x66, 0x0f, 0x38, 0x2a, 0x0b},  // MOVNTDQA
                                                                                 {0x0f, 0x58, 0x0b},              // ADDPS
                                                                                 {0x66, 0x0f, 0xef, 0x0b},        // PXOR
                                                                                 {0x66, 0x0f, 0x70, 0x0b, 0},     // PSHUFD
                                                                                 {0x66, 0x0f, 0x38, 0x00, 0x0b},  // PSHUFB
                                                                                 {0x66, 0x0f, 0x38, 0x17, 0x0b},  // PTEST
                                                                                 {0x66, 0x0f, 0x2d, 0x0b}}) {     // CVTPD2PI
    m.expect_fault(bytes, vec::GP);
    EXPECT_EQ(m.cpu().fault.error, 0u);
    EXPECT_EQ(pair_of(m.s().xmm[1]), kOld);
  }
  EXPECT_EQ(m.at<uint64_t>(SseMachine::kData + 8), 0u);
}
TEST(SseOperands, these_need_no_alignment) {
  SseMachine m;
  m.s().gpr[RBX] = SseMachine::kData + 3;
  EXPECT_TRUE(m.run({0x0f, 0x10, 0x0b}));                 // MOVUPS
  EXPECT_TRUE(m.run({0xf3, 0x0f, 0x58, 0x0b}));           // ADDSS
  EXPECT_TRUE(m.run({0x0f, 0x5a, 0x0b}));                 // CVTPS2PD
  EXPECT_TRUE(m.run({0x66, 0x0f, 0x38, 0x20, 0x0b}));     // PMOVSXBW
  EXPECT_TRUE(m.run({0xf2, 0x0f, 0x12, 0x0b}));           // MOVDDUP
  EXPECT_TRUE(m.run({0x66, 0x0f, 0x3a, 0x63, 0x0b, 0}));  // PCMPISTRI
  EXPECT_TRUE(m.run({0x66, 0x0f, 0x3a, 0x60, 0x0b, 0}));  // PCMPESTRM
}
TEST(SseOperands, alignment_comes_before_paging_and_behind_segmentation) {
  SseMachine m;
  m.s().gpr[RBX] = SseMachine::kMissing + 4;
  m.expect_fault({0x0f, 0x28, 0x0b}, vec::GP);
  m.s().gpr[RBX] = SseMachine::kMissing;
  m.expect_fault({0x0f, 0x28, 0x0b}, vec::PF);
  EXPECT_EQ(m.cpu().fault.address, SseMachine::kMissing);
  m.s().gpr[RBP] = 0x8000000000000004;  // not canonical, in the stack segment
  m.expect_fault({0x0f, 0x28, 0x4d, 0x00}, vec::SS);
  m.use_32_bit_code();
  m.s().gpr[RBP] = 0x10004;
  m.s().segment[SS].limit = 0xffff;
  m.expect_fault({0x0f, 0x28, 0x4d, 0x00}, vec::SS);
  m.s().gpr[RBP] = 0xff01;
  m.expect_fault({0x0f, 0x28, 0x4d, 0x00}, vec::GP);
}
TEST(SseOperands, page_faults_change_nothing) {
  SseMachine m;
  m.s().xmm[1] = old_value();
  m.s().gpr[RBX] = SseMachine::kMissing - 8;  // half of the operand is there
  m.expect_fault({0x0f, 0x10, 0x0b}, vec::PF);
  m.expect_fault({0x0f, 0x11, 0x0b}, vec::PF);
  EXPECT_EQ(pair_of(m.s().xmm[1]), kOld);
  EXPECT_EQ(m.at<uint64_t>(SseMachine::kMissing - 8), 0u);
  m.s().gpr[RBX] = SseMachine::kMissing - 4;
  m.expect_fault({0x0f, 0x16, 0x0b}, vec::PF);  // MOVHPS
  EXPECT_EQ(pair_of(m.s().xmm[1]), kOld);
  m.s().gpr[RBX] = SseMachine::kReadOnly;
  m.expect_fault({0x0f, 0x29, 0x0b}, vec::PF);
  EXPECT_EQ(m.cpu().fault.error, pf::P | pf::W);
}

// ---- Floating point exceptions ----

class SseExceptions : public ::testing::Test {
 protected:
  // ADDPS and so on XMM0, XMM1.
  bool operate(uint8_t opcode, Xmm a, Xmm b, uint32_t mxcsr) {
    m.s().xmm[0] = a;
    m.s().xmm[1] = b;
    m.s().mxcsr = mxcsr;
    return m.run({0x0f, opcode, 0xc1});
  }
  void expect_xm(uint8_t opcode, Xmm a, Xmm b, uint32_t mxcsr, uint32_t flags) {
    EXPECT_FALSE(operate(opcode, a, b, mxcsr));
    EXPECT_EQ(m.cpu().fault.vector, vec::XM);
    EXPECT_FALSE(m.cpu().fault.has_error);
    EXPECT_EQ(pair_of(m.s().xmm[0]), pair_of(a));
    EXPECT_EQ(m.s().mxcsr, mxcsr | flags);
  }
  static constexpr uint8_t kAdd = 0x58, kMul = 0x59, kSub = 0x5c, kDiv = 0x5e, kSqrt = 0x51;
  SseMachine m;
};

TEST_F(SseExceptions, masked_ones_leave_flags_and_default_results) {
  ASSERT_TRUE(operate(kDiv, singles(1, 0, 3, 1), singles(0, 0, 1, 3), 0x1f80));
  EXPECT_TRUE(std::isinf(single(m.s().xmm[0], 0)));
  EXPECT_TRUE(std::isnan(single(m.s().xmm[0], 1)));
  EXPECT_EQ(single(m.s().xmm[0], 2), 3.0f);
  EXPECT_EQ(m.s().mxcsr, 0x1f80 | kIE | kZE | kPE);
}
TEST_F(SseExceptions, flags_are_sticky) {
  ASSERT_TRUE(operate(kAdd, singles(1), singles(1), 0x1fbf));
  EXPECT_EQ(m.s().mxcsr, 0x1fbfu);
}
TEST_F(SseExceptions, unmasked_ones_raise_xm_and_keep_the_destination) {
  expect_xm(kDiv, singles(1, 1, 1, 1), singles(0, 1, 1, 1), unmasked(kZE), kZE);
  expect_xm(kSqrt, singles(9), singles(-1), unmasked(kIE), kIE);
  expect_xm(kMul, singles(3e38f), singles(3e38f), unmasked(kOE), kOE | kPE);
  expect_xm(kDiv, singles(1, 1, 1, 1), singles(3, 1, 1, 1), unmasked(kPE), kPE);
  expect_xm(kAdd, singles(1e-40f), singles(1), unmasked(kDE), kDE);
  expect_xm(kMul, singles(1.0000001f * 0x1p-126f), singles(0.3f), unmasked(kUE), kUE | kPE);
}
TEST_F(SseExceptions, early_ones_keep_late_ones_from_being_found) {
  // One element divides by zero, another would be inexact.
  expect_xm(kDiv, singles(1, 1, 1, 1), singles(0, 3, 1, 1), unmasked(kZE), kZE);
  // The late one alone is unmasked: both are reported.
  expect_xm(kDiv, singles(1, 1, 1, 1), singles(0, 3, 1, 1), unmasked(kPE), kZE | kPE);
}
TEST_F(SseExceptions, a_flag_set_before_does_not_raise) {
  EXPECT_TRUE(operate(kAdd, singles(1), singles(2), unmasked(kPE) | kPE));
  EXPECT_EQ(single(m.s().xmm[0]), 3.0f);
}
TEST_F(SseExceptions, exact_tiny_results_underflow_only_if_unmasked) {
  const Xmm a = singles(0x1p-126f), b = singles(0.5f);
  ASSERT_TRUE(operate(kMul, a, b, 0x1f80));
  EXPECT_EQ(m.s().mxcsr, 0x1f80u);
  EXPECT_EQ(single(m.s().xmm[0]), 0x1p-127f);
  expect_xm(kMul, a, b, unmasked(kUE), kUE);
  expect_xm(kMul, a, b, unmasked(kUE) | 0x8000, kUE);  // flush to zero counts only while underflow is masked
  expect_xm(kSub, singles(0x1.000002p-126f), singles(0x1p-126f), unmasked(kUE), kUE);
  ASSERT_TRUE(operate(kMul, a, b, 0x9f80));
  EXPECT_EQ(m.s().xmm[0].q[0], 0u);
  EXPECT_EQ(m.s().mxcsr, 0x9f80 | kUE | kPE);
}
TEST_F(SseExceptions, exact_tiny_doubles_and_narrowed_doubles_underflow_too) {
  m.s().mxcsr = unmasked(kUE);
  m.s().xmm[0] = doubles(1, 0x1p-1022);
  m.s().xmm[1] = doubles(1, 0.25);
  m.expect_fault({0x66, 0x0f, 0x59, 0xc1}, vec::XM);  // MULPD
  m.s().mxcsr = unmasked(kUE);
  EXPECT_TRUE(m.run({0xf2, 0x0f, 0x59, 0xc1}));  // MULSD: only the low half counts
  m.s().xmm[1] = doubles(0x1p-127, 1);
  m.expect_fault({0xf2, 0x0f, 0x5a, 0xc1}, vec::XM);  // CVTSD2SS
  EXPECT_EQ(m.s().mxcsr, unmasked(kUE) | kUE);
}
TEST_F(SseExceptions, without_osxmmexcpt_they_are_undefined_opcodes) {
  m.s().cr4 &= ~cr4::OSXMMEXCPT;
  EXPECT_FALSE(operate(kDiv, singles(1, 1, 1, 1), singles(0, 1, 1, 1), unmasked(kZE)));
  EXPECT_EQ(m.cpu().fault.vector, vec::UD);
  EXPECT_EQ(m.s().mxcsr, unmasked(kZE) | kZE);
}
TEST_F(SseExceptions, keep_flags_and_general_registers) {
  m.s().xmm[0] = singles(std::nanf(""));
  m.s().xmm[1] = singles(1);
  m.s().mxcsr = unmasked(kIE);
  m.cpu().cc = cc_of_flags(flag::OF | flag::SF);
  m.expect_fault({0x0f, 0x2f, 0xc1}, vec::XM);  // COMISS
  EXPECT_EQ(flags_of_cc(m.cpu().cc), flag::OF | flag::SF);
  m.s().gpr[RCX] = 77;
  m.expect_fault({0xf3, 0x0f, 0x2d, 0xc8}, vec::XM);  // CVTSS2SI ECX, XMM0
  EXPECT_EQ(m.s().gpr[RCX], 77u);
  m.s().x87.tag = 0;
  m.expect_fault({0x0f, 0x2d, 0xc8}, vec::XM);  // CVTPS2PI MM1, XMM0
  EXPECT_EQ(m.s().x87.tag, 0);
  EXPECT_EQ(m.s().x87.r[1].mantissa, 0u);
}
TEST_F(SseExceptions, dot_products_stop_at_the_step_that_raises) {
  m.s().xmm[0] = singles(std::numeric_limits<float>::infinity(), 1, 1, 1);
  m.s().xmm[1] = singles(0, 1.1f, 1, 1);
  m.s().mxcsr = unmasked(kIE);
  const Pair before = pair_of(m.s().xmm[0]);
  m.expect_fault({0x66, 0x0f, 0x3a, 0x40, 0xc1, 0xff}, vec::XM);
  EXPECT_EQ(pair_of(m.s().xmm[0]), before);
  EXPECT_EQ(m.s().mxcsr, unmasked(kIE) | kIE);
  // Elements that are not chosen raise nothing.
  ASSERT_TRUE(m.run({0x66, 0x0f, 0x3a, 0x40, 0xc1, 0xc1}));
  EXPECT_EQ(pair_of(m.s().xmm[0]), pair_of(singles(2)));
}
TEST_F(SseExceptions, rounding_with_bit_3_is_never_inexact) {
  m.s().xmm[1] = singles(1.5f, -2.5f, 0.25f, 7);
  m.s().mxcsr = unmasked(kPE);
  m.expect_fault({0x66, 0x0f, 0x3a, 0x08, 0xc1, 0x00}, vec::XM);
  m.s().mxcsr = unmasked(kPE);
  ASSERT_TRUE(m.run({0x66, 0x0f, 0x3a, 0x08, 0xc1, 0x0a}));  // up
  EXPECT_EQ(pair_of(m.s().xmm[0]), pair_of(singles(2, -2, 1, 7)));
  EXPECT_EQ(m.s().mxcsr, unmasked(kPE));
}
TEST_F(SseExceptions, leave_the_host_in_its_own_mode) {
  ASSERT_TRUE(operate(kDiv, singles(1, 1, 1, 1), singles(3, 1, 1, 1), 0xffff));
  EXPECT_EQ(_mm_getcsr() & ~0x3fu, 0x1f80u);
  EXPECT_FALSE(operate(kDiv, singles(1, 1, 1, 1), singles(3, 1, 1, 1), 0x6000));
  EXPECT_EQ(_mm_getcsr() & ~0x3fu, 0x1f80u);
}

// ---- Reciprocals ----

TEST(SseReciprocal, square_roots_are_correctly_rounded) {
  SseMachine m;
  // Two exponents, one even and one odd, cover all mantissas.
  for (uint32_t mantissa = 0; mantissa < 1u << 24; mantissa += 1013) {
    const uint32_t bits = 0x3f800000 + mantissa;
    m.s().xmm[1] = {{bits, 0}};
    ASSERT_TRUE(m.run({0xf3, 0x0f, 0x52, 0xc1}));
    const long double x = std::bit_cast<float>(bits);
    const auto result = static_cast<uint32_t>(m.s().xmm[0].q[0]);
    const auto half_way = [&](int by) {
      return (static_cast<long double>(std::bit_cast<float>(result)) +
              static_cast<long double>(std::bit_cast<float>(result + static_cast<uint32_t>(by)))) /
             2;
    };
    ASSERT_LT(half_way(-1) * half_way(-1) * x, 1) << std::hex << bits;
    ASSERT_GT(half_way(1) * half_way(1) * x, 1) << std::hex << bits;
  }
}
TEST(SseReciprocal, square_roots_scale_over_all_exponents) {
  SseMachine m;
  for (int e = -124; e <= 126; e += 2) {
    m.s().xmm[1] = singles(std::ldexp(1.0f, e), std::ldexp(4.0f / 9, e), std::ldexp(2.0f, e), std::ldexp(1.0f, e + 1));
    ASSERT_TRUE(m.run({0x0f, 0x52, 0xc1}));
    EXPECT_EQ(single(m.s().xmm[0], 0), std::ldexp(1.0f, -e / 2)) << e;
    EXPECT_EQ(single(m.s().xmm[0], 2), std::ldexp(static_cast<float>(std::sqrt(0.5)), -e / 2)) << e;
    EXPECT_EQ(single(m.s().xmm[0], 2), single(m.s().xmm[0], 3));
    EXPECT_NEAR(single(m.s().xmm[0], 1), std::ldexp(1.5f, -e / 2), std::ldexp(1.0f, -e / 2 - 22)) << e;
  }
}
TEST(SseReciprocal, special_operands_give_what_the_manual_says) {
  SseMachine m;
  const auto both = [&](uint32_t bits) {
    m.s().xmm[1] = {{bits, 0}};
    EXPECT_TRUE(m.run({0xf3, 0x0f, 0x53, 0xc1}));
    const auto reciprocal = static_cast<uint32_t>(m.s().xmm[0].q[0]);
    EXPECT_TRUE(m.run({0xf3, 0x0f, 0x52, 0xc1}));
    return std::pair(reciprocal, static_cast<uint32_t>(m.s().xmm[0].q[0]));
  };
  using P = std::pair<uint32_t, uint32_t>;
  EXPECT_EQ(both(0x00000000), P(0x7f800000, 0x7f800000));
  EXPECT_EQ(both(0x80000000), P(0xff800000, 0xff800000));
  EXPECT_EQ(both(0x00000001), P(0x7f800000, 0x7f800000));  // a denormal counts as zero
  EXPECT_EQ(both(0x807fffff), P(0xff800000, 0xff800000));
  EXPECT_EQ(both(0x7f800000), P(0x00000000, 0x00000000));
  EXPECT_EQ(both(0xff800000), P(0x80000000, 0xffc00000));
  EXPECT_EQ(both(0xbf800000), P(0xbf800000, 0xffc00000));
  EXPECT_EQ(both(0x7f800001), P(0x7fc00001, 0x7fc00001));  // quieted
  EXPECT_EQ(both(0xffc00055), P(0xffc00055, 0xffc00055));
  EXPECT_EQ(both(0x7f000001).first, 0u);  // 1/x is tiny: flushed
}
TEST(SseReciprocal, do_not_look_at_or_change_mxcsr) {
  SseMachine m;
  m.s().mxcsr = 0x6000;  // all unmasked, towards zero
  m.s().xmm[0] = {};
  m.s().xmm[1] = singles(3, 0, -1, 1e-40f);
  ASSERT_TRUE(m.run({0x0f, 0x53, 0xc1}));
  EXPECT_EQ(single(m.s().xmm[0]), 1.0f / 3);
  ASSERT_TRUE(m.run({0x0f, 0x52, 0xc1}));
  EXPECT_EQ(m.s().mxcsr, 0x6000u);
  EXPECT_EQ(_mm_getcsr() & ~0x3fu, 0x1f80u);
}
TEST(SseReciprocal, scalar_forms_keep_the_upper_elements) {
  SseMachine m;
  m.s().xmm[0] = old_value();
  m.s().xmm[1] = singles(2, 5);
  ASSERT_TRUE(m.run({0xf3, 0x0f, 0x53, 0xc1}));
  EXPECT_EQ(pair_of(m.s().xmm[0]), (Pair{0x112233443f000000, kOld[1]}));
}

// ---- SSE4.2 beside the comparison with the host ----

TEST(SseString, crc32_of_high_byte_registers) {
  SseMachine m;
  m.s().gpr[RAX] = 0x3100;  // AH = '1'
  m.s().gpr[RCX] = 0xffffffff'ffffffff;
  ASSERT_TRUE(m.run({0xf2, 0x0f, 0x38, 0xf0, 0xcc}));  // CRC32 ECX, AH
  const uint64_t with_ah = m.s().gpr[RCX];
  m.s().gpr[RSI] = 0x31;
  m.s().gpr[RCX] = 0xffffffff'ffffffff;
  ASSERT_TRUE(m.run({0xf2, 0x40, 0x0f, 0x38, 0xf0, 0xce}));  // CRC32 ECX, SIL
  EXPECT_EQ(m.s().gpr[RCX], with_ah);
  EXPECT_EQ(with_ah ^ 0xffffffff, 0x90f599e3u);  // the CRC-32C of "1"
}
TEST(SseString, crc32_of_the_check_string) {
  SseMachine m;
  static constexpr char kCheck[] = "123456789";
  m.s().gpr[RCX] = 0xffffffff;
  for (unsigned i = 0; i < 9; ++i) {
    m.s().gpr[RDX] = static_cast<uint8_t>(kCheck[i]);
    ASSERT_TRUE(m.run({0xf2, 0x0f, 0x38, 0xf0, 0xca}));
  }
  EXPECT_EQ(m.s().gpr[RCX] ^ 0xffffffff, 0xe3069283u);
}
TEST(SseString, popcnt_clears_all_flags_but_zf) {
  SseMachine m;
  m.cpu().cc = cc_of_flags(flag::arithmetic);
  m.s().gpr[RDX] = 0xff00ff00'00000001;
  ASSERT_TRUE(m.run({0xf3, 0x48, 0x0f, 0xb8, 0xca}));
  EXPECT_EQ(m.s().gpr[RCX], 17u);
  EXPECT_EQ(flags_of_cc(m.cpu().cc), 0u);
  m.s().gpr[RDX] = 0xffff0000;
  m.s().gpr[RCX] = 0x1111111111111111;
  ASSERT_TRUE(m.run({0x66, 0xf3, 0x0f, 0xb8, 0xca}));
  EXPECT_EQ(m.s().gpr[RCX], 0x1111111111110000u);
  EXPECT_EQ(flags_of_cc(m.cpu().cc), flag::ZF);
}
TEST(SseString, explicit_lengths_use_64_bits_only_with_rex_w) {
  SseMachine m;
  m.s().xmm[0] = {{0x6161616161616161, 0x6161616161616161}};
  m.s().xmm[1] = m.s().xmm[0];
  m.s().gpr[RAX] = m.s().gpr[RDX] = 0x100000003;
  ASSERT_TRUE(m.run({0x66, 0x0f, 0x3a, 0x60, 0xc1, 0x08}));  // PCMPESTRM, equal each, bits
  EXPECT_EQ(m.s().xmm[0].q[0], 0xffffu);                     // both beyond their ends count as equal
  m.s().xmm[0] = m.s().xmm[1];
  m.s().gpr[RDX] = 0x100000010;
  ASSERT_TRUE(m.run({0x66, 0x0f, 0x3a, 0x60, 0xc1, 0x08}));
  EXPECT_EQ(m.s().xmm[0].q[0], 0x0007u);
  m.s().xmm[0] = m.s().xmm[1];
  ASSERT_TRUE(m.run({0x66, 0x48, 0x0f, 0x3a, 0x60, 0xc1, 0x08}));
  EXPECT_EQ(m.s().xmm[0].q[0], 0xffffu);
}

}  // namespace
}  // namespace retrovisor::soft
