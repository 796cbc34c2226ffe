// What lets a vCPU run: INIT, start-up, and what wakes.
#include "vmm/vcpu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

namespace retrovisor {
namespace {

std::map<std::string, std::vector<uint8_t>> fields_of(const CpuState& s) {
  StateWriter out;
  s.save(out, VcpuId(1));
  const auto data = out.take();
  std::map<std::string, std::vector<uint8_t>> fields;
  for (const StateField& f : state_fields(data)) fields[f.name] = f.value;
  return fields;
}

// Every register differs from what reset leaves in it.
CpuState used_state() {
  CpuState s;
  for (size_t i = 0; i < 16; ++i) s.gpr[i] = 100 + i;
  s.rip = 0x1234;
  s.rflags = flag::fixed | flag::IF | flag::CF;
  for (size_t i = 0; i < 6; ++i) s.segment[i] = {0x10 * i + 1, 0xfff, seg::P | seg::S | seg::DB | 11, static_cast<uint16_t>(8 * i + 8)};
  s.ldtr = s.tr = {0x4000, 0x67, seg::P | 9, 0x50};
  s.gdtr = s.idtr = {0x5000, 0x7f};
  s.cr0 = cr0::PE;
  s.cr2 = s.cr3 = 0x6000;
  s.cr4 = cr4::OSFXSR;
  s.efer = efer::SCE;
  s.xcr0 = 3;
  s.dr = {1, 2, 3, 4};
  s.dr6 = dr6::fixed | 1;
  s.dr7 = dr7::fixed | 1;
  s.pdpte = {1, 2, 3, 4};
  s.star = s.lstar = s.cstar = s.sfmask = s.kernel_gs_base = s.tsc_aux = 7;
  s.sysenter_cs = s.sysenter_esp = s.sysenter_eip = 8;
  s.pat = 0;
  s.misc_enable = 0;
  s.tsc_offset = s.tsc_adjust = 9;
  s.xss = 10;
  s.mtrr_def_type = 0xc06;
  s.mtrr_var.fill(11);
  s.mtrr_fixed.fill(12);
  s.mcg_status = 13;
  for (X87Register& r : s.x87.r) r = {14, 15};
  s.x87.fcw = 0x27f, s.x87.fsw = 16, s.x87.tag = 17, s.x87.fop = 18, s.x87.fip = 19, s.x87.fdp = 20, s.x87.fcs = 21, s.x87.fds = 22;
  for (Xmm& x : s.xmm) x = {{23, 24}};
  s.mxcsr = 0x1fa0;
  s.activity = Activity::halted;
  s.nmi_blocked = s.nmi_pending = s.init_pending = s.sipi_pending = true;
  s.sipi_vector = 25;
  s.shadow = Shadow::interrupts;
  s.pending_debug = 1;
  return s;
}

bool starts_with_any(const std::string& name, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return name.starts_with("cpu1." + std::string(p)); });
}

// SDM 3A table 9-1, column INIT: the FPU, the TSC and the registers of memory types are unchanged; all else is as after reset, but
// for CR0's CD and NW. And what has been sent to the vCPU meanwhile waits on.
TEST(Init, keeps_fpu_tsc_and_memory_types_and_resets_all_else) {
  const CpuState used = used_state();
  const auto before = fields_of(used), reset = fields_of(CpuState::at_reset(VcpuId(1))), after = fields_of(used.after_init(VcpuId(1)));
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [name, value] : after) {
    if (name == "cpu1.cr0") continue;
    ASSERT_NE(before.at(name), reset.at(name)) << name << " is not tested";
    const bool kept = starts_with_any(name, {"x87", "xmm", "mxcsr", "tsc_offset", "tsc_adjust", "pat", "mtrr_", "nmi_pending",
                                             "sipi_pending", "sipi_vector"});
    EXPECT_EQ(value, kept ? before.at(name) : reset.at(name)) << name;
  }
  EXPECT_EQ(used.after_init(VcpuId(1)).cr0, cr0::ET);  // caches were on
  EXPECT_EQ(CpuState::at_reset(VcpuId(1)).after_init(VcpuId(1)).cr0, cr0::ET | cr0::CD | cr0::NW);
}

TEST(Init, boot_processors_run_and_others_wait) {
  CpuState s = used_state();
  s.sipi_pending = false;
  EXPECT_EQ(s.after_init(VcpuId(0)).activity, Activity::running);
  EXPECT_EQ(s.after_init(VcpuId(1)).activity, Activity::wait_for_sipi);
  s.sipi_pending = true;  // firmware starts the boot processor elsewhere than at the reset vector
  EXPECT_EQ(s.after_init(VcpuId(0)).activity, Activity::wait_for_sipi);
}

TEST(StartUp, begins_at_the_vectors_page) {
  CpuState s = used_state().after_init(VcpuId(1));
  s.sipi_vector = 0x9a;
  s.init_pending = true;
  s.start_up();
  EXPECT_EQ(s.activity, Activity::running);
  EXPECT_EQ(s.linear_rip().value, 0x9a000u);
  EXPECT_EQ(s.segment[CS].selector, 0x9a00);
  EXPECT_FALSE(s.sipi_pending || s.init_pending);
}

struct Wake {
  Activity activity;
  bool intr, may_deliver, enabled, nmi, nmi_blocked, init, sipi;
};

Vcpu vcpu_of(const Wake& w) {
  Vcpu v;
  v.state.activity = w.activity;
  v.intr = w.intr;
  v.may_deliver = w.may_deliver;
  v.state.rflags = flag::fixed | (w.enabled ? flag::IF : 0);
  v.state.nmi_pending = w.nmi;
  v.state.nmi_blocked = w.nmi_blocked;
  v.state.init_pending = w.init;
  v.state.sipi_pending = w.sipi;
  return v;
}

// All combinations, against the rules as the manuals word them.
TEST(Wakes, by_what_each_activity_allows) {
  for (unsigned bits = 0; bits < 1 << 9; ++bits) {
    const auto bit = [&](unsigned i) { return (bits >> i & 1) != 0; };
    const Wake w{static_cast<Activity>(bits & 3), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7), bit(8)};
    const Vcpu v = vcpu_of(w);
    bool asked = false, due = false;  // by schedulers, by engines
    if (w.activity == Activity::halted) {
      asked = (w.intr && w.enabled) || (w.nmi && !w.nmi_blocked) || w.init;
      due = (w.intr && w.enabled && w.may_deliver) || (w.nmi && !w.nmi_blocked) || w.init;
    }
    if (w.activity == Activity::wait_for_sipi) asked = due = w.sipi;
    EXPECT_EQ(woken(v, interrupt_waits(v)), asked) << bits;
    EXPECT_EQ(woken(v, interrupt_due(v)), due) << bits;
    EXPECT_EQ(has_work(v), asked || w.activity == Activity::running) << bits;
    EXPECT_EQ(interrupts_wake(v), w.activity == Activity::halted && w.enabled) << bits;
  }
}

}  // namespace
}  // namespace retrovisor
