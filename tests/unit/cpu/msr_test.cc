#include "vmm/cpu/msr.h"

#include <gtest/gtest.h>

namespace retrovisor {
namespace {

constexpr VirtualTime kNow{1000};
constexpr uint64_t kNonCanonical = uint64_t{1} << 47;

class FakeInterrupts final : public VcpuInterrupts {
 public:
  uint8_t acknowledge() override { return 0; }
  void tsc_changed() override { ++tsc_changes; }
  uint8_t cr8() const override { return 0; }
  void set_cr8(uint8_t) override {}
  bool read_msr(uint32_t index, uint64_t& value) override {
    value = index;
    return index != 0x8ff;
  }
  bool write_msr(uint32_t index, uint64_t) override { return index != 0x8ff; }
  int tsc_changes = 0;
};

class MsrTest : public ::testing::Test {
 protected:
  MsrTest() {
    vcpu.state = CpuState::at_reset(VcpuId(0));
    vcpu.interrupts = &interrupts;
  }
  bool write(uint32_t index, uint64_t value) { return write_msr(vcpu, kNow, index, value); }
  uint64_t read(uint32_t index) {
    uint64_t value = 0;
    EXPECT_TRUE(read_msr(vcpu, kNow, index, value)) << std::hex << index;
    return value;
  }
  bool readable(uint32_t index) {
    uint64_t value = 0;
    return read_msr(vcpu, kNow, index, value);
  }
  FakeInterrupts interrupts;
  Vcpu vcpu;
};

TEST_F(MsrTest, faults_on_unknown_registers) {
  for (const uint32_t index :
       {0u, 0x3au, 0x48u, 0x10au, 0x186u, 0x480u, 0xda0u, 0xc0000084u + 1, 0xc0010015u, 0xffffffffu}) {
    EXPECT_FALSE(readable(index)) << std::hex << index;
    EXPECT_FALSE(write(index, 0)) << std::hex << index;
  }
}

TEST_F(MsrTest, keeps_what_is_written) {
  for (const uint32_t index : {msr::SYSENTER_CS, msr::SYSENTER_ESP, msr::SYSENTER_EIP, msr::STAR, msr::LSTAR, msr::CSTAR,
                               msr::SFMASK, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE, msr::TSC_AUX}) {
    EXPECT_TRUE(write(index, 0x12345678));
    EXPECT_EQ(read(index), 0x12345678u) << std::hex << index;
  }
  EXPECT_EQ(vcpu.state.segment[GS].base, 0x12345678u);
}

TEST_F(MsrTest, refuses_non_canonical_addresses) {
  for (const uint32_t index :
       {msr::SYSENTER_ESP, msr::SYSENTER_EIP, msr::LSTAR, msr::CSTAR, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE}) {
    EXPECT_FALSE(write(index, kNonCanonical)) << std::hex << index;
    EXPECT_EQ(read(index), 0u);
  }
}

TEST_F(MsrTest, efer_refuses_reserved_bits_and_lme_changes_under_paging) {
  EXPECT_TRUE(write(msr::EFER, efer::SCE | efer::LME | efer::NXE));
  EXPECT_FALSE(write(msr::EFER, efer::FFXSR));
  EXPECT_FALSE(write(msr::EFER, 1 << 12));
  vcpu.state.cr0 |= cr0::PE | cr0::PG;
  vcpu.state.efer |= efer::LMA;
  EXPECT_FALSE(write(msr::EFER, efer::SCE));
  EXPECT_TRUE(write(msr::EFER, efer::LME));  // LMA in the value does not count
  EXPECT_EQ(read(msr::EFER), efer::LME | efer::LMA);
}

TEST_F(MsrTest, tsc_and_tsc_adjust_move_together) {
  EXPECT_EQ(read(msr::TSC), kNow.value);
  EXPECT_TRUE(write(msr::TSC, 5000));
  EXPECT_EQ(read(msr::TSC), 5000u);
  EXPECT_EQ(read(msr::TSC_ADJUST), 4000u);
  EXPECT_TRUE(write(msr::TSC_ADJUST, 0));
  EXPECT_EQ(read(msr::TSC), kNow.value);
  EXPECT_EQ(interrupts.tsc_changes, 2);
}

TEST_F(MsrTest, pat_and_mtrrs_accept_known_memory_types_alone) {
  EXPECT_TRUE(write(msr::PAT, 0x0007040600070406));
  EXPECT_TRUE(write(msr::PAT, 0x0407050600070106));
  EXPECT_FALSE(write(msr::PAT, 0x02));
  EXPECT_FALSE(write(msr::PAT, uint64_t{8} << 56));
  EXPECT_TRUE(write(msr::MTRR_DEF_TYPE, 0xc06));
  EXPECT_FALSE(write(msr::MTRR_DEF_TYPE, 0xc07));
  EXPECT_FALSE(write(msr::MTRR_DEF_TYPE, 0x1006));
  EXPECT_TRUE(write(0x26f, 0x0606060606060606));
  EXPECT_EQ(read(0x26f), 0x0606060606060606u);
  EXPECT_FALSE(write(0x250, 7));
  EXPECT_TRUE(write(0x200, 0xc0000000));
  EXPECT_TRUE(write(0x201, 0xffc0000800));
  EXPECT_FALSE(write(0x201, uint64_t{1} << 40));
  EXPECT_FALSE(write(0x200, 0x100));
  EXPECT_FALSE(readable(0x210));  // eight ranges
  EXPECT_FALSE(readable(0x251));
  EXPECT_FALSE(write(msr::MTRRCAP, 0));
}

TEST_F(MsrTest, microcode_revision_is_fixed) {
  EXPECT_TRUE(write(msr::BIOS_SIGN_ID, 0));
  EXPECT_GE(read(msr::BIOS_SIGN_ID) >> 32, 0x20eu);
}

TEST_F(MsrTest, misc_enable_keeps_fixed_bits) {
  EXPECT_TRUE(write(msr::MISC_ENABLE, 0));
  EXPECT_EQ(read(msr::MISC_ENABLE), 0x1800u);
}

TEST_F(MsrTest, asks_the_local_apic_for_its_own) {
  EXPECT_EQ(read(msr::APIC_BASE), msr::APIC_BASE);
  EXPECT_EQ(read(msr::TSC_DEADLINE), msr::TSC_DEADLINE);
  EXPECT_EQ(read(0x802), 0x802u);
  EXPECT_FALSE(readable(0x8ff));
  EXPECT_FALSE(write(0x8ff, 0));
  vcpu.interrupts = nullptr;
  EXPECT_FALSE(readable(msr::APIC_BASE));
}

}  // namespace
}  // namespace retrovisor
