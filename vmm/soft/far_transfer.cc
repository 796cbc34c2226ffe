// Far JMP, CALL, RET and IRET (SDM 2 under each; 3A 5.8).
#include "vmm/soft/far_transfer.h"

#include "vmm/soft/exceptions.h"
#include "vmm/soft/memory.h"
#include "vmm/soft/system.h"
#include "vmm/soft/tasks.h"

namespace retrovisor::soft {

namespace {

bool legacy_real(const SoftCpu& cpu) { return !cpu.s.protected_mode() || cpu.s.vm86(); }

bool is_long_code(const SoftCpu& cpu, const Segment& cs) { return cpu.s.long_mode() && (cs.attributes & seg::L) != 0; }

// Loads RSP for a stack segment just loaded.
void set_stack_pointer(SoftCpu& cpu, const Segment& ss, bool flat, uint64_t sp) {
  uint64_t& rsp = cpu.s.gpr[RSP];
  if (flat) rsp = sp;
  else if ((ss.attributes & seg::DB) != 0) rsp = sp & 0xffffffff;
  else rsp = (rsp & ~uint64_t{0xffff}) | (sp & 0xffff);
}

// CS cannot be 64-bit and 32-bit at once.
bool check_code_size(SoftCpu& cpu, const Descriptor& d, uint16_t selector) {
  const bool both = cpu.s.long_mode() && (d.attributes() & (seg::L | seg::DB)) == (seg::L | seg::DB);
  return !both || raise_gp(cpu, selector_error(selector));
}

// A code segment reached directly by JMP or CALL: the privilege level stays.
bool check_direct_code(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& d, Segment& cs) {
  const unsigned cpl = cpu.s.cpl();
  const bool allowed = d.conforming() ? d.dpl() <= cpl : (selector & 3u) <= cpl && d.dpl() == cpl;
  if (!allowed) return raise_gp(cpu, selector_error(selector));
  if (!check_code_size(cpu, d, selector)) return false;
  if (!d.present()) return raise(cpu, vec::NP, selector_error(selector));
  if (!set_accessed(cpu, op, d)) return false;
  cs = d.segment(static_cast<uint16_t>((selector & 0xfffc) | cpl));
  return true;
}

// DPL and presence of a gate or TSS that JMP or CALL names.
bool check_system_target(SoftCpu& cpu, const Descriptor& d, uint16_t selector) {
  if (d.dpl() < cpu.s.cpl() || d.dpl() < (selector & 3u)) return raise_gp(cpu, selector_error(selector));
  return d.present() || raise(cpu, vec::NP, selector_error(selector));
}

bool jump_to_task(SoftCpu& cpu, const Op& op, uint16_t selector, const Descriptor& d, TaskSwitch why) {
  const uint64_t back = next_rip(cpu, op);
  if (d.type() == sys::task_gate) {
    return check_system_target(cpu, d, selector) && task_gate(cpu, op, d, why, back, get_rflags(cpu)) &&
           report_task_trap(cpu);
  }
  if ((selector & 4) != 0 || (d.type() & sys::busy) != 0) return raise_gp(cpu, selector_error(selector));
  return check_system_target(cpu, d, selector) && task_switch(cpu, op, selector, d, why, back, get_rflags(cpu)) &&
         report_task_trap(cpu);
}

void enter(SoftCpu& cpu, const Segment& cs, uint64_t rip) {
  cpu.s.segment[CS] = cs;
  cpu.s.rip = rip;
  mode_changed(cpu);
}

// Pushes the return address on the present stack and goes to cs:rip.
bool call_same_level(SoftCpu& cpu, const Op& op, const Segment& cs, uint64_t rip, unsigned size) {
  Stack stack(cpu, op);
  if (!stack.push(cpu.s.segment[CS].selector, size) || !stack.push(next_rip(cpu, op), size)) return false;
  if (!check_target(cpu, cs, rip)) return false;
  stack.commit();
  enter(cpu, cs, rip);
  return true;
}

// CALL through a gate to an inner level: a new stack, and the parameters copied to it (SDM 3A 5.8.5).
bool call_inner_level(SoftCpu& cpu, const Op& op, const Segment& cs, uint64_t rip, unsigned size, unsigned parameters) {
  CpuState& s = cpu.s;
  const unsigned cpl = cs.selector & 3;
  const uint64_t back = next_rip(cpu, op);
  Segment ss = null_segment(static_cast<uint16_t>(cpl), cpl);
  uint64_t sp = 0;
  uint32_t error = 0;
  const bool flat = s.long_mode();
  if (flat) {
    if (!read_long_stack(cpu, op, 4 + cpl * 8, sp)) return false;
  } else {
    uint16_t selector = 0;
    if (!read_inner_stack(cpu, op, cpl, selector, sp) || !check_stack_segment(cpu, op, selector, cpl, vec::TS, ss))
      return false;
    error = selector_error(selector);
  }
  Stack outer(cpu, op);
  Stack inner(cpu, op, ss, sp, flat, true, error);
  if (!inner.push(s.segment[SS].selector, size) || !inner.push(s.gpr[RSP], size)) return false;
  for (unsigned i = flat ? 0 : parameters; i > 0; --i) {
    uint64_t value = 0;
    if (!outer.peek((i - 1) * uint64_t{size}, value, size) || !inner.push(value, size)) return false;
  }
  if (!inner.push(s.segment[CS].selector, size) || !inner.push(back, size)) return false;
  if (!check_target(cpu, cs, rip)) return false;
  s.segment[SS] = ss;
  set_stack_pointer(cpu, ss, flat, inner.sp());
  enter(cpu, cs, rip);
  return true;
}

bool through_call_gate(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& gate, bool call) {
  const bool long_mode = cpu.s.long_mode();
  const unsigned cpl = cpu.s.cpl();
  if (!check_system_target(cpu, gate, selector)) return false;
  if (long_mode && !read_upper_half(cpu, op, selector, vec::GP, gate)) return false;
  const uint16_t target = gate.gate_selector();
  if (is_null(target)) return raise_gp(cpu, 0);
  Descriptor d;
  if (!read_descriptor(cpu, op, target, vec::GP, d)) return false;
  // The RPL of the gate's selector does not count.
  const bool allowed = d.code() && ((d.conforming() || call) ? d.dpl() <= cpl : d.dpl() == cpl);
  if (!allowed) return raise_gp(cpu, selector_error(target));
  if (long_mode && (d.attributes() & (seg::L | seg::DB)) != seg::L) return raise_gp(cpu, selector_error(target));
  if (!d.present()) return raise(cpu, vec::NP, selector_error(target));
  if (!set_accessed(cpu, op, d)) return false;
  const bool inner = call && !d.conforming() && d.dpl() < cpl;
  const Segment cs = d.segment(static_cast<uint16_t>((target & 0xfffc) | (inner ? d.dpl() : cpl)));
  const unsigned size = long_mode ? 8 : gate.type() == sys::call_gate32 ? 4 : 2;
  const uint64_t rip = long_mode ? gate.gate_offset64() : size == 4 ? gate.gate_offset() : gate.gate_offset() & 0xffff;
  if (inner) return call_inner_level(cpu, op, cs, rip, size, gate.gate_parameters());
  if (call) return call_same_level(cpu, op, cs, rip, size);
  if (!check_target(cpu, cs, rip)) return false;
  enter(cpu, cs, rip);
  return true;
}

bool far_branch(SoftCpu& cpu, const Op& op, uint16_t selector, uint64_t offset, bool call) {
  const unsigned size = op.r0;
  if (legacy_real(cpu)) {
    const Segment cs = real_segment(cpu, CS, selector);
    if (call) return call_same_level(cpu, op, cs, offset, size);
    if (!check_target(cpu, cs, offset)) return false;
    enter(cpu, cs, offset);
    return true;
  }
  if (is_null(selector)) return raise_gp(cpu, 0);
  Descriptor d;
  if (!read_descriptor(cpu, op, selector, vec::GP, d)) return false;
  if (d.code()) {
    Segment cs;
    if (!check_direct_code(cpu, op, selector, d, cs)) return false;
    if (call) return call_same_level(cpu, op, cs, offset, size);
    if (!check_target(cpu, cs, offset)) return false;
    enter(cpu, cs, offset);
    return true;
  }
  if (d.system()) {
    const bool long_mode = cpu.s.long_mode();
    if (d.type() == sys::call_gate32 || (d.type() == sys::call_gate16 && !long_mode)) {
      return through_call_gate(cpu, op, selector, d, call);
    }
    if (!long_mode && (d.type() == sys::task_gate || d.tss())) {
      return jump_to_task(cpu, op, selector, d, call ? TaskSwitch::call : TaskSwitch::jump);
    }
  }
  return raise_gp(cpu, selector_error(selector));
}

// The code segment a far RET or IRET returns to.
bool check_return_code(SoftCpu& cpu, const Op& op, uint16_t selector, Segment& cs) {
  if (is_null(selector)) return raise_gp(cpu, 0);
  Descriptor d;
  if (!read_descriptor(cpu, op, selector, vec::GP, d)) return false;
  const unsigned rpl = selector & 3;
  if (!d.code() || rpl < cpu.s.cpl() || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) {
    return raise_gp(cpu, selector_error(selector));
  }
  if (!check_code_size(cpu, d, selector)) return false;
  if (!d.present()) return raise(cpu, vec::NP, selector_error(selector));
  if (!set_accessed(cpu, op, d)) return false;
  cs = d.segment(selector);
  return true;
}

// The stack segment it returns to. Null is allowed for 64-bit code below privilege level 3 (SDM 3A 5.8.6, 6.14.3).
bool check_return_stack(SoftCpu& cpu, const Op& op, uint16_t selector, const Segment& cs, Segment& ss) {
  const unsigned cpl = cs.selector & 3;
  if (is_null(selector) && is_long_code(cpu, cs) && cpl != 3) {
    if ((selector & 3u) != cpl) return raise_gp(cpu, selector_error(selector));
    ss = null_segment(selector, cpl);
    return true;
  }
  return check_stack_segment(cpu, op, selector, cpl, vec::GP, ss);
}

// Stores flags popped by IRET, by the rules of the level it was executed at (SDM 2 "IRET").
uint64_t returned_flags(const SoftCpu& cpu, uint64_t image, unsigned size) {
  const uint64_t old = get_rflags(cpu);
  const unsigned cpl = cpu.s.cpl();
  uint64_t mask = flag::arithmetic | flag::TF | flag::DF | flag::NT;
  if (size >= 4) mask |= flag::RF | flag::AC | flag::ID;
  if (cpl <= cpu.s.iopl()) mask |= flag::IF;
  if (cpl == 0) {
    mask |= flag::IOPL;
    if (size >= 4) mask |= flag::VIF | flag::VIP;
  }
  return (old & ~(mask | flag::RF)) | (image & mask);
}

bool iret_real(SoftCpu& cpu, const Op& op, unsigned size) {
  CpuState& s = cpu.s;
  const uint64_t old = get_rflags(cpu);
  const bool virtual_if = vm86_below_iopl(cpu);
  if (virtual_if && ((s.cr4 & cr4::VME) == 0 || size != 2)) return raise_gp(cpu, 0);
  Stack stack(cpu, op);
  uint64_t rip = 0, cs = 0, image = 0;
  if (!stack.pop(rip, size) || !stack.pop(cs, size) || !stack.pop(image, size)) return false;
  const Segment code = real_segment(cpu, CS, static_cast<uint16_t>(cs));
  if (!check_target(cpu, code, rip)) return false;
  uint64_t mask = flag::arithmetic | flag::TF | flag::IF | flag::DF | flag::NT;
  if (size == 4) mask |= flag::RF | flag::AC | flag::ID;
  if (!s.vm86()) mask |= flag::IOPL;
  uint64_t flags = image;
  if (virtual_if) {  // SDM 3B 20.3.3.6: IRET in virtual-8086 mode with VME
    if (!virtual_flags(flags, old)) return raise_gp(cpu, 0);
    mask = (mask & ~flag::IF) | flag::VIF;
  }
  stack.commit();
  set_rflags(cpu, (old & ~(mask | flag::RF)) | (flags & mask));
  s.nmi_blocked = false;
  enter(cpu, code, rip);
  return true;
}

// IRET from level 0 with VM set in the popped flags (SDM 3B 20.2.5).
bool iret_to_vm86(SoftCpu& cpu, Stack& stack, uint64_t rip, uint64_t cs, uint64_t image) {
  CpuState& s = cpu.s;
  if ((rip & 0xffffffff) > 0xffff) return raise_gp(cpu, 0);
  uint64_t sp = 0, selector[6] = {};
  selector[CS] = cs;
  if (!stack.pop(sp, 4)) return false;
  for (const SegReg reg : {SS, ES, DS, FS, GS}) {
    if (!stack.pop(selector[reg], 4)) return false;
  }
  set_rflags(cpu, image & flag::all);  // VM is set from here on, so that the loads below are virtual-8086 loads
  for (const SegReg reg : {ES, CS, SS, DS, FS, GS}) {
    s.segment[reg] = real_segment(cpu, reg, static_cast<uint16_t>(selector[reg]));
  }
  s.gpr[RSP] = sp;
  s.rip = rip & 0xffff;
  s.nmi_blocked = false;
  mode_changed(cpu);
  return true;
}

bool iret_task(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  uint16_t link = 0;
  if (!system_access(cpu, op, s.tr.base & 0xffffffff, &link, 2, Access::read)) return false;
  if ((link & 4) != 0 || is_null(link)) return raise(cpu, vec::TS, selector_error(link));
  Descriptor d;
  if (!read_descriptor(cpu, op, link, vec::TS, d)) return false;
  if (!d.tss() || (d.type() & sys::busy) == 0) return raise(cpu, vec::TS, selector_error(link));
  if (!d.present()) return raise(cpu, vec::NP, selector_error(link));
  if (!task_switch(cpu, op, link, d, TaskSwitch::iret, next_rip(cpu, op), get_rflags(cpu))) return false;
  s.nmi_blocked = false;
  return report_task_trap(cpu);
}

}  // namespace

bool exec_far_jump_direct(SoftCpu& cpu, const Op& op) {
  return far_branch(cpu, op, static_cast<uint16_t>(op.imm >> 32), static_cast<uint64_t>(op.imm) & 0xffffffff, false);
}

bool exec_far_call_direct(SoftCpu& cpu, const Op& op) {
  return far_branch(cpu, op, static_cast<uint16_t>(op.imm >> 32), static_cast<uint64_t>(op.imm) & 0xffffffff, true);
}

bool exec_far_jump_memory(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  uint64_t offset = 0;
  return load_far_operand(cpu, op, selector, offset) && far_branch(cpu, op, selector, offset, false);
}

bool exec_far_call_memory(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  uint64_t offset = 0;
  return load_far_operand(cpu, op, selector, offset) && far_branch(cpu, op, selector, offset, true);
}

bool exec_far_return(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  const unsigned size = op.r0;
  const auto release = static_cast<uint64_t>(op.imm) & 0xffff;
  Stack stack(cpu, op);
  uint64_t rip = 0, selector = 0, sp = 0, ss_selector = 0;
  // In this order: it decides which fault comes (measured: AMD and Intel alike).
  if (!stack.peek(size, selector, size) || !stack.peek(0, rip, size)) return false;
  stack.skip(2 * size);
  Segment cs;
  const bool real = legacy_real(cpu);
  // AMD's processors read the outer stack pointer before they look at the code segment (measured).
  const bool early = !real && cpu.processor_model == ProcessorModel::amd && (selector & 3u) != s.cpl();
  if (early && (!stack.peek(release + size, ss_selector, size) || !stack.peek(release, sp, size))) return false;
  if (real) cs = real_segment(cpu, CS, static_cast<uint16_t>(selector));
  else if (!check_return_code(cpu, op, static_cast<uint16_t>(selector), cs)) return false;
  stack.skip(release);

  if (real || (cs.selector & 3u) == s.cpl()) {
    if (!check_target(cpu, cs, rip)) return false;
    stack.commit();
    enter(cpu, cs, rip);
    return true;
  }
  if (!early && (!stack.peek(0, sp, size) || !stack.peek(size, ss_selector, size))) return false;
  Segment ss;
  if (!check_return_stack(cpu, op, static_cast<uint16_t>(ss_selector), cs, ss) || !check_target(cpu, cs, rip)) return false;
  s.segment[SS] = ss;
  set_stack_pointer(cpu, ss, is_long_code(cpu, cs), sp + release);
  drop_inner_segments(cpu, cs.selector & 3);
  enter(cpu, cs, rip);
  return true;
}

bool exec_iret(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  const unsigned size = op.r0;
  if (legacy_real(cpu)) return iret_real(cpu, op, size);
  if ((s.rflags & flag::NT) != 0) return s.long_mode() ? raise_gp(cpu, 0) : iret_task(cpu, op);

  Stack stack(cpu, op);
  uint64_t rip = 0, selector = 0, image = 0, sp = 0, ss_selector = 0;
  // In this order: it decides which fault comes (measured: AMD and Intel alike).
  if (!stack.peek(2 * size, image, size) || !stack.peek(size, selector, size) || !stack.peek(0, rip, size)) return false;
  stack.skip(3 * size);
  const bool whole = s.mode64();  // 64-bit mode pops SS:RSP always
  const bool early = whole && cpu.processor_model == ProcessorModel::amd;
  if (early && (!stack.peek(size, ss_selector, size) || !stack.peek(0, sp, size))) return false;
  if (!s.long_mode() && size == 4 && (image & flag::VM) != 0 && s.cpl() == 0)
    return iret_to_vm86(cpu, stack, rip, selector, image);

  Segment cs;
  if (!check_return_code(cpu, op, static_cast<uint16_t>(selector), cs)) return false;
  const bool outer = (cs.selector & 3u) != s.cpl();
  const uint64_t flags = returned_flags(cpu, image, size);
  if (outer || whole) {
    if (!early && (!stack.peek(0, sp, size) || !stack.peek(size, ss_selector, size))) return false;
    Segment ss;
    if (!check_return_stack(cpu, op, static_cast<uint16_t>(ss_selector), cs, ss) || !check_target(cpu, cs, rip))
      return false;
    s.segment[SS] = ss;
    set_stack_pointer(cpu, ss, is_long_code(cpu, cs), sp);
    if (outer) drop_inner_segments(cpu, cs.selector & 3);
  } else {
    if (!check_target(cpu, cs, rip)) return false;
    stack.commit();
  }
  set_rflags(cpu, flags);
  s.nmi_blocked = false;
  enter(cpu, cs, rip);
  return true;
}

}  // namespace retrovisor::soft
