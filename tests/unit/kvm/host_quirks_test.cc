// What is told apart by probing: against a KVM that behaves in one way or the other, and on this host.
#include <gtest/gtest.h>

#include "tests/unit/kvm/fake_kvm.h"
#include "vmm/kvm/host_quirks.h"
#include "vmm/kvm/tiny_guest.h"

namespace retrovisor::kvm {
namespace {

struct Answer {
  uint32_t reason;
  uint64_t instructions;  // executed before the exit
};

// What a probe finds of a KVM that gives `answer` to a guest whose interrupt window is asked for.
HostQuirks quirks_where(Answer answer) {
  FakeKvm fake;
  bool asked = false;
  fake.on_run = [&](kvm_run& run, kvm_regs& regs) {
    asked = asked || run.request_interrupt_window != 0;
    run.exit_reason = answer.reason;
    regs.rip = TinyGuest::kCode + answer.instructions;  // of one byte each
    regs.rflags |= 0x200;
  };
  auto kvm = Kvm::open(fake);
  if (!kvm) return ADD_FAILURE() << kvm.error().text(), HostQuirks{};
  const auto quirks = probe_quirks(*kvm);
  if (!quirks) return ADD_FAILURE() << quirks.error().text(), HostQuirks{};
  EXPECT_TRUE(asked);
  return *quirks;
}

TEST(InterruptWindow, is_in_time_directly_behind_the_shadow_of_sti) {
  EXPECT_FALSE(quirks_where({KVM_EXIT_IRQ_WINDOW_OPEN, 2}).late_interrupt_window);
}

TEST(InterruptWindow, is_late_anywhere_else) {
  EXPECT_TRUE(quirks_where({KVM_EXIT_IRQ_WINDOW_OPEN, 1}).late_interrupt_window) << "inside the shadow is as unusable";
  EXPECT_TRUE(quirks_where({KVM_EXIT_IRQ_WINDOW_OPEN, 3}).late_interrupt_window);
  EXPECT_TRUE(quirks_where({KVM_EXIT_IRQ_WINDOW_OPEN, 20}).late_interrupt_window);
}

TEST(InterruptWindow, is_late_if_another_exit_comes_first) {
  EXPECT_TRUE(quirks_where({KVM_EXIT_IO, 2}).late_interrupt_window);
}

// A vCPU in flat protected mode behind the byte `before`, interrupted with the vector of its last exception `vector`.
bool may_hide(uint8_t before, uint8_t vector, LinearAddr rip = LinearAddr(0x1001), uint64_t cs_base = 0) {
  auto memory = GuestMemory::create(kMinRam);
  if (!memory) return ADD_FAILURE() << memory.error().text(), false;
  (*memory)->write(PhysAddr(cs_base + rip.value - 1), std::span(&before, 1));
  CpuState s;
  s.cr0 = cr0::PE;
  s.segment[CS].base = cs_base;
  s.rip = rip.value;
  return may_hide_exception(vector, s, **memory);
}

TEST(HiddenException, may_wait_directly_behind_int3_and_into_only) {
  EXPECT_TRUE(may_hide(0xcc, 3));
  EXPECT_TRUE(may_hide(0xce, 4));
  EXPECT_TRUE(may_hide(0xcc, 3, LinearAddr(0x1001), 0x20000));
  EXPECT_FALSE(may_hide(0x90, 3));
  EXPECT_FALSE(may_hide(0xcc, 14));
  EXPECT_FALSE(may_hide(0xcc, 0));
  EXPECT_FALSE(may_hide(0xcc, 3, LinearAddr(kMinRam + 1))) << "no memory there";
}

TEST(InterruptWindow, of_this_host_is_found_alike_each_time) {
  auto kvm = Kvm::open();
  if (!kvm) GTEST_SKIP() << "no KVM here: " << kvm.error().text();
  const auto first = probe_quirks(*kvm);
  ASSERT_TRUE(first.ok()) << first.error().text();
  RecordProperty("late_interrupt_window", first->late_interrupt_window ? 1 : 0);
  for (int i = 0; i < 20; ++i) {
    const auto again = probe_quirks(*kvm);
    ASSERT_TRUE(again.ok()) << again.error().text();
    ASSERT_EQ(again->late_interrupt_window, first->late_interrupt_window);
  }
}

}  // namespace
}  // namespace retrovisor::kvm
