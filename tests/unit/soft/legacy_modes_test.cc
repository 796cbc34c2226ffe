// What only 16- and 32-bit code has, and compatibility mode: segments, short instruction and stack pointers, wrap-around.
#include "tests/unit/soft/system_machine.h"

namespace retrovisor::soft {
namespace {

class LegacyModesTest : public SystemMachine {
 protected:
  static constexpr uint64_t kData = 0x7000;
  static constexpr uint64_t kTopPhys = 0xe00000;   // where the last 2 MiB below 4 GiB lie
  static constexpr uint64_t kReadOnly = 0x400000;  // 2 MiB

  // 32-bit user code under long mode, with the pages named above.
  void enter_compatibility() {
    enter_long(3);
    put<uint64_t>(kTables + 0x1000 + 3 * 8, (kTables + 0x3000) | 7);
    put<uint64_t>(kTables + 0x3000 + 511 * 8, kTopPhys | 7 | pte::PS);
    put<uint64_t>(kTables + 0x2000 + (kReadOnly >> 21) * 8, kReadOnly | 5 | pte::PS);
    gdt(kFree, flat_code(3, seg::DB));
    s().segment[CS] = flat_segment(kFree | 3, 11, 3, seg::DB);
    changed();
  }
  // 16-bit code in protected mode that begins at kCode.
  void enter_code16(uint32_t limit) {
    enter_protected(0);
    s().segment[CS].base = kCode;
    s().segment[CS].limit = limit;
    s().segment[CS].attributes &= ~(seg::DB | seg::G);
    s().rip = 0;
    changed();
  }
  void expect_at(unsigned vector) { EXPECT_EQ(s().rip, handler(vector)) << "vector " << (s().rip - kHandlers) / 16; }
};

TEST_F(LegacyModesTest, xlat_reads_through_a_segment_prefix) {
  enter_protected(0);
  s().segment[ES].base = 0x100;
  s().gpr[RBX] = kData;
  s().gpr[RAX] = 0x05;
  put<uint8_t>(kData + 0x105, 0x77);
  code({0x26, 0xd7});
  run();
  EXPECT_EQ(s().gpr[RAX], 0x77u);
  enter_long(0);
  s().segment[FS].base = 0x200;
  s().gpr[RBX] = kData;
  s().gpr[RAX] = 0x05;
  put<uint8_t>(kData + 0x205, 0x78);
  code({0x64, 0xd7});
  run();
  EXPECT_EQ(s().gpr[RAX], 0x78u);
}

TEST_F(LegacyModesTest, enter_with_a_16_bit_stack_pointer_sets_all_of_ebp) {
  enter_protected(0);
  s().segment[SS].attributes &= ~seg::DB;
  changed();
  s().gpr[RSP] = 0x12340000 | kStack;
  s().gpr[RBP] = 0x56780000 | kStack;
  code({0xc8, 0x10, 0x00, 0x01});
  run();
  EXPECT_EQ(s().gpr[RBP], 0x12340000 | (kStack - 4));
  EXPECT_EQ(s().gpr[RSP], 0x12340000 | (kStack - 4 - 4 - 0x10));
  EXPECT_EQ(at<uint32_t>(kStack - 4), 0x56780000 | kStack);
  EXPECT_EQ(at<uint32_t>(kStack - 8), 0x12340000 | (kStack - 4));
}

TEST_F(LegacyModesTest, arpl_writes_only_what_it_raises) {
  for (const bool raises : {false, true}) {
    enter_compatibility();
    put<uint16_t>(kReadOnly, raises ? 0x40 : 0x43);
    s().gpr[RBX] = kReadOnly;
    s().gpr[RAX] = 3;
    code({0x63, 0x03});
    run();
    if (raises) {
      expect_at(vec::PF);
    } else {
      EXPECT_EQ(s().rip, kCode + 2);
      EXPECT_EQ(s().rflags & flag::ZF, 0u);
    }
  }
}

TEST_F(LegacyModesTest, accesses_of_compatibility_mode_wrap_around_at_4_gib) {
  enter_compatibility();
  s().segment[DS].base = 0xfffff000;
  put<uint16_t>(kTopPhys + 0x1ffffe, 0x2211);
  put<uint16_t>(0, 0x4433);
  code({0xa1, 0xfe, 0x0f, 0x00, 0x00});  // mov eax, [0ffeh]
  run();
  EXPECT_EQ(s().gpr[RAX], 0x44332211u);
  s().rip = kCode;
  s().gpr[RAX] = 0x88776655;
  code({0xa3, 0xff, 0x0f, 0x00, 0x00});  // mov [0fffh], eax
  run();
  EXPECT_EQ(at<uint8_t>(kTopPhys + 0x1fffff), 0x55);
  EXPECT_EQ(at<uint32_t>(0) & 0xffffff, 0x887766u);
}

TEST_F(LegacyModesTest, pusha_stores_eax_first) {
  enter_compatibility();
  s().gpr[RSP] = kMissing + 0x200008;  // room for two of the eight
  s().gpr[RAX] = 0x11111111;
  s().gpr[RCX] = 0x22222222;
  expect_fault({0x60}, vec::PF);
  EXPECT_EQ(s().cr2, kMissing + 0x1ffffc);
  EXPECT_EQ(at<uint64_t>(kMissing + 0x200000), 0x1111111122222222u);
}

TEST_F(LegacyModesTest, pusha_and_popa_wrap_around_with_a_16_bit_stack_pointer) {
  enter_protected(0);
  s().segment[SS].base = 0x30000;
  s().segment[SS].limit = 0xffff;
  s().segment[SS].attributes &= ~seg::DB;
  changed();
  s().gpr[RSP] = 0xabcd0008;
  s().gpr[RAX] = 1;
  s().gpr[RDI] = 8;
  code({0x60, 0x61});
  run();
  EXPECT_EQ(s().gpr[RSP], 0xabcdffe8u);
  EXPECT_EQ(at<uint32_t>(0x30004), 1u);
  EXPECT_EQ(at<uint32_t>(0x3ffe8), 8u);
  s().gpr[RAX] = s().gpr[RDI] = 0;
  run();
  EXPECT_EQ(s().gpr[RSP], 0xabcd0008u);
  EXPECT_EQ(s().gpr[RAX], 1u);
  EXPECT_EQ(s().gpr[RDI], 8u);
}

TEST_F(LegacyModesTest, bound_reads_its_bounds_one_by_one) {
  enter_compatibility();
  s().cr0 |= cr0::AM;
  s().rflags |= flag::AC;
  changed();
  s().gpr[RBX] = kData + 4;  // aligned for a bound, not for the pair
  s().gpr[RAX] = 5;
  put<int32_t>(kData + 4, -5);
  put<int32_t>(kData + 8, 5);
  code({0x62, 0x03});
  run();
  EXPECT_EQ(s().rip, kCode + 2);
  enter_compatibility();
  s().gpr[RBX] = kData;
  s().gpr[RAX] = 6;
  put<int32_t>(kData, -5);
  put<int32_t>(kData + 4, 5);
  expect_fault({0x62, 0x03}, vec::BR);
}

TEST_F(LegacyModesTest, a_far_pointer_is_read_part_by_part) {
  enter_compatibility();
  s().segment[DS].limit = static_cast<uint32_t>(kMissing + 1);  // the selector lies outside
  s().gpr[RBX] = kMissing;
  expect_fault({0x66, 0xc4, 0x03}, vec::PF);  // les ax, [ebx]
  enter_compatibility();
  s().segment[DS].limit = kData + 1;
  s().gpr[RBX] = kData;
  expect_fault({0x66, 0xc4, 0x03}, vec::GP);
}

TEST_F(LegacyModesTest, code_that_runs_over_64_kib_meets_the_limit_and_does_not_wrap) {
  enter_code16(0xffff);
  s().rip = 0xfffe;
  code({0x90, 0x90});
  bytes(kCode, {0x40, 0x40});
  run(2);
  EXPECT_EQ(s().rip, 0x10000u);
  run();
  expect_at(vec::GP);
  EXPECT_EQ(at<uint32_t>(s().gpr[RSP] + 4), 0x10000u);
  enter_code16(0x1ffff);
  s().rip = 0xffff;
  code({0x90, 0x40});
  run(2);
  EXPECT_EQ(s().rip, 0x10001u);
  EXPECT_EQ(s().gpr[RAX] & 0xffff, 1u);
}

TEST_F(LegacyModesTest, branches_with_16_bit_operands_cut_the_instruction_pointer) {
  enter_code16(0x1ffff);
  s().rip = 0xfffe;
  code({0xeb, 0x02});  // to 10002h
  run();
  EXPECT_EQ(s().rip, 2u);
  enter_code16(0x1ffff);
  s().rip = 0xfffd;
  code({0x66, 0xeb, 0x02});
  run();
  EXPECT_EQ(s().rip, 0x10002u);
  enter_code16(0x8fff);
  code({0xe9, 0xfd, 0x8f});  // one beyond the limit
  run();
  expect_at(vec::GP);
  EXPECT_EQ(at<uint32_t>(s().gpr[RSP] + 4), 0u);
}

}  // namespace
}  // namespace retrovisor::soft
