// Instructions on IF, IOPL and the other system flags, and software interrupts.
#include "vmm/soft/flag_ops.h"

#include <utility>

#include "vmm/soft/exceptions.h"
#include "vmm/soft/memory.h"
#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

// How CLI and STI act (SDM 2 tables 3-7 and 4-19).
enum class IfControl : uint8_t { real_if, virtual_if, denied };

IfControl if_control(const SoftCpu& cpu) {
  const CpuState& s = cpu.s;
  if (!s.protected_mode()) return IfControl::real_if;
  const unsigned iopl = s.iopl();
  if (s.vm86()) {
    if (iopl == 3) return IfControl::real_if;
    return (s.cr4 & cr4::VME) != 0 ? IfControl::virtual_if : IfControl::denied;
  }
  if (s.cpl() <= iopl) return IfControl::real_if;
  return s.cpl() == 3 && (s.cr4 & cr4::PVI) != 0 ? IfControl::virtual_if : IfControl::denied;
}

}  // namespace

bool exec_cli(SoftCpu& cpu, const Op& op) {
  switch (if_control(cpu)) {
    case IfControl::denied: return raise_gp(cpu, 0);
    case IfControl::real_if: cpu.s.rflags &= ~flag::IF; break;
    case IfControl::virtual_if: cpu.s.rflags &= ~flag::VIF; break;
  }
  return advance_rip(cpu, op);
}

bool exec_sti(SoftCpu& cpu, const Op& op) {
  switch (if_control(cpu)) {
    case IfControl::denied: return raise_gp(cpu, 0);
    case IfControl::real_if:
      if ((cpu.s.rflags & flag::IF) == 0) start_shadow(cpu, Shadow::interrupts);
      cpu.s.rflags |= flag::IF;
      break;
    case IfControl::virtual_if:
      if ((cpu.s.rflags & flag::VIP) != 0) return raise_gp(cpu, 0);
      cpu.s.rflags |= flag::VIF;
      break;
  }
  return advance_rip(cpu, op);
}

bool exec_pushf(SoftCpu& cpu, const Op& op) {
  uint64_t image = get_rflags(cpu) & ~(flag::VM | flag::RF);
  if (vm86_below_iopl(cpu)) {
    if ((cpu.s.cr4 & cr4::VME) == 0 || op.r0 != 2) return raise_gp(cpu, 0);
    image = (image & ~flag::IF) | flag::IOPL | ((image & flag::VIF) != 0 ? flag::IF : 0);
  }
  Stack stack(cpu, op);
  if (!stack.push(image, op.r0)) return false;
  stack.commit();
  return true;
}

bool exec_popf(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  const bool virtual_if = vm86_below_iopl(cpu);
  if (virtual_if && ((s.cr4 & cr4::VME) == 0 || op.r0 != 2)) return raise_gp(cpu, 0);
  Stack stack(cpu, op);
  uint64_t image = 0;
  if (!stack.pop(image, op.r0)) return false;

  // Which flags the popped image replaces (SDM 2 table 4-15). VM never changes, RF is cleared.
  const uint64_t old = get_rflags(cpu);
  uint64_t mask = flag::arithmetic | flag::TF | flag::DF | flag::NT;
  uint64_t clear = flag::RF;
  if (op.r0 != 2) mask |= flag::AC | flag::ID;
  if (virtual_if) {
    if (!virtual_flags(image, old)) return raise_gp(cpu, 0);
    mask |= flag::VIF;
  } else if (s.vm86()) {
    mask |= flag::IF;
  } else {
    if (s.cpl() <= s.iopl()) mask |= flag::IF;
    if (s.cpl() == 0) {
      mask |= flag::IOPL;
      if (op.r0 != 2) clear |= flag::VIF | flag::VIP;
    }
  }
  stack.commit();
  set_rflags(cpu, (old & ~(mask | clear)) | (image & mask));
  mode_changed(cpu);
  return advance_rip(cpu, op);
}

bool exec_clac(SoftCpu& cpu, const Op& op) {
  if (cpu.s.cpl() != 0) return raise_ud(cpu);
  cpu.s.rflags &= ~flag::AC;
  mode_changed(cpu);
  return advance_rip(cpu, op);
}

bool exec_stac(SoftCpu& cpu, const Op& op) {
  if (cpu.s.cpl() != 0) return raise_ud(cpu);
  cpu.s.rflags |= flag::AC;
  mode_changed(cpu);
  return advance_rip(cpu, op);
}

bool exec_int(SoftCpu& cpu, const Op& op) {
  return software_interrupt(cpu, op, static_cast<uint8_t>(op.imm), EventType::software, next_rip(cpu, op));
}

bool exec_int3(SoftCpu& cpu, const Op& op) {
  return software_interrupt(cpu, op, vec::BP, EventType::software_int3, next_rip(cpu, op));
}

bool exec_into(SoftCpu& cpu, const Op& op) {
  if ((cpu.cc & cc::OF) == 0) return advance_rip(cpu, op);
  return software_interrupt(cpu, op, vec::OF, EventType::software_int3, next_rip(cpu, op));
}

bool exec_int1(SoftCpu& cpu, const Op& op) {
  if (!software_interrupt(cpu, op, vec::DB, EventType::software_icebp, next_rip(cpu, op))) return false;
  // What MOV SS held back is reported by this #DB, not by one more.
  note_debug_exception(cpu.s, std::exchange(cpu.s.pending_debug, 0));
  mode_changed(cpu);
  return true;
}

}  // namespace retrovisor::soft
