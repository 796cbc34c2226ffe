#include "vmm/soft/exceptions.h"

#include "vmm/soft/memory.h"
#include "vmm/soft/segments.h"
#include "vmm/soft/soft_engine.h"
#include "vmm/soft/tasks.h"

namespace retrovisor::soft {

namespace {

struct Event {
  uint8_t vector = 0;
  EventType type = EventType::exception;
  bool has_error = false;
  uint32_t error = 0;
  uint64_t rip = 0;     // to push
  uint64_t rflags = 0;  // to push
};

bool is_software(const Event& e) { return e.type == EventType::software || e.type == EventType::software_int3; }

// Error code that names a gate of the IDT (SDM 3A 6.13).
uint32_t idt_error(const Event& e) { return e.vector * 8u + 2; }

// Through the interrupt vector table of real mode (SDM 3B 20.1.4).
bool deliver_real(SoftCpu& cpu, const Op& op, const Event& e) {
  CpuState& s = cpu.s;
  if (e.vector * 4u + 3 > s.idtr.limit) return raise_gp(cpu, idt_error(e));
  uint32_t entry = 0;
  if (!system_access(cpu, op, (s.idtr.base + e.vector * 4u) & 0xffffffff, &entry, 4, Access::read)) return false;
  Stack stack(cpu, op);
  if (!stack.push(e.rflags, 2) || !stack.push(s.segment[CS].selector, 2) || !stack.push(e.rip, 2)) return false;
  if ((entry & 0xffff) > s.segment[CS].limit) return raise_gp(cpu, 0);

  stack.commit();
  s.segment[CS] = real_segment(cpu, CS, static_cast<uint16_t>(entry >> 16));
  s.rip = entry & 0xffff;
  set_rflags(cpu, e.rflags & ~(flag::IF | flag::TF | flag::AC | flag::RF));
  mode_changed(cpu);
  return true;
}

// Checks of the code segment a gate leads to; `cs` gets its new privilege level as RPL. `inner`: the level changes.
bool check_gate_code(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& d, bool& inner) {
  if (is_null(selector)) return raise_gp(cpu, 0);
  if (!read_descriptor(cpu, op, selector, vec::GP, d)) return false;
  const unsigned cpl = cpu.s.cpl();
  if (!d.code() || d.dpl() > cpl) return raise_gp(cpu, selector_error(selector));
  if (!d.present()) return raise(cpu, vec::NP, selector_error(selector));
  inner = !d.conforming() && d.dpl() < cpl;
  return true;
}

// Through an IDT of 16-byte gates (SDM 3A 6.14).
bool deliver_long(SoftCpu& cpu, const Op& op, const Event& e) {
  CpuState& s = cpu.s;
  if (e.vector * 16u + 15 > s.idtr.limit) return raise_gp(cpu, idt_error(e));
  Descriptor gate;
  gate.linear = s.idtr.base + e.vector * 16u;
  if (!system_access(cpu, op, gate.linear, &gate.low, 8, Access::read) ||
      !system_access(cpu, op, gate.linear + 8, &gate.high, 8, Access::read)) {
    return false;
  }
  const uint32_t type = gate.type();
  if (!gate.system() || (type != sys::interrupt_gate32 && type != sys::trap_gate32)) return raise_gp(cpu, idt_error(e));
  if (is_software(e) && gate.dpl() < s.cpl()) return raise_gp(cpu, idt_error(e));
  if (!gate.present()) return raise(cpu, vec::NP, idt_error(e));

  const uint16_t selector = gate.gate_selector();
  Descriptor cs;
  bool inner = false;
  if (!check_gate_code(cpu, op, selector, cs, inner)) return false;
  // A handler of long mode is 64-bit code: L set, D clear.
  if ((cs.attributes() & (seg::L | seg::DB)) != seg::L) return raise_gp(cpu, selector_error(selector));
  const unsigned cpl = inner ? cs.dpl() : s.cpl();

  uint64_t rsp = s.gpr[RSP];
  const unsigned ist = static_cast<unsigned>(gate.low >> 32) & 7;
  if (ist != 0) {
    if (!read_long_stack(cpu, op, 0x1c + ist * 8, rsp)) return false;
  } else if (inner) {
    if (!read_long_stack(cpu, op, 4 + cpl * 8, rsp)) return false;
  }
  if (!is_canonical(gate.gate_offset64())) return raise_gp(cpu, 0);
  // The frame is aligned to 16 bytes and always holds SS:RSP (SDM 3A 6.14.2).
  const Segment none = null_segment(0);
  Stack stack(cpu, op, none, rsp & ~uint64_t{15}, true, inner, 0);
  if (!stack.push(s.segment[SS].selector, 8) || !stack.push(s.gpr[RSP], 8) || !stack.push(e.rflags, 8) ||
      !stack.push(s.segment[CS].selector, 8) || !stack.push(e.rip, 8) || (e.has_error && !stack.push(e.error, 8)) ||
      !set_accessed(cpu, op, cs)) {
    return false;
  }

  s.gpr[RSP] = stack.sp();
  s.segment[CS] = cs.segment(static_cast<uint16_t>((selector & 0xfffc) | cpl));
  // A change of level leaves SS null, its RPL the new level (SDM 3A 6.14.3).
  if (inner) s.segment[SS] = null_segment(static_cast<uint16_t>(cpl), cpl);
  s.rip = gate.gate_offset64();
  uint64_t clear = flag::TF | flag::NT | flag::RF | flag::VM;
  if (type == sys::interrupt_gate32) clear |= flag::IF;
  set_rflags(cpu, e.rflags & ~clear);
  mode_changed(cpu);
  return true;
}

// Through the IDT of protected and virtual-8086 mode (SDM 3A 6.12).
bool deliver_protected(SoftCpu& cpu, const Op& op, const Event& e) {
  CpuState& s = cpu.s;
  if (e.vector * 8u + 7 > s.idtr.limit) return raise_gp(cpu, idt_error(e));
  Descriptor gate;
  gate.linear = (s.idtr.base + e.vector * 8u) & 0xffffffff;
  if (!system_access(cpu, op, gate.linear, &gate.low, 8, Access::read)) return false;
  const uint32_t type = gate.type();
  const bool is_gate =
      gate.system() && (type == sys::task_gate || type == sys::interrupt_gate16 || type == sys::trap_gate16 ||
                        type == sys::interrupt_gate32 || type == sys::trap_gate32);
  if (!is_gate) return raise_gp(cpu, idt_error(e));
  if (is_software(e) && gate.dpl() < s.cpl()) return raise_gp(cpu, idt_error(e));
  if (!gate.present()) return raise(cpu, vec::NP, idt_error(e));
  if (type == sys::task_gate) {
    if (!task_gate(cpu, op, gate, TaskSwitch::call, e.rip, e.rflags)) return false;
    return (!e.has_error || push_task_error(cpu, op, e.error)) && report_task_trap(cpu);
  }

  const uint16_t selector = gate.gate_selector();
  Descriptor cs;
  bool inner = false;
  if (!check_gate_code(cpu, op, selector, cs, inner)) return false;
  const bool vm86 = s.vm86();
  // Out of virtual-8086 mode only to level 0 (SDM 3B 20.3.1.1).
  if (vm86 && (!inner || cs.dpl() != 0)) return raise_gp(cpu, selector_error(selector));
  const bool gate32 = (type & 8) != 0;
  const unsigned size = gate32 ? 4 : 2;
  const unsigned cpl = inner ? cs.dpl() : s.cpl();
  const uint64_t target = gate32 ? gate.gate_offset() : gate.gate_offset() & 0xffff;

  Segment ss = s.segment[SS];
  uint64_t sp = s.gpr[RSP];
  uint32_t stack_error = 0;
  if (inner) {
    uint16_t ss_selector = 0;
    if (!read_inner_stack(cpu, op, cpl, ss_selector, sp) || !check_stack_segment(cpu, op, ss_selector, cpl, vec::TS, ss))
      return false;
    stack_error = selector_error(ss_selector);
  }
  Stack stack(cpu, op, ss, sp, false, inner, stack_error);
  if (vm86) {
    for (const SegReg reg : {GS, FS, DS, ES}) {
      if (!stack.push(s.segment[reg].selector, size)) return false;
    }
  }
  if (inner && (!stack.push(s.segment[SS].selector, size) || !stack.push(s.gpr[RSP], size))) return false;
  if (!stack.push(e.rflags, size) || !stack.push(s.segment[CS].selector, size) || !stack.push(e.rip, size) ||
      (e.has_error && !stack.push(e.error, size))) {
    return false;
  }
  if (target > cs.limit()) return raise_gp(cpu, 0);
  if (!set_accessed(cpu, op, cs)) return false;

  if (inner) {
    s.segment[SS] = ss;
    s.gpr[RSP] = (ss.attributes & seg::DB) != 0 ? stack.sp() : (sp & 0xffff0000) | stack.sp();
  } else {
    stack.commit();
  }
  if (vm86) {
    for (const SegReg reg : {GS, FS, DS, ES}) s.segment[reg] = null_segment(0);
  }
  s.segment[CS] = cs.segment(static_cast<uint16_t>((selector & 0xfffc) | cpl));
  s.rip = target;
  uint64_t clear = flag::TF | flag::NT | flag::RF | flag::VM;
  if ((type & 1) == 0) clear |= flag::IF;  // interrupt gate, not trap gate
  set_rflags(cpu, e.rflags & ~clear);
  mode_changed(cpu);
  return true;
}

bool deliver(SoftCpu& cpu, const Op& op, const Event& e) {
  const CpuState& s = cpu.s;
  const bool done = !s.protected_mode() ? deliver_real(cpu, op, e)
                    : s.long_mode()     ? deliver_long(cpu, op, e)
                                        : deliver_protected(cpu, op, e);
  if (done) return true;
  // EXT: the fault came up while delivering something the program did not ask for (SDM 3A 6.13).
  if (!is_software(e) && cpu.exit == Exit::fault && cpu.fault.vector >= vec::TS && cpu.fault.vector <= vec::GP)
    cpu.fault.error |= 1;
  return false;
}

enum class Class : uint8_t { benign, contributory, page_fault };

// SDM 3A table 6-4.
Class class_of(uint8_t vector) {
  switch (vector) {
    case vec::DE: case vec::TS: case vec::NP: case vec::SS: case vec::GP: return Class::contributory;
    case vec::PF: return Class::page_fault;
    default: return Class::benign;
  }
}

// SDM 3A table 6-5.
bool makes_double_fault(uint8_t first, uint8_t second) {
  const Class a = class_of(first);
  const Class b = class_of(second);
  return (a == Class::contributory && b == Class::contributory) || (a == Class::page_fault && b != Class::benign);
}

// Whether the pushed image has RF set: for faults, so that the instruction does not hit its own breakpoint again. A #DB
// is a fault for instruction breakpoints, which leave RF to the handler, and for general detect (SDM 3B 17.3.1.1).
bool pushes_rf(const Fault& fault) {
  switch (fault.vector) {
    case vec::DB: return !fault.trap && (fault.address & dr6::BD) != 0;
    case vec::NMI: case vec::BP: case vec::OF: case vec::DF: case vec::MC: return false;
    default: return true;
  }
}

// What a fault leaves behind even if its handler is never reached.
void note_fault(SoftCpu& cpu, const Fault& fault) {
  if (fault.vector == vec::PF) cpu.s.cr2 = fault.address;
  if (fault.vector == vec::DB) note_debug_exception(cpu.s, fault.address);
}

// An exception whose handler cannot be entered.
void lose(SoftCpu& cpu, const Fault& fault) {
  const bool page_fault = fault.vector == vec::PF;
  cpu.engine->chain().push_back({false, fault.vector, fault.has_error, fault.error, cpu.s.rip, page_fault ? fault.address : 0});
  cpu.platform->journal.log(EventKind::exception_lost, fault.vector, fault.error, page_fault ? fault.address : 0);
}

void entered_handler(SoftCpu& cpu) {
  cpu.s.shadow = Shadow::none;
  cpu.s.activity = Activity::running;
  cpu.exit = Exit::lookup;
}

// The 8086 program's own handler of INT n, in virtual-8086 mode with CR4.VME (SDM 3B 20.3.3, methods 5 and 6).
bool redirect_vm86(SoftCpu& cpu, const Op& op, uint8_t vector, uint64_t next_rip) {
  CpuState& s = cpu.s;
  uint32_t entry = 0;
  if (!mem_access(cpu, op, vector * 4u, &entry, 4, Access::read)) return false;
  const uint64_t rflags = get_rflags(cpu);
  const bool virtual_if = (rflags & flag::IOPL) != flag::IOPL;
  uint64_t image = rflags;
  if (virtual_if) image = (rflags & ~flag::IF) | flag::IOPL | ((rflags & flag::VIF) != 0 ? flag::IF : 0);
  Stack stack(cpu, op);
  if (!stack.push(image, 2) || !stack.push(s.segment[CS].selector, 2) || !stack.push(next_rip, 2)) return false;
  stack.commit();
  s.segment[CS] = real_segment(cpu, CS, static_cast<uint16_t>(entry >> 16));
  s.rip = entry & 0xffff;
  set_rflags(cpu, rflags & ~(flag::TF | flag::NT | flag::RF | (virtual_if ? flag::VIF : flag::IF)));
  mode_changed(cpu);
  return true;
}

// Bit of the software interrupt redirection bitmap: 32 bytes just below the I/O permission bitmap (SDM 3B 20.3.2).
bool redirection_bit(SoftCpu& cpu, const Op& op, uint8_t vector, bool& set) {
  const CpuState& s = cpu.s;
  uint16_t io_base = 0;
  if ((s.tr.attributes & 8) == 0 || s.tr.limit < 0x67) return raise_gp(cpu, 0);
  if (!system_access(cpu, op, (s.tr.base + 0x66) & 0xffffffff, &io_base, 2, Access::read)) return false;
  const uint32_t offset = io_base - 32u + vector / 8;
  uint8_t byte = 0;
  if (io_base < 32 || offset > s.tr.limit) return raise_gp(cpu, 0);
  if (!system_access(cpu, op, (s.tr.base + offset) & 0xffffffff, &byte, 1, Access::read)) return false;
  set = (byte >> (vector % 8) & 1) != 0;
  return true;
}

bool deliver_next(SoftCpu& cpu) {
  const Op& op = kNoOp;
  // At most benign, contributory, page fault, double fault follow one another; the bound is for exceptions that raise
  // themselves again without being contributory (#AC on a misaligned user stack): then the newest is left for the
  // run loop, which sees that nothing retires.
  for (int depth = 0; depth < 8; ++depth) {
    const Fault first = cpu.fault;
    note_fault(cpu, first);
    Event e{first.vector, EventType::exception, first.has_error, first.error, cpu.s.rip, get_rflags(cpu)};
    if (pushes_rf(first)) e.rflags |= flag::RF;
    if (deliver(cpu, op, e)) {
      cpu.engine->chain().clear();
      entered_handler(cpu);
      cpu.platform->journal.log(EventKind::exception, first.vector, first.error, first.vector == vec::PF ? cpu.s.cr2 : 0);
      cpu.engine->tell(cpu, Observation::Kind::exception, e.rip, first.vector, 0, first.error);
      return true;
    }
    const Fault second = cpu.fault;
    lose(cpu, first);
    if (first.vector == vec::DF && class_of(second.vector) != Class::benign) {
      note_fault(cpu, second);
      lose(cpu, second);
      cpu.s.activity = Activity::shutdown;
      return false;
    }
    if (makes_double_fault(first.vector, second.vector)) {
      note_fault(cpu, second);
      lose(cpu, second);
      cpu.fault = {vec::DF, true, 0, 0, false};
    }
  }
  return true;
}

}  // namespace

void note_debug_exception(CpuState& s, uint64_t bits) {
  s.dr6 = (s.dr6 & ~uint64_t{15}) | (bits & dr6::writable);
  s.dr7 &= ~dr7::GD;
}

bool deliver_fault(SoftCpu& cpu) {
  cpu.engine->chain().clear();
  return deliver_next(cpu);
}

void raise_and_take_back(SoftCpu& cpu, uint8_t vector, uint32_t error) {
  const CpuState before = cpu.s;
  const uint64_t rflags = get_rflags(cpu);
  const Exit exit = cpu.exit;
  const Fault fault = cpu.fault;
  deliver(cpu, kNoOp, {vector, EventType::exception, true, error, before.rip, rflags | flag::RF});
  cpu.s = before;
  cpu.exit = exit;
  cpu.fault = fault;
  set_rflags(cpu, rflags);
  mode_changed(cpu);
}

bool deliver_interrupt(SoftCpu& cpu, uint8_t vector, EventType type) {
  const Op& op = kNoOp;
  const Event e{vector, type, false, 0, cpu.s.rip, get_rflags(cpu)};
  if (!deliver(cpu, op, e)) {
    cpu.engine->chain() = {{true, vector, false, 0, cpu.s.rip, 0}};
    return deliver_next(cpu);
  }
  entered_handler(cpu);
  return true;
}

bool software_interrupt(SoftCpu& cpu, const Op& op, uint8_t vector, EventType type, uint64_t next_rip) {
  const CpuState& s = cpu.s;
  cpu.event_delivered = true;
  const uint64_t rflags = get_rflags(cpu);
  if (s.vm86() && type == EventType::software) {
    const bool iopl3 = (rflags & flag::IOPL) == flag::IOPL;
    if ((s.cr4 & cr4::VME) != 0) {
      bool monitor = false;
      if (!redirection_bit(cpu, op, vector, monitor)) return false;
      if (!monitor) return redirect_vm86(cpu, op, vector, next_rip);
    }
    if (!iopl3) return raise_gp(cpu, 0);
  }
  return deliver(cpu, op, {vector, type, false, 0, next_rip, rflags});
}

}  // namespace retrovisor::soft
