#include "vmm/kvm/vcpu_state.h"

#include "vmm/cpu/debug_registers.h"

namespace retrovisor::kvm {

namespace {

constexpr uint32_t kBusyTss32 = 11, kBusyTss16 = 3, kLdtType = 2;
constexpr uint32_t kTssBusyBit = 2;
constexpr uint32_t kByteGranularLimit = 0xfffff;  // the largest limit that needs no G
constexpr uint8_t kShadowSti = KVM_X86_SHADOW_INT_STI, kShadowMovSs = KVM_X86_SHADOW_INT_MOV_SS;

// The rule of the header for a plain register: `seen` counts only if it is not what was loaded.
template <class Field, class Value>
void take(Field& field, Value loaded, Value seen) {
  if (seen != loaded) field = static_cast<Field>(seen);
}

bool usable(const Segment& g) { return (g.attributes & seg::unusable) == 0 && (g.attributes & seg::P) != 0; }
bool usable(const kvm_segment& g) { return g.unusable == 0 && g.present != 0; }

// What all hosts keep of a segment register. VMX shows unusable segments with anything in them; SVM shows accessed
// and busy bits as set and works out G from the limit; both are free to (SDM 3C 26.3.1.2, APM 2 15.5.1).
bool same_segment(const kvm_segment& a, const kvm_segment& b, SegmentKind kind) {
  if (a.selector != b.selector || usable(a) != usable(b)) return false;
  if (!usable(a)) {
    if (kind == SegmentKind::ss && a.dpl != b.dpl) return false;
    return kind != SegmentKind::based || a.base == b.base;
  }
  const uint8_t always_set =
      kind == SegmentKind::tr ? uint8_t{kTssBusyBit} : kind == SegmentKind::ldtr ? uint8_t{0} : uint8_t{seg::accessed};
  const bool granularity_tells = a.limit > kByteGranularLimit;
  return a.base == b.base && a.limit == b.limit && (a.type | always_set) == (b.type | always_set) && a.s == b.s &&
         a.dpl == b.dpl && a.avl == b.avl && a.db == b.db && (kind != SegmentKind::cs || a.l == b.l) &&
         (!granularity_tells || a.g == b.g);
}

Segment plain_segment(const kvm_segment& in, SegmentKind kind) {
  if (!usable(in)) {
    // As a load of a null selector leaves it in the soft engine.
    const bool based = kind == SegmentKind::based;
    const uint32_t dpl = kind == SegmentKind::ss ? uint32_t{in.dpl} & 3 : 0;
    return {based ? in.base : 0, 0, seg::unusable | dpl << 5, in.selector};
  }
  uint32_t attributes = seg::P | (in.type & seg::type_mask) | (in.dpl & 3u) << 5;
  if (in.s != 0) attributes |= seg::S;
  if (in.avl != 0) attributes |= seg::AVL;
  if (in.l != 0) attributes |= seg::L;
  if (in.db != 0) attributes |= seg::DB;
  if (in.g != 0) attributes |= seg::G;
  return {in.base, in.limit, attributes, in.selector};
}

kvm_dtable to_table(const DescriptorTable& t) {
  kvm_dtable out{};
  out.base = t.base;
  out.limit = t.limit;
  return out;
}

// The fields that kvm_sregs and kvm_sregs2 have in common.
template <class Sregs>
void put_common(const CpuState& s, const Surroundings& around, Sregs& out) {
  const bool lma = s.long_mode();
  out.es = to_segment(s.segment[ES], SegmentKind::data, lma);
  out.cs = to_segment(s.segment[CS], SegmentKind::cs, lma);
  out.ss = to_segment(s.segment[SS], SegmentKind::ss, lma);
  out.ds = to_segment(s.segment[DS], SegmentKind::data, lma);
  out.fs = to_segment(s.segment[FS], SegmentKind::based, lma);
  out.gs = to_segment(s.segment[GS], SegmentKind::based, lma);
  out.ldt = to_segment(s.ldtr, SegmentKind::ldtr, lma);
  out.tr = to_segment(s.tr, SegmentKind::tr, lma);
  out.gdt = to_table(s.gdtr);
  out.idt = to_table(s.idtr);
  out.cr0 = s.cr0 | cr0::ET;  // reads as one (SDM 3A 2.5)
  out.cr2 = s.cr2;
  out.cr3 = s.cr3;
  out.cr4 = s.cr4 | (around.trap_tsc ? cr4::TSD : 0);
  out.cr8 = around.cr8;
  out.efer = s.efer;
  out.apic_base = around.apic_base;
}

template <class Sregs>
void take_common(const Sregs& in, CpuState& s, Surroundings& around) {
  const bool was = s.long_mode();
  const bool is = (in.efer & efer::LMA) != 0;
  from_segment(in.es, SegmentKind::data, was, is, s.segment[ES]);
  from_segment(in.cs, SegmentKind::cs, was, is, s.segment[CS]);
  from_segment(in.ss, SegmentKind::ss, was, is, s.segment[SS]);
  from_segment(in.ds, SegmentKind::data, was, is, s.segment[DS]);
  from_segment(in.fs, SegmentKind::based, was, is, s.segment[FS]);
  from_segment(in.gs, SegmentKind::based, was, is, s.segment[GS]);
  from_segment(in.ldt, SegmentKind::ldtr, was, is, s.ldtr);
  from_segment(in.tr, SegmentKind::tr, was, is, s.tr);
  s.gdtr = {in.gdt.base, in.gdt.limit};
  s.idtr = {in.idt.base, in.idt.limit};
  take(s.cr0, s.cr0 | cr0::ET, uint64_t{in.cr0});
  s.cr2 = in.cr2;
  s.cr3 = in.cr3;
  if (!around.trap_tsc) s.cr4 = in.cr4;
  else if (in.cr4 != (s.cr4 | cr4::TSD)) s.cr4 = in.cr4 & ~cr4::TSD;
  s.efer = in.efer;
  around.cr8 = static_cast<uint8_t>(in.cr8 & 15);
  around.apic_base = in.apic_base;
}

}  // namespace

// --- general registers -----------------------------------------------------------------------------------------------

kvm_regs to_regs(const CpuState& s) {
  kvm_regs out{};
  out.rax = s.gpr[RAX];
  out.rbx = s.gpr[RBX];
  out.rcx = s.gpr[RCX];
  out.rdx = s.gpr[RDX];
  out.rsi = s.gpr[RSI];
  out.rdi = s.gpr[RDI];
  out.rsp = s.gpr[RSP];
  out.rbp = s.gpr[RBP];
  out.r8 = s.gpr[R8];
  out.r9 = s.gpr[R9];
  out.r10 = s.gpr[R10];
  out.r11 = s.gpr[R11];
  out.r12 = s.gpr[R12];
  out.r13 = s.gpr[R13];
  out.r14 = s.gpr[R14];
  out.r15 = s.gpr[R15];
  out.rip = s.rip;
  out.rflags = (s.rflags & flag::all) | flag::fixed;
  return out;
}

void from_regs(const kvm_regs& in, CpuState& s) {
  s.gpr = {in.rax, in.rcx, in.rdx, in.rbx, in.rsp, in.rbp, in.rsi, in.rdi,
           in.r8,  in.r9,  in.r10, in.r11, in.r12, in.r13, in.r14, in.r15};
  s.rip = in.rip;
  s.rflags = (in.rflags & flag::all) | flag::fixed;
}

// --- segments and control registers ----------------------------------------------------------------------------------

kvm_segment to_segment(const Segment& g, SegmentKind kind, bool long_mode) {
  kvm_segment out{};
  out.base = g.base;
  out.limit = g.limit;
  out.selector = g.selector;
  uint32_t attributes = g.attributes;
  if (kind == SegmentKind::tr) {
    const bool tss = usable(g) && (attributes & seg::S) == 0 && (attributes & 5) == 1;  // types 1, 3, 9, 11
    if (!tss) {
      // Never loaded. Processors always have some TSS there (SDM 3A table 9-1), and entering a guest without one fails.
      attributes = seg::P | kBusyTss32;
      out.limit = 0xffff;
    }
    attributes |= kTssBusyBit;
    // Long mode leaves the type to whoever loads it; virtualization hardware wants the one there is (SDM 3C 26.3.1.2).
    if (long_mode && (attributes & seg::type_mask) == kBusyTss16) attributes |= kBusyTss32;
  }
  if (kind == SegmentKind::ldtr && usable(g)) attributes = (attributes & ~(seg::type_mask | seg::S)) | kLdtType;
  if (kind == SegmentKind::cs && !long_mode) attributes &= ~seg::L;  // KVM_SET_SREGS refuses it
  out.unusable = (attributes & seg::unusable) != 0 || (attributes & seg::P) == 0 ? 1 : 0;
  out.type = static_cast<uint8_t>(attributes & seg::type_mask);
  out.s = (attributes & seg::S) != 0;
  out.dpl = static_cast<uint8_t>(seg::dpl(attributes));
  out.present = out.unusable == 0;
  out.avl = (attributes & seg::AVL) != 0;
  out.l = (attributes & seg::L) != 0;
  out.db = (attributes & seg::DB) != 0;
  out.g = (attributes & seg::G) != 0;
  return out;
}

void from_segment(const kvm_segment& seen, SegmentKind kind, bool was_long_mode, bool long_mode, Segment& g) {
  // L is kept back outside of long mode. On the way into it, KVM's view without L is the true one.
  const bool l_kept_back = kind == SegmentKind::cs && was_long_mode != long_mode && (g.attributes & seg::L) != 0;
  if (!l_kept_back && same_segment(to_segment(g, kind, was_long_mode), seen, kind)) return;
  g = plain_segment(seen, kind);
}

kvm_sregs to_sregs(const CpuState& s, const Surroundings& around) {
  // The bitmap of pending interrupts stays empty: what KVM has begun to deliver is in the events.
  kvm_sregs out{};
  put_common(s, around, out);
  return out;
}

void from_sregs(const kvm_sregs& in, CpuState& s, Surroundings& around) { take_common(in, s, around); }

kvm_sregs2 to_sregs2(const CpuState& s, const Surroundings& around) {
  kvm_sregs2 out{};
  put_common(s, around, out);
  if (s.pae_paging()) {
    out.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
    for (size_t i = 0; i < s.pdpte.size(); ++i) out.pdptrs[i] = s.pdpte[i];
  }
  return out;
}

void from_sregs2(const kvm_sregs2& in, CpuState& s, Surroundings& around) {
  take_common(in, s, around);
  if (s.pae_paging() && (in.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0) {
    for (size_t i = 0; i < s.pdpte.size(); ++i) s.pdpte[i] = in.pdptrs[i];
  }
}

// --- debug registers -------------------------------------------------------------------------------------------------

kvm_debugregs to_debugregs(const CpuState& s) {
  kvm_debugregs out{};
  for (size_t i = 0; i < s.dr.size(); ++i) out.db[i] = s.dr[i];
  out.dr6 = stored_dr6(s.dr6);
  out.dr7 = stored_dr7(s.dr7);
  return out;
}

void from_debugregs(const kvm_debugregs& in, CpuState& s) {
  for (size_t i = 0; i < s.dr.size(); ++i) s.dr[i] = in.db[i];
  // Bits for restricted transactions and bus locks are not in our CPU model.
  s.dr6 = stored_dr6(in.dr6);
  s.dr7 = stored_dr7(in.dr7);
}

// --- events ----------------------------------------------------------------------------------------------------------

kvm_vcpu_events to_events(const CpuState& s, const Surroundings& around) {
  kvm_vcpu_events out{};
  const Delivery& d = around.delivery;
  out.exception.injected = d.exception;
  out.exception.nr = d.exception_vector;
  out.exception.has_error_code = d.has_error_code;
  out.exception.error_code = d.error_code;
  out.interrupt.injected = d.interrupt;
  out.interrupt.nr = d.interrupt_vector;
  out.interrupt.soft = d.soft_interrupt;
  out.nmi.injected = d.nmi;
  out.nmi.pending = s.nmi_pending;
  out.nmi.masked = s.nmi_blocked;
  out.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  if (s.shadow != Shadow::none) {
    // VMX refuses a shadow of STI while IF is clear (SDM 3C 26.3.1.5).
    const bool sti = s.shadow == Shadow::interrupts && (s.rflags & flag::IF) != 0;
    out.interrupt.shadow = sti ? kShadowSti : kShadowMovSs;
  }
  return out;
}

void from_events(const kvm_vcpu_events& in, CpuState& s, Surroundings& around) {
  Delivery d;
  // Without KVM_CAP_EXCEPTION_PAYLOAD switched on, pending exceptions count as injected.
  d.exception = in.exception.injected != 0 || in.exception.pending != 0;
  if (d.exception) {
    d.exception_vector = in.exception.nr;
    d.has_error_code = in.exception.has_error_code != 0;
    if (d.has_error_code) d.error_code = in.exception.error_code;
  }
  d.interrupt = in.interrupt.injected != 0;
  if (d.interrupt) {
    d.interrupt_vector = in.interrupt.nr;
    d.soft_interrupt = in.interrupt.soft != 0;
  }
  d.nmi = in.nmi.injected != 0;
  around.delivery = d;
  around.last_exception = in.exception.nr;
  s.nmi_pending = in.nmi.pending != 0;
  s.nmi_blocked = in.nmi.masked != 0;
  if ((in.flags & KVM_VCPUEVENT_VALID_SHADOW) == 0) return;
  const bool holds = (in.interrupt.shadow & (kShadowSti | kShadowMovSs)) != 0;
  if (holds == (s.shadow != Shadow::none)) return;
  // SVM has one kind of shadow, and KVM shows it as both: then it is taken for STI's, the frequent one.
  s.shadow = !holds ? Shadow::none : (in.interrupt.shadow & kShadowSti) != 0 ? Shadow::interrupts : Shadow::debug;
}

}  // namespace retrovisor::kvm
