#include "vmm/cpu/state.h"

#include <gtest/gtest.h>

#include <functional>

#include "vmm/cpu/msr.h"

namespace retrovisor {
namespace {

std::vector<uint8_t> saved(const CpuState& s, VcpuId id = VcpuId(0)) {
  StateWriter out;
  s.save(out, id);
  return out.take();
}

Result<void> restored(std::span<const uint8_t> data, CpuState& s, VcpuId id = VcpuId(0)) {
  StateReader in(data);
  s.restore(in, id);
  return in.finish();
}

// A state with every field different from its default, yet valid.
CpuState unusual_state() {
  CpuState s = CpuState::at_reset(VcpuId(0));
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = uint64_t{0x1111111111111111} * i + 7;
  s.rip = 0xffffffff81000000;
  s.rflags = flag::fixed | flag::IF | flag::ZF | flag::AC;
  s.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE | cr0::ET;
  s.cr2 = 0xdeadbeef;
  s.cr3 = 0x7fffe000;
  s.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR;
  s.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
  s.segment[GS].base = 0xffff888000000000;
  s.segment[CS].attributes = seg::P | seg::S | seg::L | seg::G | 11;
  s.gdtr = {0xfffffe0000001000, 0x7f};
  s.dr = {1, 2, 3, 4};
  s.lstar = 0xffffffff81800000;
  s.star = 0x0023001000000000;
  s.x87.r[3] = {0x8000000000000000, 0x3fff};
  s.xmm[15].q[1] = 42;
  s.mtrr_var[1] = 0xff80000800;
  s.mtrr_fixed[10] = 0x0606060606060606;
  s.activity = Activity::halted;
  s.nmi_blocked = true;
  s.sipi_vector = 9;
  s.shadow = Shadow::debug;
  s.pending_debug = 2;
  s.tsc_offset = static_cast<uint64_t>(-5);
  return s;
}

TEST(CpuStateTest, starts_at_the_reset_vector) {
  const CpuState s = CpuState::at_reset(VcpuId(0));
  EXPECT_EQ(s.segment[CS].base + s.rip, 0xfffffff0u);
  EXPECT_EQ(s.segment[CS].selector, 0xf000);
  EXPECT_EQ(s.rflags, 2u);
  EXPECT_EQ(s.cr0, 0x60000010u);
  EXPECT_EQ(s.gpr[RDX], 0x106cau);
  EXPECT_EQ(s.cpl(), 0u);
  EXPECT_EQ(s.activity, Activity::running);
  EXPECT_EQ(CpuState::at_reset(VcpuId(1)).activity, Activity::wait_for_sipi);
}

TEST(CpuStateTest, restores_what_it_saved) {
  const CpuState before = unusual_state();
  const auto data = saved(before, VcpuId(3));
  CpuState after;
  const auto result = restored(data, after, VcpuId(3));
  ASSERT_TRUE(result.ok()) << result.error().text();
  EXPECT_EQ(saved(after, VcpuId(3)), data);
  EXPECT_EQ(after.xmm[15].q[1], 42u);
  EXPECT_EQ(after.activity, Activity::halted);
  EXPECT_EQ(state_fields(data).front().name, "cpu3.rax");
}

TEST(CpuStateTest, rejects_the_state_of_another_vcpu) {
  CpuState s;
  EXPECT_FALSE(restored(saved(unusual_state(), VcpuId(1)), s, VcpuId(0)).ok());
}

TEST(CpuStateTest, rejects_truncated_state) {
  auto data = saved(unusual_state());
  data.resize(data.size() - 1);
  CpuState s;
  EXPECT_FALSE(restored(data, s).ok());
}

struct Damage {
  const char* name;
  std::function<void(CpuState&)> apply;
};

TEST(CpuStateTest, rejects_values_no_processor_could_have) {
  const Damage damages[] = {
      {"reserved rflags", [](CpuState& s) { s.rflags |= 1 << 3; }},
      {"rflags without bit 1", [](CpuState& s) { s.rflags &= ~uint64_t{2}; }},
      {"VM in long mode", [](CpuState& s) { s.rflags |= flag::VM; }},
      {"reserved cr0", [](CpuState& s) { s.cr0 |= 1 << 6; }},
      {"PG without PE", [](CpuState& s) { s.cr0 &= ~cr0::PE; }},
      {"NW without CD", [](CpuState& s) { s.cr0 |= cr0::NW; }},
      {"PCIDE", [](CpuState& s) { s.cr4 |= cr4::PCIDE; }},
      {"LMA without LME", [](CpuState& s) { s.efer &= ~efer::LME; }},
      {"LMA without PAE", [](CpuState& s) { s.cr4 &= ~cr4::PAE; }},
      {"unknown efer bit", [](CpuState& s) { s.efer |= 1 << 12; }},
      {"cr3 beyond physical memory", [](CpuState& s) { s.cr3 = uint64_t{1} << 40; }},
      {"xcr0 with AVX", [](CpuState& s) { s.xcr0 = 7; }},
      {"non-canonical GS base", [](CpuState& s) { s.segment[GS].base = uint64_t{1} << 47; }},
      {"wide DS base", [](CpuState& s) { s.segment[DS].base = uint64_t{1} << 32; }},
      {"segment attributes", [](CpuState& s) { s.segment[DS].attributes |= 1 << 9; }},
      {"non-canonical gdtr", [](CpuState& s) { s.gdtr.base = uint64_t{1} << 50; }},
      {"non-canonical lstar", [](CpuState& s) { s.lstar = uint64_t{1} << 60; }},
      {"memory type in PAT", [](CpuState& s) { s.pat = 2; }},
      {"memory type in MTRR", [](CpuState& s) { s.mtrr_fixed[0] = 3; }},
      {"dr7 reserved bit", [](CpuState& s) { s.dr7 |= 1 << 12; }},
      {"dr6 fixed bits", [](CpuState& s) { s.dr6 = 0; }},
      {"mxcsr", [](CpuState& s) { s.mxcsr |= 1 << 16; }},
      {"activity", [](CpuState& s) { s.activity = static_cast<Activity>(4); }},
  };
  for (const Damage& d : damages) {
    CpuState bad = unusual_state();
    d.apply(bad);
    CpuState s;
    EXPECT_FALSE(restored(saved(bad), s).ok()) << d.name;
  }
}

}  // namespace
}  // namespace retrovisor
