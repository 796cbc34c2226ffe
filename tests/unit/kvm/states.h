// Random but possible CPU states, and their comparison.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "vmm/cpu/msr.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/soft/x87.h"

namespace retrovisor::kvm {

enum class Mode { real, protected32, pae, long_kernel, long_user, compatibility };
inline constexpr Mode kAllModes[] = {Mode::real, Mode::protected32, Mode::pae, Mode::long_kernel, Mode::long_user,
                                     Mode::compatibility};

class RandomStates {
 public:
  explicit RandomStates(uint64_t seed) : random_(seed) {}

  uint64_t bits() { return random_(); }
  uint64_t below(uint64_t n) { return random_() % n; }
  bool coin() { return (random_() & 1) != 0; }

  CpuState next(Mode mode) {
    CpuState s = CpuState::at_reset(VcpuId(0));
    const bool lma = mode == Mode::long_kernel || mode == Mode::long_user || mode == Mode::compatibility;
    const bool code64 = mode == Mode::long_kernel || mode == Mode::long_user;
    const unsigned cpl = mode == Mode::long_user || mode == Mode::compatibility ? 3 : 0;
    for (uint64_t& r : s.gpr) r = code64 ? bits() : bits() & 0xffffffff;
    s.rip = code64 ? address() : mode == Mode::real ? bits() & 0xffff : bits() & 0xffffffff;
    constexpr uint64_t flags = flag::arithmetic | flag::DF | flag::IF | flag::AC | flag::ID | flag::NT | flag::IOPL;
    s.rflags = (bits() & flags) | flag::fixed;

    for (unsigned i = 0; i < 6; ++i) s.segment[i] = mode == Mode::real ? real_segment() : data_segment(lma, cpl);
    if (mode == Mode::real) {
      s.segment[CS].attributes = seg::P | seg::S | 3;
    } else {
      s.segment[CS] = code_segment(mode, cpl);
      s.segment[SS] = usable_data_segment(cpl, code64 || coin() ? 0xffffffff : 0xffff);
      s.segment[SS].attributes |= seg::DB;
    }
    if (lma) {
      for (const SegReg r : {FS, GS}) s.segment[r].base = address();
    }
    s.ldtr = {0, 0, seg::unusable, 0};
    if (coin()) s.ldtr = {lma ? address() : bits() & 0xffffffff, 0xff, seg::P | 2, 0x48};
    s.tr = {lma ? address() : bits() & 0xffffffff, 0x67 + static_cast<uint32_t>(below(4096)), seg::P | 11, 0x40};
    s.gdtr = {lma ? address() : bits() & 0xffffffff, static_cast<uint16_t>(bits())};
    s.idtr = {lma ? address() : bits() & 0xffffffff, static_cast<uint16_t>(bits())};

    s.cr0 = cr0::ET | cr0::NE | (bits() & (cr0::MP | cr0::WP | cr0::AM | cr0::TS));
    if (mode != Mode::real) s.cr0 |= cr0::PE;
    s.cr4 = bits() & (cr4::TSD | cr4::DE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE);
    s.efer = bits() & (efer::SCE | efer::NXE);
    s.cr2 = lma ? bits() : bits() & 0xffffffff;
    s.cr3 = below(1 << 12) << 12;
    if (lma) {
      s.cr0 |= cr0::PG;
      s.cr4 |= cr4::PAE;
      s.efer |= efer::LME | efer::LMA;
    }
    if (mode == Mode::pae) {
      s.cr0 |= cr0::PG;
      s.cr4 |= cr4::PAE;
      for (uint64_t& e : s.pdpte) e = coin() ? 0 : (below(1 << 12) << 12) | pte::P;
    }
    s.xcr0 = coin() ? 1 : 3;

    for (uint64_t& r : s.dr) r = lma ? address() : bits() & 0xffffffff;
    s.dr6 = dr6::fixed | (bits() & (15 | dr6::BS));
    s.dr7 = dr7::fixed;  // nothing armed

    s.star = bits();
    s.lstar = address();
    s.cstar = address();
    s.sfmask = bits() & 0xffffffff;
    s.kernel_gs_base = address();
    s.tsc_aux = bits() & 0xffffffff;
    s.sysenter_cs = bits() & 0xffffffff;
    s.sysenter_esp = address();
    s.sysenter_eip = address();
    constexpr uint8_t types[] = {0, 1, 4, 5, 6, 7};
    s.pat = 0;
    for (unsigned i = 0; i < 8; ++i) s.pat |= uint64_t{types[below(6)]} << (8 * i);
    s.misc_enable = kMiscEnableReset | (bits() & 1);
    s.tsc_offset = bits();
    s.tsc_adjust = bits();
    s.mtrr_def_type = 0xc06;
    for (size_t i = 0; i < s.mtrr_var.size(); i += 2) {
      s.mtrr_var[i] = (below(1 << 20) << 12) | 6;
      s.mtrr_var[i + 1] = (below(1 << 20) << 12) | (coin() ? 0x800 : 0);
    }
    for (uint64_t& v : s.mtrr_fixed) v = 0x0606060606060606;

    fill_fpu(s, code64);

    s.activity = coin() ? Activity::running : Activity::halted;
    s.nmi_blocked = coin();
    s.nmi_pending = s.nmi_blocked && coin();  // else it would be delivered by the next entry
    s.sipi_vector = static_cast<uint8_t>(bits());
    s.shadow = static_cast<Shadow>(below(3));
    return s;
  }

 private:
  uint64_t address() {  // canonical
    const uint64_t a = bits() & 0x00007fffffffffff;
    return coin() ? a : a | 0xffff800000000000;
  }
  Segment real_segment() {
    const auto selector = static_cast<uint16_t>(bits());
    return {uint64_t{selector} << 4, 0xffff, seg::P | seg::S | 3, selector};
  }
  Segment usable_data_segment(unsigned dpl, uint32_t limit) {
    const uint32_t attributes = seg::P | seg::S | 3 | dpl << 5 | (limit > 0xfffff ? seg::G : 0);
    return {0, limit, attributes, static_cast<uint16_t>((1 + below(30)) << 3 | dpl)};
  }
  Segment data_segment(bool lma, unsigned dpl) {
    if (coin()) return {0, 0, seg::unusable, static_cast<uint16_t>(below(4))};
    Segment g = usable_data_segment(dpl, coin() ? 0xffffffff : static_cast<uint32_t>(below(0x100000)));
    g.attributes |= (coin() ? seg::DB : 0) | (coin() ? seg::AVL : 0);
    if (!lma) g.base = bits() & 0xffffffff;
    return g;
  }
  Segment code_segment(Mode mode, unsigned dpl) {
    const uint32_t size = mode == Mode::long_kernel || mode == Mode::long_user ? seg::L : seg::DB;
    return {0, 0xffffffff, seg::P | seg::S | seg::G | 11 | dpl << 5 | size, static_cast<uint16_t>(dpl == 3 ? 0x33 : 0x10)};
  }
  void fill_fpu(CpuState& s, bool code64) {
    X87State& f = s.x87;
    f = X87State{};
    if (below(8) != 0) {
      f.fcw = soft::x87_control(static_cast<uint16_t>(bits() & 0xf7f));
      f.fsw = static_cast<uint16_t>(bits() & 0x7f7f);
      soft::x87_update_summary(f);
      f.tag = static_cast<uint8_t>(bits());
      f.fop = static_cast<uint16_t>(bits() & 0x7ff);
      f.fip = code64 ? address() : bits() & 0xffffffff;
      f.fdp = code64 ? address() : bits() & 0xffffffff;
      f.fcs = code64 ? uint16_t{0} : static_cast<uint16_t>(bits());
      f.fds = code64 ? uint16_t{0} : static_cast<uint16_t>(bits());
      for (X87Register& r : f.r) r = {bits(), static_cast<uint16_t>(bits())};
    }
    if (below(8) != 0) {
      for (Xmm& x : s.xmm) x = {{bits(), bits()}};
    }
    s.mxcsr = below(4) == 0 ? 0x1f80 : static_cast<uint32_t>(bits() & 0xffff);
  }

  std::mt19937_64 random_;
};

// Fields that differ, one a line; empty if the states are equal.
inline std::string difference(const CpuState& expected, const CpuState& got) {
  StateWriter a, b;
  expected.save(a, VcpuId(0));
  got.save(b, VcpuId(0));
  const auto left = state_fields(a.data());
  const auto right = state_fields(b.data());
  if (left.size() != right.size()) return "different fields";
  const auto hex = [](const std::vector<uint8_t>& bytes) {
    std::string text;
    for (size_t i = bytes.size(); i-- > 0;) {
      constexpr char digits[] = "0123456789abcdef";
      text += digits[bytes[i] >> 4];
      text += digits[bytes[i] & 15];
    }
    return text;
  };
  std::string out;
  for (size_t i = 0; i < left.size(); ++i) {
    if (left[i].value != right[i].value) {
      out += left[i].name + ": expected " + hex(left[i].value) + ", got " + hex(right[i].value) + "\n";
    }
  }
  return out;
}

// On hosts that drop them, FPU pointers of a state that went into another are zero.
inline void drop_fpu_pointers(const HostQuirks& quirks, CpuState& s) {
  if (!quirks.drops_fpu_pointers || (s.x87.fsw & soft::fsw::ES) != 0) return;
  s.x87.fip = s.x87.fdp = 0;
  s.x87.fop = 0;
  s.x87.fcs = s.x87.fds = 0;
}

// What KVM does not carry, from `s` to `target` (see vcpu_state.h).
inline void copy_uncarried(const CpuState& s, std::span<const uint32_t> carried_msrs, CpuState& target) {
  target.activity = s.activity;
  target.init_pending = s.init_pending;
  target.sipi_pending = s.sipi_pending;
  target.sipi_vector = s.sipi_vector;
  target.tsc_offset = s.tsc_offset;
  target.tsc_adjust = s.tsc_adjust;
  target.pending_debug = s.pending_debug;
  target.xss = s.xss;
  target.pdpte = s.pdpte;
  target.x87.fip = s.x87.fip;
  target.x87.fdp = s.x87.fdp;
  target.x87.fop = s.x87.fop;
  target.x87.fcs = s.x87.fcs;
  target.x87.fds = s.x87.fds;
  target.shadow = s.shadow;
  for (const uint32_t index : state_msrs()) {
    if (std::find(carried_msrs.begin(), carried_msrs.end(), index) == carried_msrs.end()) {
      *msr_field(target, index) = *msr_field(s, index);
    }
  }
}

}  // namespace retrovisor::kvm
