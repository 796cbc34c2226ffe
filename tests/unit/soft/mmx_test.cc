// MMX and the x87 state it lives in, and the masked stores.
#include "sse_machine.h"

namespace retrovisor::soft {
namespace {

class Mmx : public ::testing::Test {
 protected:
  Mmx() {
    m.s().x87.fsw = 0x4700 | 3 << 11;  // condition codes, TOP = 3
    m.s().x87.tag = 0x18;
    for (X87Register& r : m.s().x87.r) r = {0x0101010101010101, 0x3fff};
  }
  void expect_mmx_state() {
    EXPECT_EQ(m.s().x87.fsw, 0x4700);
    EXPECT_EQ(m.s().x87.tag, 0xff);
  }
  void expect_x87_state() {
    EXPECT_EQ(m.s().x87.fsw, 0x4700 | 3 << 11);
    EXPECT_EQ(m.s().x87.tag, 0x18);
  }
  SseMachine m;
};

TEST_F(Mmx, writes_physical_registers_with_all_ones_above) {
  ASSERT_TRUE(m.run({0x0f, 0xfc, 0xca}));  // PADDB MM1, MM2
  expect_mmx_state();
  EXPECT_EQ(m.s().x87.r[1].mantissa, 0x0202020202020202u);
  EXPECT_EQ(m.s().x87.r[1].sign_exponent, 0xffff);
  EXPECT_EQ(m.s().x87.r[2].sign_exponent, 0x3fff);
}
TEST_F(Mmx, instructions_that_only_read_enter_mmx_too) {
  ASSERT_TRUE(m.run({0x0f, 0x7f, 0x0b}));  // MOVQ [RBX], MM1
  expect_mmx_state();
  EXPECT_EQ(m.at<uint64_t>(SseMachine::kData), 0x0101010101010101u);
  EXPECT_EQ(m.s().x87.r[1].sign_exponent, 0x3fff);
}
TEST_F(Mmx, rex_does_not_extend_register_numbers) {
  m.s().x87.r[7].mantissa = 5;
  ASSERT_TRUE(m.run({0x45, 0x0f, 0x6f, 0xcf}));  // MOVQ MM1, MM7
  EXPECT_EQ(m.s().x87.r[1].mantissa, 5u);
}
TEST_F(Mmx, emms_empties_all_registers) {
  ASSERT_TRUE(m.run({0x0f, 0x77}));
  EXPECT_EQ(m.s().x87.tag, 0);
  EXPECT_EQ(m.s().x87.fsw, 0x4700);
  EXPECT_EQ(m.s().x87.r[1].mantissa, 0x0101010101010101u);
}
TEST_F(Mmx, page_faults_leave_the_x87_state) {
  m.s().gpr[RBX] = SseMachine::kMissing;
  m.expect_fault({0x0f, 0xfc, 0x0b}, vec::PF);
  expect_x87_state();
  m.expect_fault({0x0f, 0x7f, 0x0b}, vec::PF);
  expect_x87_state();
}
TEST_F(Mmx, pending_x87_exceptions_come_first) {
  m.s().x87.fcw = 0x37e;
  m.s().x87.fsw |= 0x8081;  // ES, B, IE
  const uint16_t before = m.s().x87.fsw;
  for (const auto& bytes : std::initializer_list<std::initializer_list<uint8_t>>{{0x0f, 0xfc, 0xca},
                                                                                 {0x0f, 0x77},
                                                                                 {0x0f, 0x7e, 0xc8},
                                                                                 {0xf3, 0x0f, 0xd6, 0xca},
                                                                                 {0x0f, 0x2a, 0xca},
                                                                                 {0x66, 0x0f, 0x2a, 0xca},
                                                                                 {0x0f, 0x2d, 0xca},
                                                                                 {0x0f, 0xd7, 0xca},
                                                                                 {0x0f, 0x71, 0xd1, 0x01},
                                                                                 {0x0f, 0xf7, 0xca}}) {
    m.expect_fault(bytes, vec::MF);
    EXPECT_EQ(m.s().x87.fsw, before);
    EXPECT_EQ(m.s().x87.tag, 0x18);
  }
  EXPECT_TRUE(m.run({0x66, 0x0f, 0xfc, 0xca}));  // SSE2 does not care
  EXPECT_TRUE(m.run({0x66, 0x0f, 0x2a, 0x0b}));  // nor CVTPI2PD from memory
}
TEST_F(Mmx, conversions_from_memory_do_not_go_over_to_mmx) {
  ASSERT_TRUE(m.run({0x66, 0x0f, 0x2a, 0x0b}));  // CVTPI2PD
  expect_x87_state();
  ASSERT_TRUE(m.run({0x0f, 0x2a, 0x0b}));  // CVTPI2PS
  expect_x87_state();
  ASSERT_TRUE(m.run({0x0f, 0x2a, 0xca}));  // but with a register
  expect_mmx_state();
}
TEST_F(Mmx, low_interleaves_read_only_four_bytes) {
  m.s().gpr[RBX] = SseMachine::kMissing - 4;
  EXPECT_TRUE(m.run({0x0f, 0x60, 0x0b}));
  m.expect_fault({0x0f, 0x68, 0x0b}, vec::PF);
}

class MaskedStore : public ::testing::Test {
 protected:
  MaskedStore() {
    m.s().gpr[RDI] = SseMachine::kData + 3;
    m.s().xmm[0] = {{0x0706050403020100, 0x0f0e0d0c0b0a0908}};
    m.s().xmm[1] = {{0x0080000000000080, 0x8000000000000000}};  // bytes 0, 6, 15
    for (unsigned i = 0; i < 32; ++i) m.put<uint8_t>(SseMachine::kData + i, 0xee);
  }
  uint8_t byte(unsigned i) { return m.at<uint8_t>(SseMachine::kData + 3 + i); }
  SseMachine m;
};

TEST_F(MaskedStore, writes_the_chosen_bytes_without_alignment) {
  ASSERT_TRUE(m.run({0x66, 0x0f, 0xf7, 0xc1}));
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(byte(i), i == 0 || i == 6 || i == 15 ? i : 0xee) << i;
  EXPECT_EQ(byte(16), 0xee);
}
TEST_F(MaskedStore, mmx_form_writes_eight) {
  m.s().x87.r[2].mantissa = m.s().xmm[0].q[0];
  m.s().x87.r[3].mantissa = m.s().xmm[1].q[0];
  ASSERT_TRUE(m.run({0x0f, 0xf7, 0xd3}));
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(byte(i), i == 0 || i == 6 ? i : 0xee) << i;
  EXPECT_EQ(m.s().x87.tag, 0xff);
}
TEST_F(MaskedStore, honours_segment_override_and_address_size) {
  m.s().segment[FS].base = 0x100;
  m.s().gpr[RDI] = 0x500000000 + SseMachine::kData + 3 - 0x100;
  ASSERT_TRUE(m.run({0x64, 0x67, 0x66, 0x0f, 0xf7, 0xc1}));
  EXPECT_EQ(byte(6), 6);
}
TEST_F(MaskedStore, with_a_zero_mask_touches_nothing) {
  m.s().gpr[RDI] = SseMachine::kMissing;
  m.s().xmm[1] = {};
  EXPECT_TRUE(m.run({0x66, 0x0f, 0xf7, 0xc1}));
}
TEST_F(MaskedStore, that_faults_writes_nothing) {
  m.s().gpr[RDI] = SseMachine::kMissing - 8;
  m.expect_fault({0x66, 0x0f, 0xf7, 0xc1}, vec::PF);
  EXPECT_EQ(m.at<uint64_t>(SseMachine::kMissing - 8), 0u);
}
TEST_F(MaskedStore, segment_limits_are_checked_in_32_bit_code) {
  m.use_32_bit_code();
  ASSERT_TRUE(m.run({0x66, 0x0f, 0xf7, 0xc1}));
  EXPECT_EQ(byte(15), 15);
  m.s().segment[DS].limit = SseMachine::kData;
  m.expect_fault({0x66, 0x0f, 0xf7, 0xc1}, vec::GP);
}

}  // namespace
}  // namespace retrovisor::soft
