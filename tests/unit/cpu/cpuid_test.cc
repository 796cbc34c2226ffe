#include "vmm/cpu/cpuid.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace retrovisor {
namespace {

std::string text(std::initializer_list<uint32_t> words) {
  std::string out;
  for (const uint32_t w : words) out.append(reinterpret_cast<const char*>(&w), 4);
  return out;
}

CpuidResult ask(uint32_t leaf, uint32_t subleaf = 0, uint32_t vcpus = 1, uint32_t id = 0, const CpuState& s = CpuState{}) {
  return cpuid(leaf, subleaf, s, VcpuId(id), vcpus);
}

CpuState long_mode_state() {
  CpuState s;
  s.efer = efer::LME | efer::LMA;
  s.segment[CS].attributes = seg::P | seg::S | seg::L | 11;
  return s;
}

TEST(Cpuid, names_vendor_brand_and_hypervisor) {
  const CpuidResult v = ask(0);
  EXPECT_EQ(text({v.ebx, v.edx, v.ecx}), "GenuineIntel");
  std::string brand;
  for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
    const CpuidResult r = ask(leaf);
    brand += text({r.eax, r.ebx, r.ecx, r.edx});
  }
  EXPECT_EQ(std::string(brand.c_str()), "Retrovisor x86-64-v2 virtual CPU");
  const CpuidResult h = ask(0x40000000);
  EXPECT_EQ(text({h.ebx, h.ecx, h.edx}), "RetrovisorVM");
}

TEST(Cpuid, is_family_6_model_1c_stepping_10) {
  const uint32_t eax = ask(1).eax;
  EXPECT_EQ(eax >> 8 & 15, 6u);
  EXPECT_EQ((eax >> 4 & 15) | (eax >> 12 & 0xf0), 0x1cu);
  EXPECT_EQ(eax & 15, 10u);
}

// System V x86-64 psABI, table 3.1.
TEST(Cpuid, has_all_of_x86_64_v2_and_nothing_above) {
  const CpuState s = long_mode_state();
  const CpuidResult one = ask(1, 0, 1, 0, s);
  const CpuidResult ext = ask(0x80000001, 0, 1, 0, s);
  for (const unsigned b : {0u, 8u, 15u, 24u, 23u, 25u, 26u}) EXPECT_TRUE(one.edx >> b & 1) << "edx " << b;
  for (const unsigned b : {0u, 9u, 13u, 19u, 20u, 23u}) EXPECT_TRUE(one.ecx >> b & 1) << "ecx " << b;
  EXPECT_TRUE(ext.ecx & 1);         // LAHF
  EXPECT_TRUE(ext.edx >> 11 & 1);   // SYSCALL
  EXPECT_TRUE(ext.edx >> 29 & 1);   // LM
  EXPECT_FALSE(ext.ecx >> 5 & 1);   // LZCNT
  EXPECT_FALSE(one.ecx >> 12 & 1);  // FMA
  EXPECT_FALSE(one.ecx >> 22 & 1);  // MOVBE
  EXPECT_FALSE(one.ecx >> 28 & 1);  // AVX
  EXPECT_FALSE(one.ecx >> 3 & 1);   // MONITOR
  EXPECT_FALSE(one.ecx >> 5 & 1);   // VMX
  EXPECT_FALSE(one.ecx >> 17 & 1);  // PCID
  EXPECT_EQ(ask(7).ebx & (1u << 3 | 1u << 5 | 1u << 8), 0u);  // BMI1, AVX2, BMI2
}

TEST(Cpuid, shows_syscall_in_64_bit_mode_alone) {
  EXPECT_FALSE(ask(0x80000001).edx >> 11 & 1);
  EXPECT_TRUE(ask(0x80000001, 0, 1, 0, long_mode_state()).edx >> 11 & 1);
}

TEST(Cpuid, mirrors_osxsave_from_cr4) {
  CpuState s;
  EXPECT_FALSE(ask(1, 0, 1, 0, s).ecx >> 27 & 1);
  s.cr4 = cr4::OSXSAVE;
  EXPECT_TRUE(ask(1, 0, 1, 0, s).ecx >> 27 & 1);
}

TEST(Cpuid, tells_tsc_and_timer_frequency) {
  const CpuidResult r = ask(0x15);
  ASSERT_NE(r.eax, 0u);
  EXPECT_EQ(uint64_t{r.ecx} * r.ebx / r.eax, kTscHz);
  EXPECT_EQ(ask(0x16).eax, 1000u);
  EXPECT_TRUE(ask(0x80000007).edx >> 8 & 1);
  EXPECT_EQ(ask(6).eax, 4u);
}

TEST(Cpuid, numbers_the_processors_of_one_package) {
  EXPECT_EQ(ask(1, 0, 4, 3).ebx >> 24, 3u);
  EXPECT_TRUE(ask(1, 0, 4).edx >> 28 & 1);
  EXPECT_FALSE(ask(1, 0, 1).edx >> 28 & 1);
  EXPECT_EQ(ask(0xb, 0, 3, 2).edx, 2u);
  EXPECT_EQ(ask(0xb, 1, 3, 2).eax, 2u);  // two bits number three processors
  EXPECT_EQ(ask(0xb, 1, 3, 2).ebx, 3u);
  EXPECT_EQ(ask(0xb, 2, 3, 2).ebx, 0u);
  EXPECT_EQ(ask(0xb, 2, 3, 2).ecx, 2u);
}

TEST(Cpuid, answers_beyond_the_last_leaf_with_the_highest_basic_one) {
  EXPECT_EQ(ask(0x17).eax, ask(0x16).eax);
  EXPECT_EQ(ask(0x80000009).eax, ask(0x16).eax);
  EXPECT_EQ(ask(0x40000001).eax, 0u);
}

TEST(Cpuid, limits_leaves_when_misc_enable_says_so) {
  CpuState s;
  s.misc_enable |= 1 << 22;
  EXPECT_EQ(ask(0, 0, 1, 0, s).eax, 3u);
}

TEST(Cpuid, xsave_area_holds_x87_and_sse) {
  const CpuidResult r = ask(0xd);
  EXPECT_EQ(r.eax, 3u);
  EXPECT_EQ(r.ebx, 576u);
  EXPECT_EQ(r.ecx, 576u);
  EXPECT_EQ(ask(0xd, 1).eax, 0u);
}

}  // namespace
}  // namespace retrovisor
