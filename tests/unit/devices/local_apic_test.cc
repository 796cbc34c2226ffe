#include <gtest/gtest.h>

#include <random>

#include "tests/unit/devices/board.h"
#include "vmm/cpu/registers.h"

namespace retrovisor::test {
namespace {

constexpr uint64_t ID = 0x20, VERSION = 0x30, TPR = 0x80, APR = 0x90, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0,
                   SVR = 0xf0, ISR = 0x100, TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR_LOW = 0x300, ICR_HIGH = 0x310,
                   LVT_TIMER = 0x320, LVT_LINT0 = 0x350, LVT_LINT1 = 0x360, LVT_ERROR = 0x370, INITIAL = 0x380,
                   CURRENT = 0x390, DIVIDE = 0x3e0;
constexpr uint32_t kMasked = 0x10000, kPeriodic = 0x20000, kTscDeadline = 0x40000;
constexpr uint32_t kSelf = 1 << 18, kAll = 2 << 18, kOthers = 3 << 18;

class Apic : public ::testing::Test {
 protected:
  void SetUp() override {
    for (uint32_t id = 4; id-- > 0;) {
      board.on(id);
      board.apic(SVR, 0x1ff);
    }
  }
  void ipi(uint32_t low, uint32_t destination = 0) {
    board.apic(ICR_HIGH, destination << 24);
    board.apic(ICR_LOW, low);
  }
  bool pending(uint64_t set, unsigned vector) { return (board.apic(set + vector / 32 * 16) >> vector % 32 & 1) != 0; }
  bool write_msr(uint32_t index, uint64_t value) { return board.vcpu().interrupts->write_msr(index, value); }
  uint64_t read_msr(uint32_t index) {
    uint64_t value = 0;
    EXPECT_TRUE(board.vcpu().interrupts->read_msr(index, value));
    return value;
  }
  Board board{4};
};

TEST(ApicReset, boot_processor_starts_in_virtual_wire_mode_and_the_others_disabled) {
  Board board(2);
  EXPECT_EQ(board.apic(ID), 0u);
  EXPECT_EQ(board.apic(VERSION), 0x00050014u);
  EXPECT_EQ(board.apic(SVR), 0x1ffu);
  EXPECT_EQ(board.apic(LVT_LINT0), 0x700u);
  EXPECT_EQ(board.apic(LVT_LINT1), 0x400u);
  EXPECT_EQ(board.apic(LVT_TIMER), kMasked);
  EXPECT_EQ(board.apic(DFR), 0xffffffffu);
  board.on(1);
  EXPECT_EQ(board.apic(ID), 0x01000000u);
  EXPECT_EQ(board.apic(SVR), 0xffu);
  EXPECT_EQ(board.apic(LVT_LINT0), kMasked);
  uint64_t base = 0;
  EXPECT_TRUE(board.vcpu(0).interrupts->read_msr(msr::APIC_BASE, base));
  EXPECT_EQ(base, 0xfee00900u);
  EXPECT_TRUE(board.vcpu(1).interrupts->read_msr(msr::APIC_BASE, base));
  EXPECT_EQ(base, 0xfee00800u);
}

TEST(ApicReset, pic_interrupts_reach_the_boot_processor_without_set_up) {
  Board board(2);
  board.init_pics(1 << 4);
  board.out(0x3fc, 8);
  board.out(0x3f9, 2);
  EXPECT_EQ(board.vcpu().interrupts->source(), InterruptSource::pic);
  EXPECT_EQ(board.take(1), -1);
  EXPECT_EQ(board.take(0), 0x24);
  EXPECT_FALSE(board.vcpu().intr);
}

TEST_F(Apic, self_interrupt_goes_through_irr_and_isr) {
  ipi(0x61 | kSelf);
  EXPECT_TRUE(pending(IRR, 0x61));
  EXPECT_EQ(board.take(), 0x61);
  EXPECT_FALSE(pending(IRR, 0x61));
  EXPECT_TRUE(pending(ISR, 0x61));
  EXPECT_EQ(board.apic(PPR), 0x60u);
  board.apic(EOI, 0);
  EXPECT_FALSE(pending(ISR, 0x61));
  EXPECT_EQ(board.apic(PPR), 0u);
}

TEST_F(Apic, higher_classes_nest_and_equal_ones_wait) {
  ipi(0x61 | kSelf);
  EXPECT_EQ(board.take(), 0x61);
  ipi(0x6f | kSelf);
  ipi(0x51 | kSelf);
  EXPECT_EQ(board.take(), -1);
  ipi(0x71 | kSelf);
  EXPECT_EQ(board.take(), 0x71);
  board.apic(EOI, 0);
  EXPECT_EQ(board.take(), -1);
  board.apic(EOI, 0);
  EXPECT_EQ(board.take(), 0x6f);
  board.apic(EOI, 0);
  EXPECT_EQ(board.take(), 0x51);
}

TEST_F(Apic, task_priority_holds_back_by_class_also_through_cr8) {
  board.apic(TPR, 0x6f);
  EXPECT_EQ(board.vcpu().interrupts->cr8(), 6);
  EXPECT_EQ(board.apic(PPR), 0x6fu);
  ipi(0x61 | kSelf);
  EXPECT_FALSE(board.vcpu().intr);
  EXPECT_EQ(board.apic(APR), 0x6fu);
  board.vcpu().interrupts->set_cr8(5);
  EXPECT_EQ(board.apic(TPR), 0x50u);
  EXPECT_TRUE(board.vcpu().intr);
  board.vcpu().interrupts->set_cr8(6);
  EXPECT_FALSE(board.vcpu().intr);
}

TEST_F(Apic, acknowledging_nothing_gives_the_spurious_vector) {
  board.apic(SVR, 0x1c3);
  EXPECT_EQ(board.vcpu().interrupts->acknowledge(), 0xc3);
  EXPECT_FALSE(pending(ISR, 0xc3));
}

TEST_F(Apic, physical_logical_and_shorthand_destinations) {
  ipi(0x40, 2);
  EXPECT_EQ(board.take(2), 0x40);
  ipi(0x41 | kOthers);
  EXPECT_EQ(board.take(0), -1);
  EXPECT_EQ(board.take(1), 0x41);
  EXPECT_EQ(board.take(3), 0x41);
  ipi(0x52 | kAll);
  for (uint32_t id = 0; id < 4; ++id) EXPECT_EQ(board.take(id), 0x52);
  ipi(0x63, 0xff);
  for (uint32_t id = 0; id < 4; ++id) EXPECT_EQ(board.take(id), 0x63);
}

TEST_F(Apic, flat_and_cluster_models) {
  for (uint32_t id = 0; id < 4; ++id) {
    board.on(id);
    board.apic(LDR, 1u << (24 + id));
  }
  board.on(0);
  ipi(0x840, 0x0a);
  EXPECT_EQ(board.take(0), -1);
  EXPECT_EQ(board.take(1), 0x40);
  EXPECT_EQ(board.take(2), -1);
  EXPECT_EQ(board.take(3), 0x40);
  for (uint32_t id = 0; id < 4; ++id) {  // two clusters of two
    board.on(id);
    board.apic(DFR, 0x0fffffff);
    board.apic(LDR, (id / 2 << 4 | 1u << id % 2) << 24);
  }
  board.on(0);
  ipi(0x851, 0x12);
  EXPECT_EQ(board.take(1), -1);
  EXPECT_EQ(board.take(3), 0x51);
  ipi(0x862, 0xf1);  // all clusters
  EXPECT_EQ(board.take(0), 0x62);
  EXPECT_EQ(board.take(2), 0x62);
  EXPECT_EQ(board.take(3), -1);
}

TEST_F(Apic, lowest_priority_prefers_the_lowest_processor_priority) {
  for (uint32_t id = 0; id < 4; ++id) {
    board.on(id);
    board.apic(LDR, 1u << (24 + id));
    board.apic(TPR, id == 2 ? 0x10 : 0x20);
  }
  board.on(0);
  ipi(0x940, 0x0f);
  EXPECT_EQ(board.take(2), 0x40);
  for (uint32_t id : {0u, 1u, 3u}) EXPECT_EQ(board.take(id), -1);
}

TEST_F(Apic, start_up_sequence) {
  board.vcpu(1).state.activity = Activity::running;
  ipi(0x4500, 1);  // INIT
  EXPECT_TRUE(board.vcpu(1).state.init_pending);
  ipi(0x8500, 1);  // INIT level de-assert: nothing
  board.vcpu(1).state.init_pending = false;  // the CPU takes it
  board.vcpu(1).state.activity = Activity::wait_for_sipi;
  ipi(0x8500, 1);
  EXPECT_FALSE(board.vcpu(1).state.init_pending);
  ipi(0x069a, 1);
  EXPECT_TRUE(board.vcpu(1).state.sipi_pending);
  EXPECT_EQ(board.vcpu(1).state.sipi_vector, 0x9a);
  board.vcpu(1).state.sipi_pending = false;
  board.vcpu(1).state.activity = Activity::running;
  ipi(0x069b, 1);  // the second one is lost on a running processor
  EXPECT_FALSE(board.vcpu(1).state.sipi_pending);
  EXPECT_EQ(board.vcpu(1).state.sipi_vector, 0x9a);
}

TEST_F(Apic, start_up_right_after_init_counts) {
  board.vcpu(1).state.activity = Activity::running;
  ipi(0x4500, 1);
  ipi(0x0608, 1);
  EXPECT_TRUE(board.vcpu(1).state.init_pending);
  EXPECT_TRUE(board.vcpu(1).state.sipi_pending);
}

TEST_F(Apic, init_resets_the_receiver_but_for_id_and_base) {
  board.on(1);
  board.apic(ID, 0x09000000);
  board.apic(LVT_TIMER, 0x40 | kPeriodic);
  board.apic(INITIAL, 1000);
  board.apic(TPR, 0x30);
  board.on(0);
  ipi(0x4500, 9);
  board.on(1);
  EXPECT_EQ(board.apic(ID), 0x09000000u);
  EXPECT_EQ(board.apic(SVR), 0xffu);
  EXPECT_EQ(board.apic(TPR), 0u);
  EXPECT_EQ(board.apic(LVT_TIMER), kMasked);
  EXPECT_EQ(board.deadlines.next(), kNever);
}

TEST_F(Apic, nmi_goes_to_its_destination) {
  ipi(0x400, 3);
  EXPECT_TRUE(board.vcpu(3).state.nmi_pending);
  EXPECT_FALSE(board.vcpu(0).state.nmi_pending);
  ipi(0x400 | kOthers);
  EXPECT_TRUE(board.vcpu(1).state.nmi_pending);
  EXPECT_FALSE(board.vcpu(0).state.nmi_pending);
}

TEST_F(Apic, software_disabled_takes_no_interrupts_but_init_and_nmi) {
  board.on(1);
  board.apic(LVT_TIMER, 0x40);
  board.apic(SVR, 0xff);
  EXPECT_EQ(board.apic(LVT_TIMER), 0x40 | kMasked);
  board.apic(LVT_TIMER, 0x40);
  EXPECT_EQ(board.apic(LVT_TIMER), 0x40 | kMasked);  // cannot be unmasked
  board.on(0);
  ipi(0x40, 1);
  EXPECT_EQ(board.take(1), -1);
  ipi(0x400, 1);
  EXPECT_TRUE(board.vcpu(1).state.nmi_pending);
}

TEST_F(Apic, errors_are_latched_by_a_write_and_interrupt_once) {
  board.apic(LVT_ERROR, 0xfe);
  ipi(0x05 | kSelf);
  EXPECT_EQ(board.take(), 0xfe);
  EXPECT_EQ(board.apic(ESR), 0u);
  board.apic(ESR, 0);
  EXPECT_EQ(board.apic(ESR), 0x20u);
  board.apic(EOI, 0);
  board.apic(0x40);  // no such register
  board.apic(ESR, 0);
  EXPECT_EQ(board.apic(ESR), 0x80u);
  EXPECT_EQ(board.take(), 0xfe);
  board.apic(ESR, 0);
  EXPECT_EQ(board.apic(ESR), 0u);
}

TEST_F(Apic, error_entry_with_an_illegal_vector_does_not_feed_itself) {
  board.apic(LVT_ERROR, 0x03);
  ipi(0x05 | kSelf);
  board.apic(ESR, 0);
  EXPECT_EQ(board.apic(ESR), 0x60u);
}

TEST_F(Apic, registers_hold_writable_bits_only) {
  board.apic(LVT_TIMER, 0xffffffff);
  EXPECT_EQ(board.apic(LVT_TIMER), 0x700ffu);
  board.apic(LVT_LINT0, 0xffffffff);
  EXPECT_EQ(board.apic(LVT_LINT0), 0x1a7ffu);
  board.apic(LVT_ERROR, 0xffffffff);
  EXPECT_EQ(board.apic(LVT_ERROR), 0x100ffu);
  board.apic(SVR, 0xffffffff);
  EXPECT_EQ(board.apic(SVR), 0x1ffu);
  board.apic(ICR_LOW, 0xffffffff);
  EXPECT_EQ(board.apic(ICR_LOW), 0xccfffu);
  board.apic(DIVIDE, 0xffffffff);
  EXPECT_EQ(board.apic(DIVIDE), 0xbu);
}

TEST_F(Apic, one_shot_timer_fires_once_and_counts_exactly) {
  board.apic(DIVIDE, 0x3);  // by 16
  board.apic(LVT_TIMER, 0x40);
  board.apic(INITIAL, 100);
  EXPECT_EQ(board.apic(CURRENT), 100u);
  board.run_for(16 * 40 + 15);
  EXPECT_EQ(board.apic(CURRENT), 60u);
  board.run_for(16 * 60 - 16);
  EXPECT_EQ(board.take(), -1);
  board.run_for(1);
  EXPECT_EQ(board.take(), 0x40);
  EXPECT_EQ(board.apic(CURRENT), 0u);
  EXPECT_EQ(board.deadlines.next(), kNever);
}

TEST_F(Apic, every_divisor) {
  const struct {
    uint32_t dcr;
    uint64_t by;
  } cases[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
  for (const auto& c : cases) {
    board.apic(DIVIDE, c.dcr);
    board.apic(LVT_TIMER, 0x40);
    board.apic(INITIAL, 7);
    EXPECT_EQ(board.deadlines.next().value, board.now() + 7 * c.by);
  }
}

TEST_F(Apic, periodic_timer_keeps_its_period_however_late_it_is_served) {
  board.apic(DIVIDE, 0xb);
  board.apic(LVT_TIMER, 0x40 | kPeriodic);
  board.apic(INITIAL, 1000);
  const uint64_t start = board.now();
  for (uint64_t i = 1; i <= 50; ++i) {
    board.run_to(start + 1000 * i + i);
    EXPECT_EQ(board.take(), 0x40);
    board.apic(EOI, 0);
    EXPECT_EQ(board.apic(CURRENT), 1000 - i);
  }
  board.apic(INITIAL, 0);
  EXPECT_EQ(board.deadlines.next(), kNever);
  EXPECT_EQ(board.apic(CURRENT), 0u);
}

TEST_F(Apic, masked_timer_counts_without_deadlines) {
  board.apic(DIVIDE, 0xb);
  board.apic(LVT_TIMER, 0x40 | kPeriodic | kMasked);
  board.apic(INITIAL, 1000);
  EXPECT_EQ(board.deadlines.next(), kNever);
  board.run_for(2300);
  EXPECT_EQ(board.apic(CURRENT), 700u);
  board.apic(LVT_TIMER, 0x40 | kPeriodic);
  board.run_for(699);
  EXPECT_EQ(board.take(), -1);
  board.run_for(1);
  EXPECT_EQ(board.take(), 0x40);
}

TEST_F(Apic, changing_the_divisor_keeps_the_count) {
  board.apic(DIVIDE, 0xb);
  board.apic(LVT_TIMER, 0x40);
  board.apic(INITIAL, 1000);
  board.run_for(400);
  board.apic(DIVIDE, 0x0);
  EXPECT_EQ(board.apic(CURRENT), 600u);
  board.run_for(1199);
  EXPECT_EQ(board.take(), -1);
  board.run_for(1);
  EXPECT_EQ(board.take(), 0x40);
}

TEST_F(Apic, tsc_deadline_follows_the_guests_tsc) {
  board.apic(LVT_TIMER, 0x40 | kTscDeadline);
  board.vcpu().state.tsc_offset = 1'000'000;
  board.run_for(10);
  EXPECT_TRUE(write_msr(msr::TSC_DEADLINE, 1'000'500));
  EXPECT_EQ(read_msr(msr::TSC_DEADLINE), 1'000'500u);
  board.run_to(499);
  EXPECT_EQ(board.take(), -1);
  board.run_to(500);
  EXPECT_EQ(board.take(), 0x40);
  EXPECT_EQ(read_msr(msr::TSC_DEADLINE), 0u);
  board.apic(EOI, 0);
  EXPECT_TRUE(write_msr(msr::TSC_DEADLINE, 5));  // in the past: at once
  EXPECT_EQ(board.take(), 0x40);
  board.apic(EOI, 0);
  EXPECT_TRUE(write_msr(msr::TSC_DEADLINE, 2'000'000));
  board.vcpu().state.tsc_offset = 1'900'000;
  board.vcpu().interrupts->tsc_changed();
  board.run_to(99'999);
  EXPECT_EQ(board.take(), -1);
  board.run_to(100'000);
  EXPECT_EQ(board.take(), 0x40);
  EXPECT_TRUE(write_msr(msr::TSC_DEADLINE, UINT64_MAX));
  EXPECT_TRUE(write_msr(msr::TSC_DEADLINE, 0));
  EXPECT_EQ(board.deadlines.next(), kNever);
}

TEST_F(Apic, timer_modes_exclude_each_other) {
  EXPECT_TRUE(write_msr(msr::TSC_DEADLINE, 1));
  EXPECT_EQ(read_msr(msr::TSC_DEADLINE), 0u);
  EXPECT_EQ(board.take(), -1);
  board.apic(LVT_TIMER, 0x40);
  board.apic(INITIAL, 1000);
  board.apic(LVT_TIMER, 0x40 | kTscDeadline);
  EXPECT_EQ(board.deadlines.next(), kNever);
  board.apic(INITIAL, 1000);  // ignored in this mode
  EXPECT_EQ(board.apic(CURRENT), 0u);
  EXPECT_TRUE(write_msr(msr::TSC_DEADLINE, 1'000'000));
  board.apic(LVT_TIMER, 0x40);
  EXPECT_EQ(board.deadlines.next(), kNever);
}

TEST_F(Apic, lint0_fixed_edge_and_level) {
  board.init_pics(1 << 4);
  board.out(0x3fc, 8);
  board.apic(LVT_LINT0, 0x50);
  board.out(0x3f9, 2);  // INTR of the PICs rises
  EXPECT_EQ(board.take(), 0x50);
  board.apic(EOI, 0);
  EXPECT_EQ(board.take(), -1);
  board.apic(LVT_LINT0, 0x51 | 1 << 15);
  EXPECT_EQ(board.take(), 0x51);
  EXPECT_EQ(board.apic(LVT_LINT0), 0x51u | 3 << 14);
  EXPECT_TRUE(pending(TMR, 0x51));
  board.apic(EOI, 0);
  EXPECT_EQ(board.take(), 0x51);
  board.out(0x3f9, 0);
  board.apic(EOI, 0);
  EXPECT_EQ(board.take(), -1);
}

TEST_F(Apic, lint0_masked_holds_back_the_pics) {
  board.init_pics(1 << 4);
  board.out(0x3fc, 8);
  board.apic(LVT_LINT0, 0x700 | kMasked);
  board.out(0x3f9, 2);
  EXPECT_EQ(board.take(), -1);
  board.apic(LVT_LINT0, 0x700);
  EXPECT_EQ(board.take(), 0x24);
}

TEST_F(Apic, switched_off_it_leaves_the_cpu_to_the_pics) {
  board.init_pics(1 << 4);
  board.out(0x3fc, 8);
  board.apic(LVT_LINT0, kMasked);
  EXPECT_TRUE(write_msr(msr::APIC_BASE, 0xfee00100));
  EXPECT_EQ(board.apic(VERSION), 0xffffffffu);
  board.out(0x3f9, 2);
  EXPECT_EQ(board.take(), 0x24);
  ipi(0x40 | kSelf);
  EXPECT_EQ(board.take(), -1);
  EXPECT_TRUE(write_msr(msr::APIC_BASE, 0xfee00900));
  EXPECT_EQ(board.apic(SVR), 0xffu);
}

TEST_F(Apic, page_can_be_moved_per_processor) {
  EXPECT_TRUE(write_msr(msr::APIC_BASE, 0xfed00900));
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xfed00030), 4), 0x50014u);
  EXPECT_EQ(board.apic(VERSION), 0xffffffffu);  // not at the old place
  board.on(1);
  EXPECT_EQ(board.apic(VERSION), 0x50014u);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xfed00030), 4), 0xffffffffu);
}

TEST_F(Apic, refuses_reserved_bits_and_x2apic) {
  EXPECT_FALSE(write_msr(msr::APIC_BASE, 0xfee00d00));  // EXTD
  EXPECT_FALSE(write_msr(msr::APIC_BASE, 0xfee00901));
  EXPECT_FALSE(write_msr(msr::APIC_BASE, uint64_t{1} << 40 | 0xfee00900));
  EXPECT_FALSE(write_msr(msr::X2APIC_FIRST, 0));
  uint64_t value = 0;
  EXPECT_FALSE(board.vcpu().interrupts->read_msr(0x802, value));
}

TEST_F(Apic, odd_accesses_are_harmless) {
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xfee00030), 1), 0x14u);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xfee00032), 2), 0x5u);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xfee00030), 8), 0x50014u);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xfee00034), 4), 0u);
  board.mmio.write(board.running, PhysAddr(0xfee00080), 1, 0xff);
  EXPECT_EQ(board.apic(TPR), 0u);
  board.mmio.write(board.running, PhysAddr(0xfee00ff0), 8, UINT64_MAX);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xfee00ffc), 4), 0u);
}

// Random programs of the timer on two boards: one is looked at all the time, the other only at the end of each step.
TEST_F(Apic, counts_do_not_depend_on_how_time_is_cut) {
  Board other(4);
  other.apic(SVR, 0x1ff);
  std::mt19937 random(0x390);
  for (int round = 0; round < 5000; ++round) {
    const uint64_t target = board.now() + random() % 3000;
    while (board.now() < target) {
      board.run_to(std::min<uint64_t>(target, board.now() + 1 + random() % 400));
      board.apic(CURRENT);
    }
    other.run_to(target);
    ASSERT_EQ(board.apic(CURRENT), other.apic(CURRENT)) << round;
    ASSERT_EQ(board.take(), other.take()) << round;
    ASSERT_EQ(board.deadlines.next(), other.deadlines.next()) << round;
    const uint64_t reg[] = {LVT_TIMER, INITIAL, DIVIDE, EOI};
    const uint64_t at = reg[random() % 4];
    const uint32_t modes[] = {0x40, 0x40 | kPeriodic, 0x40 | kPeriodic | kMasked, 0x40 | kTscDeadline};
    const uint32_t value = at == LVT_TIMER ? modes[random() % 4]
                           : at == INITIAL ? static_cast<uint32_t>(random() % 300)
                                           : static_cast<uint32_t>(random());
    board.apic(at, value);
    other.apic(at, value);
    if (random() % 4 == 0) {
      const uint64_t deadline = target + random() % 1000;
      for (Board* b : {&board, &other}) b->vcpu().interrupts->write_msr(msr::TSC_DEADLINE, deadline);
    }
  }
}

}  // namespace
}  // namespace retrovisor::test
