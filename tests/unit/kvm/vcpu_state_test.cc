#include "vmm/kvm/vcpu_state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "tests/unit/kvm/states.h"

namespace retrovisor::kvm {
namespace {

// A processor that shows every register exactly as it was set.
void through_kvm(const CpuState& from, CpuState& to, Surroundings& around) {
  from_regs(to_regs(from), to);
  from_sregs2(to_sregs2(from, around), to, around);
  auto area = std::make_unique<XsaveArea>();
  to_xsave(from, *area);
  from_xsave(*area, to);
  from_debugregs(to_debugregs(from), to);
  Surroundings seen = around;
  from_events(to_events(from, around), to, seen);
  to.xcr0 = from.xcr0;
  for (const uint32_t index : state_msrs()) *msr_field(to, index) = *msr_field(from, index);
}

TEST(VcpuStateConversion, gives_back_every_random_state) {
  RandomStates random(1);
  for (int i = 0; i < 6000; ++i) {
    const CpuState s = random.next(kAllModes[i % 6]);
    CpuState back = s;
    Surroundings around;
    through_kvm(s, back, around);
    ASSERT_EQ(difference(s, back), "") << "state " << i;
  }
}

TEST(VcpuStateConversion, carries_a_state_into_another) {
  RandomStates random(2);
  for (int i = 0; i < 6000; ++i) {
    const CpuState s = random.next(kAllModes[i % 6]);
    CpuState back = random.next(kAllModes[random.below(6)]);
    copy_uncarried(s, state_msrs(), back);
    Surroundings around;
    through_kvm(s, back, around);
    ASSERT_EQ(difference(s, back), "") << "state " << i;
  }
}

TEST(VcpuStateConversion, puts_every_general_register_in_its_place) {
  CpuState s;
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = 100 + i;
  s.rip = 7;
  s.rflags = flag::ZF;
  const kvm_regs r = to_regs(s);
  EXPECT_EQ(r.rax, 100u);
  EXPECT_EQ(r.rcx, 101u);
  EXPECT_EQ(r.rdx, 102u);
  EXPECT_EQ(r.rbx, 103u);
  EXPECT_EQ(r.rsp, 104u);
  EXPECT_EQ(r.rbp, 105u);
  EXPECT_EQ(r.rsi, 106u);
  EXPECT_EQ(r.rdi, 107u);
  EXPECT_EQ(r.r8, 108u);
  EXPECT_EQ(r.r15, 115u);
  EXPECT_EQ(r.rip, 7u);
  EXPECT_EQ(r.rflags, flag::ZF | flag::fixed);
}

// --- segments ---

TEST(VcpuStateConversion, unpacks_segment_attributes) {
  const kvm_segment g = to_segment({0x1000, 0xffffffff, seg::P | seg::S | seg::L | seg::G | seg::AVL | 11 | 3 << 5, 0x33},
                                   SegmentKind::cs, true);
  EXPECT_EQ(g.base, 0x1000u);
  EXPECT_EQ(g.limit, 0xffffffffu);
  EXPECT_EQ(g.selector, 0x33u);
  EXPECT_EQ(g.type, 11u);
  EXPECT_EQ(g.dpl, 3u);
  EXPECT_TRUE(g.s && g.l && g.g && g.avl && g.present);
  EXPECT_TRUE(!g.db && !g.unusable);
}

TEST(VcpuStateConversion, a_null_selector_is_unusable) {
  const kvm_segment g = to_segment({0, 0, seg::unusable, 0}, SegmentKind::data, true);
  EXPECT_TRUE(g.unusable && !g.present);
  Segment back{5, 6, seg::P, 7};
  kvm_segment seen = g;
  seen.limit = 0xfffff;  // of no meaning
  seen.type = 1;
  seen.selector = 3;
  from_segment(seen, SegmentKind::data, true, true, back);
  EXPECT_EQ(back.attributes, seg::unusable);
  EXPECT_EQ(back.limit, 0u);
  EXPECT_EQ(back.selector, 3u);
}

TEST(VcpuStateConversion, keeps_the_base_of_a_null_fs) {
  Segment back;
  kvm_segment seen{};
  seen.unusable = 1;
  seen.base = 0x7f0000001000;
  from_segment(seen, SegmentKind::based, true, true, back);
  EXPECT_EQ(back.base, 0x7f0000001000u);
  EXPECT_EQ(back.attributes, seg::unusable);
}

TEST(VcpuStateConversion, svm_forms_of_a_segment_change_nothing) {
  // SVM shows data segments as accessed, TR as busy, G by the limit, unusable segments as not present with anything else.
  const Segment data{0x100, 0xfff, seg::P | seg::S | seg::G | 2, 0x18};
  kvm_segment seen = to_segment(data, SegmentKind::data, false);
  seen.type |= 1;
  seen.g = 0;
  Segment back = data;
  from_segment(seen, SegmentKind::data, false, false, back);
  EXPECT_EQ(back.attributes, data.attributes);

  const Segment null{0, 0, seg::unusable, 0};
  seen = to_segment(null, SegmentKind::data, false);
  seen.limit = 0xffffffff;
  seen.g = seen.db = seen.s = 1;
  back = null;
  from_segment(seen, SegmentKind::data, false, false, back);
  EXPECT_EQ(back.attributes, seg::unusable);
  EXPECT_EQ(back.limit, 0u);
}

TEST(VcpuStateConversion, granularity_counts_where_the_limit_needs_it) {
  const Segment big{0, 0xffffffff, seg::P | seg::S | seg::G | 3, 0x18};
  kvm_segment seen = to_segment(big, SegmentKind::data, false);
  EXPECT_EQ(seen.g, 1);
}

TEST(VcpuStateConversion, cs_has_no_l_outside_of_long_mode) {
  const Segment cs{0, 0xffffffff, seg::P | seg::S | seg::G | seg::L | seg::DB | 11, 0x10};
  const kvm_segment g = to_segment(cs, SegmentKind::cs, false);
  EXPECT_EQ(g.l, 0);
  Segment back = cs;
  from_segment(g, SegmentKind::cs, false, false, back);
  EXPECT_EQ(back.attributes, cs.attributes) << "nothing happened: L stays";
  back = cs;
  from_segment(g, SegmentKind::cs, false, true, back);
  EXPECT_EQ(back.attributes & seg::L, 0u) << "long mode came on with KVM's view of CS";
}

TEST(VcpuStateConversion, the_task_register_always_holds_a_busy_tss) {
  const Segment never{0, 0, seg::unusable, 0};
  kvm_segment g = to_segment(never, SegmentKind::tr, true);
  EXPECT_EQ(g.type, 11);
  EXPECT_TRUE(g.present && !g.unusable && !g.s);
  Segment back = never;
  from_segment(g, SegmentKind::tr, true, true, back);
  EXPECT_EQ(back.attributes, seg::unusable);

  g = to_segment({0, 0x67, seg::P | 9, 0x40}, SegmentKind::tr, false);
  EXPECT_EQ(g.type, 11);
  g = to_segment({0, 0x2b, seg::P | 3, 0x40}, SegmentKind::tr, false);
  EXPECT_EQ(g.type, 3);
  g = to_segment({0, 0x2b, seg::P | 3, 0x40}, SegmentKind::tr, true);
  EXPECT_EQ(g.type, 11);
}

TEST(VcpuStateConversion, a_loaded_segment_is_taken) {
  Segment back{0, 0xffffffff, seg::P | seg::S | seg::G | 3, 0x18};
  const Segment other{0x2000, 0xfff, seg::P | seg::S | 3 | 3 << 5, 0x2b};
  from_segment(to_segment(other, SegmentKind::data, false), SegmentKind::data, false, false, back);
  EXPECT_EQ(back.base, other.base);
  EXPECT_EQ(back.limit, other.limit);
  EXPECT_EQ(back.attributes, other.attributes);
  EXPECT_EQ(back.selector, other.selector);
}

TEST(VcpuStateConversion, pdptes_go_with_pae_paging_only) {
  RandomStates random(3);
  CpuState s = random.next(Mode::pae);
  s.pdpte = {0x1001, 0x2001, 0x3001, 0x4001};
  kvm_sregs2 sregs = to_sregs2(s, {});
  EXPECT_EQ(sregs.flags, uint64_t{KVM_SREGS2_FLAGS_PDPTRS_VALID});
  EXPECT_EQ(sregs.pdptrs[3], 0x4001u);
  s = random.next(Mode::long_kernel);
  s.pdpte = {1, 2, 3, 4};
  sregs = to_sregs2(s, {});
  EXPECT_EQ(sregs.flags, 0u);
  Surroundings around;
  sregs.pdptrs[0] = 99;
  from_sregs2(sregs, s, around);
  EXPECT_EQ(s.pdpte[0], 1u);
}

// --- FPU ---

TEST(VcpuStateConversion, x87_registers_move_with_top) {
  CpuState s;
  s.x87.fsw = 3 << 11;  // TOP = 3
  s.x87.r[3] = {0x8000000000000001, 0x4001};
  s.x87.r[2] = {0x8000000000000002, 0xc002};
  s.x87.tag = 1 << 3 | 1 << 2;
  auto area = std::make_unique<XsaveArea>();
  to_xsave(s, *area);
  uint64_t st0 = 0, st7 = 0;
  std::memcpy(&st0, &area->bytes[32], 8);
  std::memcpy(&st7, &area->bytes[32 + 7 * 16], 8);
  EXPECT_EQ(st0, 0x8000000000000001u);
  EXPECT_EQ(st7, 0x8000000000000002u);
  EXPECT_EQ(area->bytes[4], 0x0c) << "the abridged tag goes by physical register";
}

TEST(VcpuStateConversion, components_that_are_absent_are_in_their_initial_state) {
  RandomStates random(4);
  const CpuState s = random.next(Mode::long_user);
  auto area = std::make_unique<XsaveArea>();
  to_xsave(s, *area);
  CpuState back = s;
  area->bytes[512] = 2;  // SSE alone
  from_xsave(*area, back);
  EXPECT_EQ(back.x87.fcw, 0x37f);
  EXPECT_EQ(back.x87.fsw, 0);
  EXPECT_EQ(back.x87.tag, 0);
  EXPECT_EQ(back.x87.r[5].mantissa, 0u);
  EXPECT_EQ(back.xmm[9].q[1], s.xmm[9].q[1]);
  area->bytes[512] = 1;
  from_xsave(*area, back);
  EXPECT_EQ(back.x87.fcw, s.x87.fcw);
  EXPECT_EQ(back.xmm[9].q[1], 0u);
  EXPECT_EQ(back.mxcsr, s.mxcsr) << "MXCSR is always in the area";
}

TEST(VcpuStateConversion, bits_of_other_components_mean_nothing) {
  RandomStates random(5);
  const CpuState s = random.next(Mode::long_user);
  auto area = std::make_unique<XsaveArea>();
  to_xsave(s, *area);
  for (unsigned bit = 2; bit < 64; ++bit) {
    area->bytes[512 + bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    CpuState back = s;
    from_xsave(*area, back);
    ASSERT_EQ(difference(s, back), "") << bit;
  }
}

TEST(VcpuStateConversion, selectors_of_fpu_pointers_stay_with_them) {
  CpuState s;
  s.x87.fip = 0x1000;
  s.x87.fcs = 0x10;
  s.x87.fdp = 0x2000;
  s.x87.fds = 0x18;
  auto area = std::make_unique<XsaveArea>();
  to_xsave(s, *area);
  CpuState back = s;
  from_xsave(*area, back);
  EXPECT_EQ(back.x87.fcs, 0x10);
  area->bytes[8] = 0x44;  // an instruction elsewhere, without an operand
  from_xsave(*area, back);
  EXPECT_EQ(back.x87.fcs, 0);
  EXPECT_EQ(back.x87.fds, 0x18);
}

TEST(VcpuStateConversion, dropped_fpu_pointers_depend_on_guest_state_alone) {
  CpuState s;
  s.x87.fip = 0x1000;
  s.x87.fdp = 0x2000;
  s.x87.fop = 0x5d8;
  auto kept = std::make_unique<XsaveArea>(), dropped = std::make_unique<XsaveArea>();
  to_xsave(s, *kept);
  *dropped = *kept;
  for (size_t i = 6; i < 24; ++i) dropped->bytes[i] = 0;
  for (const XsaveArea* area : {kept.get(), dropped.get()}) {
    CpuState same = s;
    from_xsave(*area, same, true);
    EXPECT_EQ(difference(s, same), "") << "no x87 instruction in between";
    CpuState other = s;
    other.x87.tag = 1;
    from_xsave(*area, other, true);
    EXPECT_EQ(other.x87.fip | other.x87.fdp | other.x87.fop, 0u);
  }
  kept->bytes[2] = 0x81;  // IE and ES: the processor keeps them
  CpuState waiting;
  from_xsave(*kept, waiting, true);
  EXPECT_EQ(waiting.x87.fip, 0x1000u);
  EXPECT_EQ(waiting.x87.fop, 0x5d8);
}

// --- events ---

TEST(VcpuStateConversion, shadows_are_shown_as_what_they_are) {
  CpuState s;
  s.rflags |= flag::IF;
  s.shadow = Shadow::interrupts;
  const Surroundings around;
  EXPECT_EQ(to_events(s, around).interrupt.shadow, KVM_X86_SHADOW_INT_STI);
  s.shadow = Shadow::debug;
  EXPECT_EQ(to_events(s, around).interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS);
  s.shadow = Shadow::none;
  EXPECT_EQ(to_events(s, around).interrupt.shadow, 0);
}

TEST(VcpuStateConversion, a_shadow_of_sti_without_if_is_loaded_as_the_other_kind) {
  CpuState s;
  s.shadow = Shadow::interrupts;
  const Surroundings around;
  EXPECT_EQ(to_events(s, around).interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS);
}

TEST(VcpuStateConversion, a_new_shadow_is_taken_over) {
  CpuState s;
  Surroundings around;
  kvm_vcpu_events e = to_events(s, around);
  e.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS;
  from_events(e, s, around);
  EXPECT_EQ(s.shadow, Shadow::debug);
  e.interrupt.shadow = 0;
  from_events(e, s, around);
  EXPECT_EQ(s.shadow, Shadow::none);
  e.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI;  // SVM
  from_events(e, s, around);
  EXPECT_EQ(s.shadow, Shadow::interrupts);
}

TEST(VcpuStateConversion, a_host_without_shadows_leaves_them_alone) {
  CpuState s;
  s.shadow = Shadow::interrupts;
  Surroundings around;
  kvm_vcpu_events e = to_events(s, around);
  EXPECT_NE(e.interrupt.shadow, 0);
  e.interrupt.shadow = 0;
  e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
  from_events(e, s, around);
  EXPECT_EQ(s.shadow, Shadow::interrupts);
}

TEST(VcpuStateConversion, nmi_state_and_deliveries_under_way_are_kept) {
  CpuState s;
  s.nmi_pending = s.nmi_blocked = true;
  Surroundings around;
  around.delivery = {.exception = true, .exception_vector = 14, .has_error_code = true, .error_code = 6,
                     .interrupt = true, .soft_interrupt = true, .interrupt_vector = 0x80, .nmi = true};
  const kvm_vcpu_events e = to_events(s, around);
  EXPECT_NE(e.flags & KVM_VCPUEVENT_VALID_NMI_PENDING, 0u);
  CpuState back;
  Surroundings seen;
  from_events(e, back, seen);
  EXPECT_TRUE(back.nmi_pending && back.nmi_blocked);
  EXPECT_EQ(seen.delivery, around.delivery);
  EXPECT_TRUE(seen.delivery.any());
  EXPECT_EQ(seen.last_exception, 14);
  kvm_vcpu_events none{};
  none.exception.nr = 3;
  none.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  from_events(none, back, seen);
  EXPECT_FALSE(seen.delivery.any());
  EXPECT_EQ(seen.last_exception, 3) << "without a word whether it waits";
}

TEST(VcpuStateConversion, debug_registers_have_their_fixed_bits) {
  CpuState s;
  s.dr6 = dr6::fixed | dr6::BS;
  const kvm_debugregs d = to_debugregs(s);
  EXPECT_EQ(d.dr6, 0xffff4ff0u);
  kvm_debugregs seen = d;
  seen.dr6 = 0xfffe07f0 | 1;  // a processor with restricted transactions and bus lock traps
  seen.dr7 = 0xffffffff00000001;
  from_debugregs(seen, s);
  EXPECT_EQ(s.dr6, dr6::fixed | 1);
  EXPECT_EQ(s.dr7, 0x401u);
}

TEST(VcpuStateConversion, every_state_msr_has_a_field_and_no_other) {
  CpuState s;
  std::set<const uint64_t*> fields;
  uint32_t last = 0;
  for (const uint32_t index : state_msrs()) {
    EXPECT_GT(index, last);
    last = index;
    ASSERT_NE(msr_field(s, index), nullptr) << std::hex << index;
    EXPECT_TRUE(fields.insert(msr_field(s, index)).second) << std::hex << index;
  }
  for (const uint32_t index : {msr::TSC, msr::EFER, msr::FS_BASE, msr::APIC_BASE, 0x210u, 0x257u, 0x270u}) {
    EXPECT_EQ(msr_field(s, index), nullptr) << std::hex << index;
  }
}

}  // namespace
}  // namespace retrovisor::kvm
