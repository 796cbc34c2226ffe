// Rules about registers that have one definition for engines, saved states and debuggers.
#include <gtest/gtest.h>

#include "vmm/cpu/control_registers.h"
#include "vmm/cpu/debug_registers.h"

namespace retrovisor {
namespace {

TEST(RegisterRules, cr0_needs_protection_for_paging_and_cd_for_nw) {
  EXPECT_TRUE(valid_cr0(0));
  EXPECT_TRUE(valid_cr0(0x60000010));  // reset
  EXPECT_TRUE(valid_cr0(0x80050033));  // Linux
  EXPECT_FALSE(valid_cr0(cr0::PG));
  EXPECT_FALSE(valid_cr0(cr0::NW));
  EXPECT_FALSE(valid_cr0(1 << 6));
  EXPECT_FALSE(valid_cr0(uint64_t{1} << 32));
}

TEST(RegisterRules, cr4_and_xcr0_hold_what_the_model_has) {
  EXPECT_TRUE(valid_cr4(cr4::PAE | cr4::SMAP));
  EXPECT_FALSE(valid_cr4(cr4::PCIDE));
  EXPECT_TRUE(valid_xcr0(1));
  EXPECT_TRUE(valid_xcr0(3));
  EXPECT_FALSE(valid_xcr0(2));  // without x87
  EXPECT_FALSE(valid_xcr0(7));
}

TEST(RegisterRules, page_directory_pointers_have_reserved_bits_only_while_present) {
  EXPECT_TRUE(valid_pdpte(0x1001));
  EXPECT_TRUE(valid_pdpte(0x1019));  // PWT, PCD
  for (const uint64_t bit : {0x2u, 0x4u, 0x20u, 0x40u, 0x80u, 0x100u}) {
    EXPECT_FALSE(valid_pdpte(0x1001 | bit)) << bit;
    EXPECT_TRUE(valid_pdpte(bit)) << bit;
  }
  EXPECT_TRUE(valid_pdpte(uint64_t{1} << 39 | 1));
  EXPECT_FALSE(valid_pdpte(uint64_t{1} << 40 | 1));
  EXPECT_FALSE(valid_pdpte(pte::NX | 1));
}

TEST(RegisterRules, pae_paging_is_that_of_32_bit_modes) {
  EXPECT_TRUE(pae_paging(cr0::PE | cr0::PG, cr4::PAE, 0));
  EXPECT_FALSE(pae_paging(cr0::PE, cr4::PAE, 0));
  EXPECT_FALSE(pae_paging(cr0::PE | cr0::PG, 0, 0));
  EXPECT_FALSE(pae_paging(cr0::PE | cr0::PG, cr4::PAE, efer::LME | efer::LMA));
}

TEST(RegisterRules, debug_registers_keep_their_fixed_bits) {
  EXPECT_EQ(stored_dr6(0), 0xffff0ff0u);
  EXPECT_EQ(stored_dr6(UINT64_MAX), 0xffffefffu);
  EXPECT_EQ(stored_dr7(0), 0x400u);
  EXPECT_EQ(stored_dr7(UINT64_MAX), 0xffff27ffu);
}

TEST(RegisterRules, dr7_describes_four_breakpoints) {
  EXPECT_FALSE(breakpoints_armed(0xffff0000 | dr7::fixed | dr7::GD));
  for (unsigned i = 0; i < 4; ++i) {
    for (const uint64_t enable : {1u, 2u}) {
      const uint64_t dr7 = enable << (2 * i) | uint64_t{0xd} << (16 + 4 * i);  // 4 bytes, writes
      EXPECT_TRUE(breakpoints_armed(dr7));
      for (unsigned k = 0; k < 4; ++k) EXPECT_EQ(breakpoint_control(dr7, k).on, k == i);
      EXPECT_EQ(breakpoint_control(dr7, i).what, BreakOn::write);
      EXPECT_EQ(breakpoint_control(dr7, i).length, 4u);
    }
  }
  constexpr unsigned kLengths[] = {1, 2, 8, 4};  // SDM 3B 17.2.4
  for (unsigned code = 0; code < 4; ++code) EXPECT_EQ(breakpoint_control(uint64_t{code} << 18, 0).length, kLengths[code]);
}

TEST(RegisterRules, a_breakpoint_covers_the_aligned_bytes_round_its_address) {
  const BreakpointControl b{true, BreakOn::access, 4};
  EXPECT_FALSE(b.touches(0x1002, 0xffc, 4));
  EXPECT_TRUE(b.touches(0x1002, 0xffd, 4));
  EXPECT_TRUE(b.touches(0x1002, 0x1003, 1));
  EXPECT_FALSE(b.touches(0x1002, 0x1004, 8));
}

}  // namespace
}  // namespace retrovisor
