// FXSAVE, FXRSTOR, XSAVE, XRSTOR, LDMXCSR and STMXCSR: layouts, checks, and what they leave alone.
#include "sse_machine.h"

namespace retrovisor::soft {
namespace {

class FpuStateArea : public ::testing::Test {
 protected:
  static constexpr uint64_t kArea = SseMachine::kData;
  FpuStateArea() {
    CpuState& s = m.s();
    s.x87.fcw = 0x27f;
    s.x87.fsw = 0x4100 | 6 << 11;
    s.x87.tag = 0xc1;
    s.x87.fop = 0x5d9;
    s.x87.fip = 0x1122334455667788;
    s.x87.fdp = 0x99aabbccddeeff00;
    s.x87.fcs = 0x33;
    s.x87.fds = 0x2b;
    s.mxcsr = 0x1fa5;
    for (unsigned i = 0; i < 8; ++i) s.x87.r[i] = {0x8000000000000000 + i, static_cast<uint16_t>(0x4000 + i)};
    for (unsigned i = 0; i < 16; ++i) s.xmm[i] = {{0x100 + i, 0x200 + i}};
    for (unsigned i = 0; i < 1024; ++i) m.put<uint8_t>(kArea + i, 0xaa);
  }
  bool untouched(unsigned begin, unsigned end) {
    for (unsigned i = begin; i < end; ++i) {
      if (m.at<uint8_t>(kArea + i) != 0xaa) return false;
    }
    return true;
  }
  template <class T>
  T field(unsigned offset) {
    return m.at<T>(kArea + offset);
  }
  void expect_same_registers(const CpuState& a, const CpuState& b, unsigned xmm_count) {
    EXPECT_EQ(a.x87.fcw, b.x87.fcw);
    EXPECT_EQ(a.x87.fsw, b.x87.fsw);
    EXPECT_EQ(a.x87.tag, b.x87.tag);
    EXPECT_EQ(a.x87.fop, b.x87.fop);
    EXPECT_EQ(a.mxcsr, b.mxcsr);
    for (unsigned i = 0; i < 8; ++i) {
      EXPECT_EQ(a.x87.r[i].mantissa, b.x87.r[i].mantissa);
      EXPECT_EQ(a.x87.r[i].sign_exponent, b.x87.r[i].sign_exponent);
    }
    for (unsigned i = 0; i < xmm_count; ++i) EXPECT_EQ(std::memcmp(&a.xmm[i], &b.xmm[i], 16), 0) << i;
  }
  void forget_registers() {
    m.s().x87 = X87State{};
    m.s().xmm = {};
    m.s().mxcsr = 0x1f80;
  }
  void request(uint64_t mask) {
    m.s().gpr[RAX] = mask & 0xffffffff;
    m.s().gpr[RDX] = mask >> 32;
  }
  SseMachine m;
};

TEST_F(FpuStateArea, fxsave_writes_the_64_bit_layout_and_nothing_behind_it) {
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x03}));
  EXPECT_EQ(field<uint16_t>(0), 0x27f);
  EXPECT_EQ(field<uint16_t>(2), 0x4100 | 6 << 11);
  EXPECT_EQ(field<uint16_t>(4), 0xc1);
  EXPECT_EQ(field<uint16_t>(6), 0x5d9);
  EXPECT_EQ(field<uint32_t>(8), 0x55667788u);
  EXPECT_EQ(field<uint32_t>(12), 0x33u);
  EXPECT_EQ(field<uint32_t>(16), 0xddeeff00u);
  EXPECT_EQ(field<uint32_t>(20), 0x2bu);
  EXPECT_EQ(field<uint32_t>(24), 0x1fa5u);
  EXPECT_EQ(field<uint32_t>(28), 0xffffu);
  EXPECT_EQ(field<uint64_t>(32), 0x8000000000000006u);  // ST(0) is R6
  EXPECT_EQ(field<uint64_t>(40), 0x4006u);
  EXPECT_EQ(field<uint64_t>(32 + 16 * 2), 0x8000000000000000u);  // ST(2) is R0
  EXPECT_EQ(field<uint64_t>(160 + 16 * 15), 0x10fu);
  EXPECT_TRUE(untouched(416, 1024));
}
TEST_F(FpuStateArea, fxsave64_holds_whole_pointers) {
  ASSERT_TRUE(m.run({0x48, 0x0f, 0xae, 0x03}));
  EXPECT_EQ(field<uint64_t>(8), 0x1122334455667788u);
  EXPECT_EQ(field<uint64_t>(16), 0x99aabbccddeeff00u);
  const CpuState before = m.s();
  forget_registers();
  ASSERT_TRUE(m.run({0x48, 0x0f, 0xae, 0x0b}));
  expect_same_registers(m.s(), before, 16);
  EXPECT_EQ(m.s().x87.fip, before.x87.fip);
  EXPECT_EQ(m.s().x87.fdp, before.x87.fdp);
}
TEST_F(FpuStateArea, fxrstor_gives_back_what_fxsave_saved) {
  const CpuState before = m.s();
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x03}));
  forget_registers();
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x0b}));
  expect_same_registers(m.s(), before, 16);
  EXPECT_EQ(m.s().x87.fip, 0x55667788u);
  EXPECT_EQ(m.s().x87.fcs, 0x33);
  EXPECT_EQ(m.s().x87.fds, 0x2b);
}
TEST_F(FpuStateArea, fxsave_outside_of_64_bit_mode_knows_eight_xmm_registers) {
  m.use_32_bit_code();
  const CpuState before = m.s();
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x03}));
  EXPECT_EQ(field<uint64_t>(160 + 16 * 7), 0x107u);
  EXPECT_TRUE(untouched(288, 1024));
  forget_registers();
  m.s().xmm[8] = {{7, 7}};
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x0b}));
  expect_same_registers(m.s(), before, 8);
  EXPECT_EQ(m.s().xmm[8].q[0], 7u);
}
TEST_F(FpuStateArea, fxrstor_computes_the_summary_bits) {
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x03}));
  m.put<uint16_t>(kArea, 0xf37e);      // invalid is unmasked; reserved bits set
  m.put<uint16_t>(kArea + 2, 0x0001);  // IE without ES
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x0b}));
  EXPECT_EQ(m.s().x87.fsw, 0x8081);
  EXPECT_EQ(m.s().x87.fcw, 0x137e);
  m.put<uint16_t>(kArea, 0x37f);
  m.put<uint16_t>(kArea + 2, 0x8081);
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x0b}));
  EXPECT_EQ(m.s().x87.fsw, 0x0001);
}
TEST_F(FpuStateArea, fxrstor_rejects_reserved_mxcsr_bits_and_changes_nothing) {
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x03}));
  m.put<uint32_t>(kArea + 24, 0x11f80);
  const CpuState before = m.s();
  m.put<uint64_t>(kArea + 160, 99);
  m.expect_fault({0x0f, 0xae, 0x0b}, vec::GP);
  expect_same_registers(m.s(), before, 16);
}
TEST_F(FpuStateArea, misaligned_areas_are_general_protection_faults) {
  request(3);
  m.s().gpr[RBX] = kArea + 8;
  m.expect_fault({0x0f, 0xae, 0x03}, vec::GP);
  m.expect_fault({0x0f, 0xae, 0x0b}, vec::GP);
  m.s().gpr[RBX] = kArea + 16;
  EXPECT_TRUE(m.run({0x0f, 0xae, 0x03}));
  m.expect_fault({0x0f, 0xae, 0x23}, vec::GP);
  m.expect_fault({0x0f, 0xae, 0x2b}, vec::GP);
}
TEST_F(FpuStateArea, saves_that_fault_write_nothing) {
  const uint64_t area = SseMachine::kMissing - 0x40;
  request(3);
  m.s().gpr[RBX] = area;
  m.expect_fault({0x0f, 0xae, 0x03}, vec::PF);
  EXPECT_EQ(m.cpu().fault.address, area + 511);  // the last byte is looked at first
  m.expect_fault({0x0f, 0xae, 0x23}, vec::PF);
  EXPECT_EQ(m.cpu().fault.address, area + 575);
  for (unsigned i = 0; i < 0x40; ++i) EXPECT_EQ(m.at<uint8_t>(area + i), 0);
}
TEST_F(FpuStateArea, restores_that_fault_change_nothing) {
  const CpuState before = m.s();
  m.s().gpr[RBX] = SseMachine::kMissing - 0x40;
  m.expect_fault({0x0f, 0xae, 0x0b}, vec::PF);
  expect_same_registers(m.s(), before, 16);
}

TEST_F(FpuStateArea, xsave_writes_what_is_requested) {
  request(~uint64_t{0});
  m.put<uint64_t>(kArea + 512, 0);
  ASSERT_TRUE(m.run({0x48, 0x0f, 0xae, 0x23}));
  EXPECT_EQ(field<uint64_t>(512), 3u);
  EXPECT_EQ(field<uint64_t>(8), 0x1122334455667788u);
  EXPECT_EQ(field<uint64_t>(160), 0x100u);
  EXPECT_TRUE(untouched(416, 512));
  EXPECT_TRUE(untouched(520, 1024));  // the rest of the header is not written
}
TEST_F(FpuStateArea, xsave_of_sse_alone_leaves_the_x87_part) {
  request(2);
  m.put<uint64_t>(kArea + 512, 0x8000000000000001);
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x23}));
  EXPECT_TRUE(untouched(0, 24));
  EXPECT_EQ(field<uint32_t>(24), 0x1fa5u);
  EXPECT_TRUE(untouched(32, 160));
  EXPECT_EQ(field<uint64_t>(160 + 16 * 15), 0x10fu);
  EXPECT_EQ(field<uint64_t>(512), 0x8000000000000003u);
}
TEST_F(FpuStateArea, xsave_of_x87_alone_leaves_mxcsr_and_xmm) {
  request(1);
  m.put<uint64_t>(kArea + 512, 2);
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x23}));
  EXPECT_EQ(field<uint16_t>(0), 0x27f);
  EXPECT_TRUE(untouched(24, 32));
  EXPECT_TRUE(untouched(160, 512));
  EXPECT_EQ(field<uint64_t>(512), 3u);
}
TEST_F(FpuStateArea, xsave_saves_only_what_xcr0_enables) {
  request(3);
  m.s().xcr0 = 1;
  m.put<uint64_t>(kArea + 512, 0);
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x23}));
  EXPECT_TRUE(untouched(160, 512));
  EXPECT_EQ(field<uint64_t>(512), 1u);
}

class XrstorArea : public FpuStateArea {
 protected:
  XrstorArea() : saved(m.s()) {
    request(3);
    for (unsigned i = 512; i < 576; i += 8) m.put<uint64_t>(kArea + i, 0);
    EXPECT_TRUE(m.run({0x48, 0x0f, 0xae, 0x23}));
  }
  bool restore() { return m.run({0x48, 0x0f, 0xae, 0x2b}); }
  const CpuState saved;
};

TEST_F(XrstorArea, gives_back_what_xsave_saved) {
  forget_registers();
  ASSERT_TRUE(restore());
  expect_same_registers(m.s(), saved, 16);
  EXPECT_EQ(m.s().x87.fip, saved.x87.fip);
}
TEST_F(XrstorArea, initialises_components_that_are_not_present) {
  m.put<uint64_t>(kArea + 512, 0);
  ASSERT_TRUE(restore());
  EXPECT_EQ(m.s().x87.fcw, 0x37f);
  EXPECT_EQ(m.s().x87.fsw, 0);
  EXPECT_EQ(m.s().x87.tag, 0);
  EXPECT_EQ(m.s().x87.r[3].mantissa, 0u);
  EXPECT_EQ(m.s().x87.fip, 0u);
  EXPECT_EQ(m.s().xmm[15].q[1], 0u);
  EXPECT_EQ(m.s().mxcsr, 0x1fa5u);  // from memory all the same
}
TEST_F(XrstorArea, leaves_components_that_are_not_requested) {
  forget_registers();
  request(1);
  ASSERT_TRUE(restore());
  EXPECT_EQ(m.s().x87.fcw, 0x27f);
  EXPECT_EQ(m.s().mxcsr, 0x1f80u);
  EXPECT_EQ(m.s().xmm[1].q[0], 0u);
  m.put<uint32_t>(kArea + 24, 0xffffffff);  // MXCSR is not loaded, so it is not checked
  EXPECT_TRUE(restore());
}
TEST_F(XrstorArea, keeps_the_upper_xmm_registers_outside_of_64_bit_mode) {
  m.use_32_bit_code();
  m.put<uint64_t>(kArea + 512, 0);
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x2b}));
  EXPECT_EQ(m.s().xmm[7].q[0], 0u);
  EXPECT_EQ(m.s().xmm[8].q[0], 0x108u);
}
TEST_F(XrstorArea, rejects_bad_headers_and_changes_nothing) {
  const CpuState before = m.s();
  for (unsigned i = 0; i < 16; ++i) m.put<uint64_t>(kArea + 160 + 8 * i, 0);
  const auto rejects = [&](unsigned offset, uint64_t value) {
    const auto good = field<uint64_t>(offset);
    m.put(kArea + offset, value);
    m.expect_fault({0x48, 0x0f, 0xae, 0x2b}, vec::GP);
    m.put(kArea + offset, good);
    expect_same_registers(m.s(), before, 16);
  };
  rejects(512, 7);  // a component that is not in XCR0
  rejects(512, uint64_t{1} << 63);
  rejects(520, uint64_t{1} << 63);  // compacted form
  rejects(528, 1);
}
TEST_F(XrstorArea, rejects_reserved_mxcsr_bits_even_if_sse_is_not_present) {
  m.put<uint64_t>(kArea + 512, 1);
  m.put<uint32_t>(kArea + 24, 0x10000);
  m.expect_fault({0x48, 0x0f, 0xae, 0x2b}, vec::GP);
  EXPECT_EQ(m.s().xmm[0].q[0], 0x100u);
}
TEST_F(XrstorArea, needs_osxsave_and_no_task_switched_flag) {
  m.s().cr0 |= cr0::TS;
  m.expect_fault({0x0f, 0xae, 0x23}, vec::NM);
  m.expect_fault({0x0f, 0xae, 0x2b}, vec::NM);
  m.s().cr4 &= ~cr4::OSXSAVE;
  m.expect_fault({0x0f, 0xae, 0x23}, vec::UD);
  m.expect_fault({0x0f, 0xae, 0x2b}, vec::UD);
}

TEST_F(FpuStateArea, ldmxcsr_and_stmxcsr_move_mxcsr) {
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x1b}));
  EXPECT_EQ(field<uint32_t>(0), 0x1fa5u);
  EXPECT_TRUE(untouched(4, 64));
  m.put<uint32_t>(kArea, 0xffff);
  ASSERT_TRUE(m.run({0x0f, 0xae, 0x13}));
  EXPECT_EQ(m.s().mxcsr, 0xffffu);
  m.put<uint32_t>(kArea, 0x10000);
  m.expect_fault({0x0f, 0xae, 0x13}, vec::GP);
  EXPECT_EQ(m.s().mxcsr, 0xffffu);
}
TEST_F(FpuStateArea, fences_do_nothing) {
  const CpuState before = m.s();
  EXPECT_TRUE(m.run({0x0f, 0xae, 0xe8}));
  EXPECT_TRUE(m.run({0x0f, 0xae, 0xf0}));
  EXPECT_TRUE(m.run({0x0f, 0xae, 0xf8}));
  expect_same_registers(m.s(), before, 16);
  EXPECT_FALSE(m.known({0x0f, 0xae, 0xe0}));
  EXPECT_FALSE(m.known({0x66, 0x0f, 0xae, 0xf0}));
  EXPECT_FALSE(m.known({0xf3, 0x0f, 0xae, 0xe8}));
}

}  // namespace
}  // namespace retrovisor::soft
