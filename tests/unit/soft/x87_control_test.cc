// x87 control instructions, environment images, exceptions between instructions, and what is no instruction.
#include <gtest/gtest.h>

#include "tests/unit/soft/x87_bench.h"
#include "vmm/soft/x87.h"

namespace retrovisor::soft {
namespace {

const X87Register kOne{kX87IntegerBit, 0x3fff};

class X87Control : public testing::Test {
 protected:
  SoftCpu& cpu() { return bench_.cpu(); }
  X87State& fpu() { return bench_.fpu(); }
  uint16_t word(unsigned at) {
    uint16_t v;
    std::memcpy(&v, bench_.operand() + at, 2);
    return v;
  }
  uint32_t dword(unsigned at) {
    uint32_t v;
    std::memcpy(&v, bench_.operand() + at, 4);
    return v;
  }
  void legacy_mode(uint64_t cr0) {
    cpu().mode = block_mode::code32;
    cpu().s.cr0 = cr0 | cr0::NE;
    cpu().s.efer = 0;
    for (Segment& s : cpu().s.segment) {
      s = {0, 0xffffffff, seg::P | seg::S | seg::DB | seg::G | seg::readable_or_writable | seg::accessed, 0};
    }
    cpu().s.segment[CS].attributes |= seg::code;
    cpu().s.segment[CS].selector = 0x1234;
    cpu().s.segment[DS].selector = 0x5678;
  }
  void set_pointers() {
    fpu().fop = 0x5a5;
    fpu().fip = 0x76543210;
    fpu().fdp = 0x89abcdef;
    fpu().fcs = 0;
    fpu().fds = 0;
  }
  X87Bench bench_;
};

constexpr uint8_t kMemory = 6;  // ModRM of [rsi], with reg in bits 3-5
constexpr uint8_t mem(unsigned reg) { return static_cast<uint8_t>(reg << 3 | kMemory); }

TEST_F(X87Control, undefined_encodings_are_unknown) {
  struct Range {
    uint8_t opcode, first, last;
  };
  const Range ranges[] = {{0xd9, 0xd1, 0xd7},     {0xd9, 0xe2, 0xe3},     {0xd9, 0xe6, 0xe7},     {0xd9, 0xef, 0xef},
                          {0xda, 0xe0, 0xe8},     {0xda, 0xea, 0xff},     {0xdb, 0xe5, 0xe7},     {0xdb, 0xf8, 0xff},
                          {0xdd, 0xf0, 0xff},     {0xde, 0xd8, 0xd8},     {0xde, 0xda, 0xdf},     {0xdf, 0xe1, 0xe7},
                          {0xdf, 0xf8, 0xff},     {0xd9, mem(1), mem(1)}, {0xdb, mem(4), mem(4)}, {0xdb, mem(6), mem(6)},
                          {0xdd, mem(5), mem(5)}};
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    for (unsigned modrm = 0; modrm <= 0xff; ++modrm) {
      if (modrm < 0xc0 && (modrm & 0xc7) != kMemory) continue;
      bool undefined = false;
      for (const Range& r : ranges) undefined = undefined || (r.opcode == opcode && modrm >= r.first && modrm <= r.last);
      const Emit emit = bench_.decode(static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm));
      EXPECT_EQ(emit == Emit::unknown, undefined) << std::hex << opcode << " " << modrm;
      EXPECT_EQ(bench_.fpu_class, undefined ? FpuClass::none : FpuClass::x87);
    }
  }
}

TEST_F(X87Control, wait_has_its_own_class) {
  EXPECT_EQ(bench_.decode(0x9b, 0), Emit::next);
  EXPECT_EQ(bench_.fpu_class, FpuClass::wait);
}

TEST_F(X87Control, lock_prefix_and_other_maps_are_unknown) {
  Insn insn;
  insn.opcode = 0xd8;
  insn.modrm = 0xc0;
  insn.has_modrm = true;
  insn.lock = true;
  Op op{};
  FpuClass fpu_class = FpuClass::none;
  EXPECT_EQ(emit_x87(insn, op, fpu_class), Emit::unknown);
  insn.lock = false;
  insn.map = OpMap::map_0f;
  EXPECT_EQ(emit_x87(insn, op, fpu_class), Emit::unknown);
}

TEST_F(X87Control, unmasked_exception_is_reported_by_the_next_waiting_instruction) {
  fpu().fcw = 0x37f & ~fsw::ZE;
  x87_push(fpu(), x87_zero(false));
  x87_push(fpu(), kOne);
  ASSERT_TRUE(bench_.run(0xd8, 0xf1));  // fdiv st, st(1)
  EXPECT_EQ(fpu().fsw & (fsw::ZE | fsw::ES | fsw::B), fsw::ZE | fsw::ES | fsw::B);
  EXPECT_TRUE(same(x87_st(fpu(), 0), kOne));
  const X87State pending = fpu();
  // Waiting: arithmetic, loads, FLDCW, FLDENV, FRSTOR, FNOP, WAIT.
  const uint8_t waiting[][2] = {{0xd8, 0xc1}, {0xd9, 0xe8}, {0xd9, mem(0)}, {0xd9, mem(5)}, {0xd9, mem(4)}, {0xdd, mem(4)},
                                {0xd9, 0xd0}, {0x9b, 0},    {0xdd, mem(3)}, {0xd9, 0xf7},   {0xdd, 0xc0},   {0xd9, 0xfe}};
  for (const auto& insn : waiting) {
    EXPECT_FALSE(bench_.run(insn[0], insn[1])) << std::hex << +insn[0] << " " << +insn[1];
    EXPECT_EQ(cpu().fault.vector, vec::MF);
    EXPECT_TRUE(equal(pending, fpu()));
  }
  EXPECT_FALSE(x87_check_pending(cpu()));
  // Not waiting: FNSTSW, FNSTCW, FNENI, FNSTENV (which masks, so check it last but FNCLEX).
  EXPECT_TRUE(bench_.run(0xdf, 0xe0));
  EXPECT_EQ(cpu().s.gpr[RAX], fpu().fsw);
  EXPECT_TRUE(bench_.run(0xdd, mem(7)));
  EXPECT_EQ(word(0), fpu().fsw);
  EXPECT_TRUE(bench_.run(0xd9, mem(7)));
  EXPECT_EQ(word(0), fpu().fcw);
  EXPECT_TRUE(bench_.run(0xdb, 0xe0));
  EXPECT_TRUE(bench_.run(0xdb, 0xe2));  // fnclex
  EXPECT_EQ(fpu().fsw & 0x80ff, 0);
  EXPECT_TRUE(bench_.run(0x9b, 0));
}

TEST_F(X87Control, pending_exception_is_ignored_without_numeric_error_reporting) {
  cpu().s.cr0 &= ~cr0::NE;
  fpu().fcw = 0x37e;
  fpu().fsw = fsw::IE | fsw::ES | fsw::B;
  EXPECT_TRUE(bench_.run(0x9b, 0));
  EXPECT_TRUE(bench_.run(0xd9, 0xe8));
}

TEST_F(X87Control, loading_a_control_word_that_unmasks_a_flag_makes_it_pending) {
  fpu().fsw = fsw::PE;
  const uint16_t control = 0xffff & ~fsw::PE;
  std::memcpy(bench_.operand(), &control, 2);
  ASSERT_TRUE(bench_.run(0xd9, mem(5)));
  EXPECT_EQ(fpu().fcw, 0x1f5f);
  EXPECT_EQ(fpu().fsw, fsw::PE | fsw::ES | fsw::B);
  ASSERT_TRUE(bench_.run(0xd9, mem(6)));  // fnstenv masks again
  EXPECT_EQ(word(0), 0x1f5f);
  EXPECT_EQ(word(4), fsw::PE | fsw::ES | fsw::B);
  EXPECT_EQ(fpu().fcw, 0x1f7f);
  EXPECT_EQ(fpu().fsw, fsw::PE);
}

TEST_F(X87Control, pointers_name_the_last_non_control_instruction) {
  x87_push(fpu(), kOne);
  cpu().s.segment[CS].selector = 0x33;
  ASSERT_TRUE(bench_.run(0xd8, mem(0)));
  EXPECT_EQ(fpu().fop, mem(0));
  EXPECT_EQ(fpu().fip, 0x401006u);
  EXPECT_EQ(fpu().fdp, kOperandAddress);
  EXPECT_EQ(fpu().fcs, 0);
  EXPECT_EQ(fpu().fds, 0);
  ASSERT_TRUE(bench_.run(0xd9, 0xe0));  // fchs: no operand
  EXPECT_EQ(fpu().fop, 0x1e0);
  EXPECT_EQ(fpu().fdp, kOperandAddress);
  ASSERT_TRUE(bench_.run(0xd9, mem(7)));  // control instructions change nothing
  ASSERT_TRUE(bench_.run(0xdb, 0xe2));
  ASSERT_TRUE(bench_.run(0xdf, 0xe0));
  ASSERT_TRUE(bench_.run(0x9b, 0));
  EXPECT_EQ(fpu().fop, 0x1e0);
  ASSERT_TRUE(bench_.run(0xdb, 0xe3));
  EXPECT_EQ(fpu().fop, 0);
  EXPECT_EQ(fpu().fip, 0u);
  EXPECT_EQ(fpu().fdp, 0u);
}

TEST_F(X87Control, selectors_are_kept_in_legacy_modes) {
  legacy_mode(cr0::PE);
  ASSERT_TRUE(bench_.run(0xd9, mem(0)));
  EXPECT_EQ(fpu().fcs, 0x1234);
  EXPECT_EQ(fpu().fds, 0x5678);
  EXPECT_EQ(fpu().fip, 0x401006u);
}

TEST_F(X87Control, protected_mode_32_bit_environment) {
  legacy_mode(cr0::PE);
  set_pointers();
  fpu().fcs = 0x1111;
  fpu().fds = 0x2222;
  fpu().fsw = 0x3800;
  fpu().tag = 0x80;
  fpu().r[7] = kOne;
  const X87State before = fpu();
  ASSERT_TRUE(bench_.run(0xd9, mem(6)));
  const uint32_t expected[7] = {0xffff037f, 0xffff3800, 0xffff3fff, 0x76543210, 0x05a51111, 0x89abcdef, 0xffff2222};
  for (unsigned i = 0; i < 7; ++i) EXPECT_EQ(dword(4 * i), expected[i]) << i;
  fpu() = X87State{};
  fpu().r = before.r;
  ASSERT_TRUE(bench_.run(0xd9, mem(4)));
  EXPECT_TRUE(equal(before, fpu()));
}

TEST_F(X87Control, protected_mode_16_bit_environment) {
  legacy_mode(cr0::PE);
  set_pointers();
  fpu().fcs = 0x1111;
  fpu().fds = 0x2222;
  bench_.operand()[14] = 0xee;
  ASSERT_TRUE(bench_.run(0xd9, mem(6), true));
  const uint16_t expected[7] = {0x37f, 0, 0xffff, 0x3210, 0x1111, 0xcdef, 0x2222};
  for (unsigned i = 0; i < 7; ++i) EXPECT_EQ(word(2 * i), expected[i]) << i;
  EXPECT_EQ(bench_.operand()[14], 0xee);
  ASSERT_TRUE(bench_.run(0xd9, mem(4), true));
  EXPECT_EQ(fpu().fip, 0x3210u);
  EXPECT_EQ(fpu().fdp, 0xcdefu);
  EXPECT_EQ(fpu().fop, 0);
}

TEST_F(X87Control, real_mode_32_bit_environment) {
  legacy_mode(0);
  set_pointers();
  ASSERT_TRUE(bench_.run(0xd9, mem(6)));
  const uint32_t expected[7] = {0xffff037f, 0xffff0000, 0xffffffff, 0xffff3210, 0x076545a5, 0xffffcdef, 0x089ab000};
  for (unsigned i = 0; i < 7; ++i) EXPECT_EQ(dword(4 * i), expected[i]) << i;
  fpu() = X87State{};
  ASSERT_TRUE(bench_.run(0xd9, mem(4)));
  EXPECT_EQ(fpu().fip, 0x76543210u);
  EXPECT_EQ(fpu().fdp, 0x89abcdefu);
  EXPECT_EQ(fpu().fop, 0x5a5);
}

TEST_F(X87Control, real_mode_16_bit_environment) {
  legacy_mode(0);
  fpu().fop = 0x5a5;
  fpu().fcs = 0xf000;
  fpu().fip = 0x4321;
  fpu().fds = 0x1000;
  fpu().fdp = 0x8765;
  ASSERT_TRUE(bench_.run(0xd9, mem(6), true));
  const uint16_t expected[7] = {0x37f, 0, 0xffff, 0x4321, 0xf5a5, 0x8765, 0x1000};
  for (unsigned i = 0; i < 7; ++i) EXPECT_EQ(word(2 * i), expected[i]) << i;
  ASSERT_TRUE(bench_.run(0xd9, mem(4), true));
  EXPECT_EQ(fpu().fip, 0xf4321u);
  EXPECT_EQ(fpu().fdp, 0x18765u);
  EXPECT_EQ(fpu().fcs, 0);
}

TEST_F(X87Control, virtual_8086_mode_has_the_real_mode_format) {
  legacy_mode(cr0::PE);
  cpu().s.rflags |= flag::VM;
  set_pointers();
  ASSERT_TRUE(bench_.run(0xd9, mem(6)));
  EXPECT_EQ(dword(16), 0x076545a5u);
}

TEST_F(X87Control, save_and_restore_keep_everything) {
  for (const bool narrow : {false, true}) {
    X87Values values(7);
    for (X87Register& r : fpu().r) r = values.value();
    fpu().fsw = 0x2d05;
    fpu().tag = 0xa5;
    fpu().fcw = 0xc7f;
    const X87State before = fpu();
    ASSERT_TRUE(bench_.run(0xdd, mem(6), narrow));
    EXPECT_EQ(fpu().fcw, 0x37f);
    EXPECT_EQ(fpu().fsw, 0);
    EXPECT_EQ(fpu().tag, 0);
    for (X87Register& r : fpu().r) r = {};
    ASSERT_TRUE(bench_.run(0xdd, mem(4), narrow));
    EXPECT_EQ(fpu().fcw, before.fcw);
    EXPECT_EQ(fpu().fsw, before.fsw);
    EXPECT_EQ(fpu().tag, before.tag);
    for (unsigned i = 0; i < 8; ++i) EXPECT_TRUE(same(fpu().r[i], before.r[i])) << i;
  }
}

TEST_F(X87Control, tag_word_tells_the_class_of_each_register) {
  fpu().tag = 0x7f;
  fpu().r = {kOne, x87_zero(true), x87_infinity(false), kX87Indefinite, X87Register{1, 0}, X87Register{1, 0x3fff},
             X87Register{kX87IntegerBit, 0}, kOne};
  EXPECT_EQ(x87_full_tag(fpu()), 0b11'10'10'10'10'10'01'00);
  EXPECT_EQ(x87_abridged_tag(x87_full_tag(fpu())), fpu().tag);
}

TEST_F(X87Control, mmx_entry_marks_all_registers_and_resets_top) {
  fpu().fsw = 0x3c00;
  x87_enter_mmx(fpu());
  EXPECT_EQ(fpu().fsw, 0x0400);
  EXPECT_EQ(fpu().tag, 0xff);
}

TEST_F(X87Control, faulting_memory_access_changes_no_x87_state) {
  // Every memory form, at an address that no access can reach.
  cpu().s.gpr[RSI] = 0x8000000000000000;
  X87Values values(11);
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    for (unsigned reg = 0; reg < 8; ++reg) {
      if (bench_.decode(static_cast<uint8_t>(opcode), mem(reg)) == Emit::unknown) continue;
      for (int i = 0; i < 50; ++i) {
        fpu() = values.state();
        const X87State before = fpu();
        EXPECT_FALSE(bench_.execute()) << std::hex << opcode << " /" << reg;
        EXPECT_NE(cpu().fault.vector, vec::MF);
        EXPECT_TRUE(equal(before, fpu())) << std::hex << opcode << " /" << reg;
      }
    }
  }
}

TEST_F(X87Control, fcmov_reads_the_flags) {
  const uint32_t flags[4] = {cc::CF, cc::ZF, cc::CF, cc::PF};
  for (unsigned condition = 0; condition < 4; ++condition) {
    for (const bool negated : {false, true}) {
      for (const bool set : {false, true}) {
        fpu() = X87State{};
        x87_push(fpu(), kOne);
        x87_push(fpu(), x87_zero(false));
        cpu().cc = 1 << 9 | (set ? flags[condition] : 0);
        ASSERT_TRUE(bench_.run(negated ? 0xdb : 0xda, static_cast<uint8_t>(0xc1 + 8 * condition)));
        EXPECT_EQ(same(x87_st(fpu(), 0), kOne), set != negated);
      }
    }
  }
}

TEST_F(X87Control, partial_remainders_end_at_the_remainder) {
  // 2^200 * 1.234... mod 3: steps until C2 is clear; each is the exact remainder of a multiple.
  for (const uint8_t insn : {uint8_t{0xf8}, uint8_t{0xf5}}) {
    fpu() = X87State{};
    x87_push(fpu(), {0xc000000000000000, 0x4000});
    x87_push(fpu(), {0x9df3b645a1cac083, static_cast<uint16_t>(0x3fff + 200)});
    unsigned steps = 0;
    do {
      ASSERT_TRUE(bench_.run(0xd9, insn));
      ++steps;
      ASSERT_LT(steps, 10u);
    } while ((fpu().fsw & fsw::C2) != 0);
    // 0x9df3b645a1cac083 is 2 modulo 3 and 2^137 is 2 modulo 3: the product is 1.
    uint64_t residue = 0x9df3b645a1cac083 % 3;
    for (int i = 0; i < 137; ++i) residue = residue * 2 % 3;
    const X87Register expected = residue == 0 ? x87_zero(false)
                                 : residue == 1 ? kOne
                                 : insn == 0xf8 ? X87Register{kX87IntegerBit, 0x4000} : X87Register{kX87IntegerBit, 0xbfff};
    EXPECT_TRUE(same(x87_st(fpu(), 0), expected)) << text(x87_st(fpu(), 0)) << " residue " << residue;
    EXPECT_GT(steps, 2u);
  }
}

TEST_F(X87Control, remainder_of_a_denormal_divisor_takes_partial_steps) {
  fpu() = X87State{};
  x87_push(fpu(), {3, 0});
  x87_push(fpu(), {kX87IntegerBit, 16});  // 2^-16367 is 2^78 units of the last place; modulo 3 that is 1
  ASSERT_TRUE(bench_.run(0xd9, 0xf8));
  EXPECT_NE(fpu().fsw & fsw::C2, 0);
  EXPECT_NE(fpu().fsw & fsw::DE, 0);
  ASSERT_TRUE(bench_.run(0xd9, 0xf8));
  EXPECT_EQ(fpu().fsw & fsw::C2, 0);
  EXPECT_TRUE(same(x87_st(fpu(), 0), {1, 0})) << text(x87_st(fpu(), 0));
}

}  // namespace
}  // namespace retrovisor::soft
