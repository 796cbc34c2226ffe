#include "vmm/cpu/state.h"

#include <string>

#include "vmm/cpu/canonical.h"
#include "vmm/cpu/control_registers.h"
#include "vmm/cpu/debug_registers.h"
#include "vmm/cpu/msr.h"

namespace retrovisor {

namespace {

constexpr const char* kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr const char* kSegmentNames[6] = {"es", "cs", "ss", "ds", "fs", "gs"};

constexpr uint64_t kAttributeBits = 0xf0ff | seg::unusable;

std::string section_name(VcpuId id) { return "cpu" + std::to_string(id.value); }

// Calls `field(name, value)` for all plain numbers of the state, in the order they are stored. One list for both
// directions, so that they cannot drift apart.
template <class State, class Field>
void for_each_number(State& s, Field&& field) {
  const auto segment = [&](const std::string& name, auto& g) {
    field(name + ".base", g.base);
    field(name + ".limit", g.limit);
    field(name + ".attributes", g.attributes);
    field(name + ".selector", g.selector);
  };
  const auto array = [&](const std::string& name, auto& values) {
    for (size_t i = 0; i < values.size(); ++i) field(name + std::to_string(i), values[i]);
  };
  for (size_t i = 0; i < 16; ++i) field(kGprNames[i], s.gpr[i]);
  field("rip", s.rip);
  field("rflags", s.rflags);
  for (size_t i = 0; i < 6; ++i) segment(kSegmentNames[i], s.segment[i]);
  segment("ldtr", s.ldtr);
  segment("tr", s.tr);
  field("gdtr.base", s.gdtr.base);
  field("gdtr.limit", s.gdtr.limit);
  field("idtr.base", s.idtr.base);
  field("idtr.limit", s.idtr.limit);
  field("cr0", s.cr0);
  field("cr2", s.cr2);
  field("cr3", s.cr3);
  field("cr4", s.cr4);
  field("efer", s.efer);
  field("xcr0", s.xcr0);
  array("dr", s.dr);
  field("dr6", s.dr6);
  field("dr7", s.dr7);
  array("pdpte", s.pdpte);
  field("star", s.star);
  field("lstar", s.lstar);
  field("cstar", s.cstar);
  field("sfmask", s.sfmask);
  field("kernel_gs_base", s.kernel_gs_base);
  field("tsc_aux", s.tsc_aux);
  field("sysenter_cs", s.sysenter_cs);
  field("sysenter_esp", s.sysenter_esp);
  field("sysenter_eip", s.sysenter_eip);
  field("pat", s.pat);
  field("misc_enable", s.misc_enable);
  field("tsc_offset", s.tsc_offset);
  field("tsc_adjust", s.tsc_adjust);
  field("xss", s.xss);
  field("mtrr_def_type", s.mtrr_def_type);
  array("mtrr_var", s.mtrr_var);
  array("mtrr_fixed", s.mtrr_fixed);
  field("mcg_status", s.mcg_status);
  for (size_t i = 0; i < 8; ++i) {
    field("x87.r" + std::to_string(i) + ".mantissa", s.x87.r[i].mantissa);
    field("x87.r" + std::to_string(i) + ".sign_exponent", s.x87.r[i].sign_exponent);
  }
  field("x87.fcw", s.x87.fcw);
  field("x87.fsw", s.x87.fsw);
  field("x87.tag", s.x87.tag);
  field("x87.fop", s.x87.fop);
  field("x87.fip", s.x87.fip);
  field("x87.fdp", s.x87.fdp);
  field("x87.fcs", s.x87.fcs);
  field("x87.fds", s.x87.fds);
  for (size_t i = 0; i < 16; ++i) {
    field("xmm" + std::to_string(i) + ".low", s.xmm[i].q[0]);
    field("xmm" + std::to_string(i) + ".high", s.xmm[i].q[1]);
  }
  field("mxcsr", s.mxcsr);
  field("sipi_vector", s.sipi_vector);
  field("pending_debug", s.pending_debug);
}

template <class State, class Field>
void for_each_boolean(State& s, Field&& field) {
  field("nmi_blocked", s.nmi_blocked);
  field("nmi_pending", s.nmi_pending);
  field("init_pending", s.init_pending);
  field("sipi_pending", s.sipi_pending);
}

void check_segment(StateReader& in, const std::string& name, const Segment& g, bool wide_base) {
  in.check(name + ".attributes", (g.attributes & ~kAttributeBits) == 0);
  in.check(name + ".base", wide_base ? is_canonical(g.base) : (g.base >> 32) == 0);
}

}  // namespace

CpuState CpuState::at_reset(VcpuId id) {
  CpuState s;
  constexpr uint32_t data = seg::P | seg::S | seg::readable_or_writable | seg::accessed;
  for (Segment& g : s.segment) g = {0, 0xffff, data, 0};
  s.segment[CS] = {0xffff0000, 0xffff, data, 0xf000};
  s.ldtr = {0, 0xffff, seg::P | 2, 0};
  s.tr = {0, 0xffff, seg::P | 11, 0};  // busy 32-bit TSS: systems go to long mode without LTR
  s.gdtr = s.idtr = {0, 0xffff};
  s.rip = 0xfff0;
  s.cr0 = cr0::CD | cr0::NW | cr0::ET;
  s.gpr[RDX] = cpuid(1, 0, s, id, 1).eax;  // the processor's signature
  s.x87.fcw = 0x40;
  s.x87.tag = 0xff;  // all registers hold +0.0
  s.misc_enable = kMiscEnableReset;
  s.activity = id.value == 0 ? Activity::running : Activity::wait_for_sipi;
  return s;
}

CpuState CpuState::after_init(VcpuId id) const {
  CpuState fresh = at_reset(id);
  fresh.x87 = x87;
  fresh.xmm = xmm;
  fresh.mxcsr = mxcsr;
  fresh.cr0 = (fresh.cr0 & ~(cr0::CD | cr0::NW)) | (cr0 & (cr0::CD | cr0::NW));
  fresh.tsc_offset = tsc_offset;
  fresh.tsc_adjust = tsc_adjust;
  fresh.pat = pat;
  fresh.mtrr_def_type = mtrr_def_type;
  fresh.mtrr_var = mtrr_var;
  fresh.mtrr_fixed = mtrr_fixed;
  // What has come meanwhile is not lost.
  fresh.nmi_pending = nmi_pending;
  fresh.sipi_pending = sipi_pending;
  fresh.sipi_vector = sipi_vector;
  // To the boot processor none comes but with a reset, by which firmware lets it start elsewhere (devices/restart.h).
  if (sipi_pending) fresh.activity = Activity::wait_for_sipi;
  return fresh;
}

void CpuState::start_up() {
  sipi_pending = false;
  init_pending = false;  // an INIT that came before it has nothing left to do
  segment[CS].selector = static_cast<uint16_t>(sipi_vector << 8);
  segment[CS].base = static_cast<uint64_t>(sipi_vector) << 12;
  rip = 0;
  activity = Activity::running;
}

void CpuState::save(StateWriter& out, VcpuId id) const {
  out.section(section_name(id));
  for_each_number(*this, [&](const std::string& name, const auto& value) {
    if constexpr (sizeof value == 1) out.u8(name, value);
    else if constexpr (sizeof value == 2) out.u16(name, value);
    else if constexpr (sizeof value == 4) out.u32(name, value);
    else out.u64(name, value);
  });
  for_each_boolean(*this, [&](const std::string& name, bool value) { out.boolean(name, value); });
  out.u8("activity", static_cast<uint8_t>(activity));
  out.u8("shadow", static_cast<uint8_t>(shadow));
}

void CpuState::restore(StateReader& in, VcpuId id) {
  const std::string section = section_name(id);  // the reader keeps a view of it
  in.section(section);
  for_each_number(*this, [&](const std::string& name, auto& value) {
    if constexpr (sizeof value == 1) in.u8(name, value);
    else if constexpr (sizeof value == 2) in.u16(name, value);
    else if constexpr (sizeof value == 4) in.u32(name, value);
    else in.u64(name, value);
  });
  for_each_boolean(*this, [&](const std::string& name, bool& value) { in.boolean(name, value); });
  uint8_t raw_activity = 0;
  in.u8("activity", raw_activity);
  in.check("activity", raw_activity <= static_cast<uint8_t>(Activity::shutdown));
  activity = static_cast<Activity>(raw_activity & 3);
  uint8_t raw_shadow = 0;
  in.u8("shadow", raw_shadow);
  in.check("shadow", raw_shadow <= static_cast<uint8_t>(Shadow::debug));
  shadow = raw_shadow <= static_cast<uint8_t>(Shadow::debug) ? static_cast<Shadow>(raw_shadow) : Shadow::none;
  zero = 0;

  const bool lma = (efer & efer::LMA) != 0;
  in.check("rflags",
           (rflags & ~(flag::all | flag::fixed)) == 0 && (rflags & flag::fixed) != 0 && !(lma && (rflags & flag::VM) != 0));
  in.check("cr0", valid_cr0(cr0));
  in.check("cr4", valid_cr4(cr4));
  in.check("cr3", (cr3 >> kPhysicalBits) == 0);
  in.check("efer", (efer & ~kEferSupported) == 0 && lma == ((efer & efer::LME) != 0 && paging()) &&
                       (!lma || (cr4 & cr4::PAE) != 0));
  in.check("xcr0", valid_xcr0(xcr0));
  in.check("rip", lma || (rip >> 32) == 0);
  for (size_t i = 0; i < 6; ++i) check_segment(in, kSegmentNames[i], segment[i], i == FS || i == GS);
  check_segment(in, "ldtr", ldtr, true);
  check_segment(in, "tr", tr, true);
  in.check("gdtr.base", is_canonical(gdtr.base));
  in.check("idtr.base", is_canonical(idtr.base));
  in.check("dr6", dr6 == stored_dr6(dr6));
  in.check("dr7", dr7 == stored_dr7(dr7));
  for (const uint64_t entry : pdpte) in.check("pdpte0", (entry & pte::P) == 0 || (entry >> kPhysicalBits) == 0);
  in.check("lstar", is_canonical(lstar));
  in.check("cstar", is_canonical(cstar));
  in.check("sfmask", (sfmask >> 32) == 0);
  in.check("kernel_gs_base", is_canonical(kernel_gs_base));
  in.check("tsc_aux", (tsc_aux >> 32) == 0);
  in.check("sysenter_esp", is_canonical(sysenter_esp));
  in.check("sysenter_eip", is_canonical(sysenter_eip));
  in.check("pat", valid_pat(pat));
  in.check("xss", xss == 0);
  in.check("mtrr_def_type", valid_mtrr_def_type(mtrr_def_type));
  for (size_t i = 0; i < mtrr_var.size(); ++i) in.check("mtrr_var", valid_mtrr_var(static_cast<unsigned>(i), mtrr_var[i]));
  for (const uint64_t value : mtrr_fixed) in.check("mtrr_fixed", valid_mtrr_fixed(value));
  in.check("mxcsr", (mxcsr >> 16) == 0);
  in.check("pending_debug", (pending_debug & ~dr6::writable) == 0);
}

}  // namespace retrovisor
