// SYSCALL, SYSENTER and their returns, SWAPGS, FS and GS bases.
#include "vmm/soft/fast_calls.h"

#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

constexpr uint32_t code_type = seg::code | seg::readable_or_writable | seg::accessed;
constexpr uint32_t data_type = seg::readable_or_writable | seg::accessed;

// Loads flat CS and SS of privilege level `dpl`.
void load_flat(SoftCpu& cpu, uint64_t cs, uint64_t ss, unsigned dpl, bool code64) {
  cpu.s.segment[CS] = flat_segment(static_cast<uint16_t>((cs & 0xfffc) | dpl), code_type, dpl, code64 ? seg::L : seg::DB);
  cpu.s.segment[SS] = flat_segment(static_cast<uint16_t>((ss & 0xfffc) | dpl), data_type, dpl, seg::DB);
}

}  // namespace

bool exec_syscall(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  // Intel processors know SYSCALL in 64-bit mode alone.
  if (!s.mode64() || (s.efer & efer::SCE) == 0) return raise_ud(cpu);
  const uint64_t rflags = get_rflags(cpu) & ~flag::RF;
  s.gpr[RCX] = next_rip(cpu, op);
  s.gpr[R11] = rflags;
  s.rip = s.lstar;
  const uint64_t selectors = s.star >> 32;
  load_flat(cpu, selectors, selectors + 8, 0, true);
  set_rflags(cpu, rflags & ~s.sfmask);
  cpu.event_delivered = true;
  mode_changed(cpu);
  return true;
}

bool exec_sysret(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  if (!s.mode64() || (s.efer & efer::SCE) == 0) return raise_ud(cpu);
  if (!require_ring0(cpu)) return false;
  const bool to_64 = op.r0 == 8;
  // A non-canonical RCX faults here, still at privilege level 0 (SDM 2 "SYSRET").
  if (to_64 && !is_canonical(s.gpr[RCX])) return raise_gp(cpu, 0);
  const uint64_t selectors = s.star >> 48;
  s.rip = to_64 ? s.gpr[RCX] : s.gpr[RCX] & 0xffffffff;
  load_flat(cpu, to_64 ? selectors + 16 : selectors, selectors + 8, 3, to_64);
  set_rflags(cpu, s.gpr[R11] & 0x3c7fd7);
  mode_changed(cpu);
  return true;
}

bool exec_sysenter(SoftCpu& cpu, const Op&) {
  CpuState& s = cpu.s;
  if (!s.protected_mode() || (s.sysenter_cs & 0xfffc) == 0) return raise_gp(cpu, 0);
  const bool wide = s.long_mode();
  const uint64_t mask = wide ? UINT64_MAX : 0xffffffff;
  set_rflags(cpu, get_rflags(cpu) & ~(flag::VM | flag::IF | flag::RF));
  s.gpr[RSP] = s.sysenter_esp & mask;
  s.rip = s.sysenter_eip & mask;
  load_flat(cpu, s.sysenter_cs, s.sysenter_cs + 8, 0, wide);
  cpu.event_delivered = true;
  mode_changed(cpu);
  return true;
}

bool exec_sysexit(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  if (!s.protected_mode() || (s.sysenter_cs & 0xfffc) == 0) return raise_gp(cpu, 0);
  if (!require_ring0(cpu)) return false;
  const bool to_64 = op.r0 == 8;
  if (to_64 && (!is_canonical(s.gpr[RCX]) || !is_canonical(s.gpr[RDX]))) return raise_gp(cpu, 0);
  const uint64_t mask = to_64 ? UINT64_MAX : 0xffffffff;
  const uint64_t cs = s.sysenter_cs + (to_64 ? 32 : 16);
  s.rip = s.gpr[RDX] & mask;
  s.gpr[RSP] = s.gpr[RCX] & mask;
  load_flat(cpu, cs, cs + 8, 3, to_64);
  mode_changed(cpu);
  return true;
}

bool exec_swapgs(SoftCpu& cpu, const Op& op) {
  if (!cpu.s.mode64()) return raise_ud(cpu);
  if (!require_ring0(cpu)) return false;
  std::swap(cpu.s.segment[GS].base, cpu.s.kernel_gs_base);
  return advance_rip(cpu, op);
}

bool exec_read_base(SoftCpu& cpu, const Op& op) {
  if (!cpu.s.mode64() || (cpu.s.cr4 & cr4::FSGSBASE) == 0) return raise_ud(cpu);
  set_sized(cpu, op.r1, op.r0, segment_of(cpu, op).base);
  return advance_rip(cpu, op);
}

bool exec_write_base(SoftCpu& cpu, const Op& op) {
  if (!cpu.s.mode64() || (cpu.s.cr4 & cr4::FSGSBASE) == 0) return raise_ud(cpu);
  const uint64_t base = get_sized(cpu, op.r1, op.r0);
  if (!is_canonical(base)) return raise_gp(cpu, 0);
  segment_of(cpu, op).base = base;
  return advance_rip(cpu, op);
}

}  // namespace retrovisor::soft
