// What a debugger may write into registers: nothing that a processor could not hold, for no checkpoint would take it either.
#include "gdbstub/registers.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "vmm/cpu/control_registers.h"

namespace retrovisor::gdb {
namespace {

class Registers : public ::testing::Test {
 protected:
  Registers() {
    auto made = GuestMemory::create(kMinRam);
    EXPECT_TRUE(made.ok());
    memory = std::move(*made);
    vcpu.state = CpuState::at_reset(VcpuId(0));
  }
  static const Register& named(std::string_view name) {
    for (const Register& r : registers(Arch::x86_64))
      if (r.name == name) return r;
    ADD_FAILURE() << name;
    return registers(Arch::x86_64).front();
  }
  bool write(const Register& r, uint64_t value) {
    std::vector<uint8_t> bytes(r.bytes);
    std::memcpy(bytes.data(), &value, std::min<size_t>(bytes.size(), sizeof value));
    return write_register(vcpu, *memory, r, bytes);
  }
  bool restorable() const {
    StateWriter out;
    vcpu.state.save(out, vcpu.id);
    const auto saved = out.take();
    StateReader in(saved);
    CpuState copy;
    copy.restore(in, vcpu.id);
    return in.finish().ok();
  }
  void enter(uint64_t cr0, uint64_t cr4, uint64_t efer) {
    vcpu.state = CpuState::at_reset(VcpuId(0));
    vcpu.state.rip = 0x1000;
    vcpu.state.cr0 = cr0::ET | cr0;
    vcpu.state.cr4 = cr4;
    vcpu.state.efer = efer;
  }
  void enter_pae() { enter(cr0::PE | cr0::PG, cr4::PAE, 0); }
  void enter_long() {
    enter(cr0::PE | cr0::PG, cr4::PAE, efer::LME | efer::LMA);
    vcpu.state.segment[CS].attributes |= seg::L;
  }

  std::unique_ptr<GuestMemory> memory;
  Vcpu vcpu;
};

TEST_F(Registers, cr0_takes_nw_with_cd_only) {
  enter(cr0::PE, 0, 0);
  EXPECT_FALSE(write(named("cr0"), cr0::PE | cr0::ET | cr0::NW));
  EXPECT_EQ(vcpu.state.cr0, cr0::PE | cr0::ET);
  EXPECT_TRUE(write(named("cr0"), cr0::PE | cr0::ET | cr0::NW | cr0::CD));
  EXPECT_FALSE(write(named("cr0"), cr0::ET | cr0::CD)) << "a change of mode";
}

TEST_F(Registers, cr3_takes_page_directory_pointers_without_reserved_bits) {
  enter_pae();
  const uint64_t good[4] = {0x3001, 0, 0, 0x4001}, bad[4] = {0x3001, 0, 0, uint64_t{1} << 52 | 1};
  ASSERT_TRUE(memory->write(PhysAddr(0x2000), {reinterpret_cast<const uint8_t*>(good), sizeof good}));
  ASSERT_TRUE(memory->write(PhysAddr(0x2020), {reinterpret_cast<const uint8_t*>(bad), sizeof bad}));
  EXPECT_TRUE(write(named("cr3"), 0x2000));
  EXPECT_EQ(vcpu.state.pdpte[3], 0x4001u);
  EXPECT_FALSE(write(named("cr3"), 0x2020));
  EXPECT_EQ(vcpu.state.cr3, 0x2000u);
  EXPECT_EQ(vcpu.state.pdpte[3], 0x4001u);
}

TEST_F(Registers, whatever_is_taken_can_be_saved_and_restored) {
  std::mt19937_64 random(1);
  ASSERT_TRUE(memory->write(PhysAddr(0x2000), std::vector<uint8_t>(4096, 0xff)));
  for (const int mode : {0, 1, 2, 3}) {
    for (const Register& r : registers(Arch::x86_64)) {
      unsigned taken = 0;
      for (int i = 0; i < 500; ++i) {
        if (mode == 0) enter(0, 0, 0);
        else if (mode == 1) enter(cr0::PE, 0, 0);
        else if (mode == 2) enter_pae();
        else enter_long();
        ASSERT_TRUE(restorable());
        uint64_t before = 0;
        const auto now = read_register(vcpu, r);
        std::memcpy(&before, now.data(), std::min<size_t>(now.size(), sizeof before));
        // Some bits changed, a small number, or anything.
        const uint64_t value = i % 3 == 0 ? before ^ uint64_t{1} << random() % 64 : i % 3 == 1 ? random() & 0xfff0 : random();
        if (!write(r, r.bytes >= 8 ? value : value & ((uint64_t{1} << (8 * r.bytes)) - 1))) continue;
        ++taken;
        ASSERT_TRUE(restorable()) << r.name << " = " << std::hex << value << " in mode " << mode;
      }
      if (r.name != "cr8") EXPECT_GT(taken, 0u) << r.name;  // there is no local APIC
    }
  }
}

}  // namespace
}  // namespace retrovisor::gdb
