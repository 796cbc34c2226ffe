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
