// Instructions that load, store and inspect segment registers and descriptor tables.
#include "vmm/soft/segment_ops.h"

#include "vmm/soft/memory.h"
#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

bool is_register(const Op& op) { return (op.ea & kRegisterOperand) != 0; }

bool read_rm16(SoftCpu& cpu, const Op& op, uint16_t& out) {
  if (!is_register(op)) return load_operand(cpu, op, out);
  out = get<uint16_t>(&cpu, op.r1);
  return true;
}

// 16 bits to memory; a register is written with the operand size, zero-extended.
bool write_rm(SoftCpu& cpu, const Op& op, uint64_t value) {
  if (!is_register(op)) return store_operand(cpu, op, static_cast<uint16_t>(value));
  set_sized(cpu, op.r1, op.r0, value);
  return true;
}

void set_zf(SoftCpu& cpu, bool zf) { cpu.cc = zf ? cpu.cc | cc::ZF : cpu.cc & ~cc::ZF; }

// Instructions on descriptors do not exist in real and virtual-8086 mode.
bool require_protected(SoftCpu& cpu) { return (cpu.s.protected_mode() && !cpu.s.vm86()) || raise_ud(cpu); }

// CR4.UMIP takes SGDT, SIDT, SLDT, SMSW and STR away from user mode (SDM 3A 2.5).
bool allowed_by_umip(SoftCpu& cpu) {
  return (cpu.s.cr4 & cr4::UMIP) == 0 || cpu.s.cpl() == 0 || raise_gp(cpu, 0);
}

void finish_load(SoftCpu& cpu, SegReg reg, const Segment& segment) {
  commit_segment(cpu, reg, segment);
  if (reg == SS) start_shadow(cpu, Shadow::debug);
}

// What LAR, LSL, VERR and VERW share: finds a descriptor the program may know of. `visible` false: ZF is to be cleared.
bool inspect(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& d, bool& visible) {
  visible = false;
  if (is_null(selector)) return true;
  switch (find_descriptor(cpu, op, selector, d)) {
    case Lookup::outside: return true;
    case Lookup::fault: return false;
    case Lookup::found: break;
  }
  const unsigned rpl = selector & 3;
  visible = d.conforming() || (d.dpl() >= cpu.s.cpl() && d.dpl() >= rpl);
  return true;
}

// System descriptor types LAR and LSL know (SDM 2 tables 3-53, 3-55).
bool known_to_lar(const SoftCpu& cpu, uint32_t type) {
  constexpr uint32_t legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
  constexpr uint32_t wide = 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12;
  return ((cpu.s.long_mode() ? wide : legacy) >> type & 1) != 0;
}
bool known_to_lsl(const SoftCpu& cpu, uint32_t type) {
  constexpr uint32_t legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
  constexpr uint32_t wide = 1 << 2 | 1 << 9 | 1 << 11;
  return ((cpu.s.long_mode() ? wide : legacy) >> type & 1) != 0;
}

bool store_table(SoftCpu& cpu, const Op& op, const DescriptorTable& table) {
  if (!allowed_by_umip(cpu)) return false;
  // All 32 bits of the base are stored at operand size 16, too, as every processor since the 386 does.
  const unsigned size = cpu.s.mode64() ? 8 : 4;
  const uint64_t wrap = cpu.s.mode64() ? UINT64_MAX : 0xffffffff;
  uint16_t limit = table.limit;
  uint64_t base = table.base;
  const uint64_t linear = operand_address(cpu, op, size + 2, Access::write);
  return probe_write(cpu, op, linear, size + 2, cpu.s.cpl() == 3) && mem_access(cpu, op, linear, &limit, 2, Access::write) &&
         mem_access(cpu, op, (linear + 2) & wrap, &base, size, Access::write);
}

bool load_table(SoftCpu& cpu, const Op& op, DescriptorTable& table) {
  if (!require_ring0(cpu)) return false;
  const bool wide = cpu.s.mode64();
  const unsigned size = wide ? 8 : 4;
  const uint64_t linear = operand_address(cpu, op, size + 2, Access::read);
  uint16_t limit = 0;
  uint64_t base = 0;
  if (!mem_access(cpu, op, linear, &limit, 2, Access::read) ||
      !mem_access(cpu, op, wide ? linear + 2 : (linear + 2) & 0xffffffff, &base, size, Access::read)) {
    return false;
  }
  if (wide && !is_canonical(base)) return raise_gp(cpu, 0);
  if (!wide && op.r0 == 2) base &= 0xffffff;  // operand size 16 loads 24 bits (SDM 2 "LGDT")
  table = {base, limit};
  return advance_rip(cpu, op);
}

}  // namespace

bool exec_mov_from_sreg(SoftCpu& cpu, const Op& op) { return write_rm(cpu, op, segment_of(cpu, op).selector); }

bool exec_mov_to_sreg(SoftCpu& cpu, const Op& op) {
  const auto reg = static_cast<SegReg>(op.imm);
  uint16_t selector = 0;
  Segment segment;
  if (!read_rm16(cpu, op, selector) || !check_segment_load(cpu, op, reg, selector, segment)) return false;
  finish_load(cpu, reg, segment);
  return advance_rip(cpu, op);
}

bool exec_push_sreg(SoftCpu& cpu, const Op& op) {
  Stack stack(cpu, op);
  const uint64_t selector = segment_of(cpu, op).selector;
  if (op.r0 == 4 && cpu.processor_model != ProcessorModel::amd) {
    // At operand size 32 only 16 bits are written: "all recent Intel Core and Intel Atom processors" (SDM 2 "PUSH"). AMD's write
    // all, with zeros (measured).
    stack.skip(static_cast<uint64_t>(-4));
    if (!stack.overwrite(selector, 2)) return false;
  } else if (!stack.push(selector, op.r0)) {
    return false;
  }
  stack.commit();
  return true;
}

bool exec_pop_sreg(SoftCpu& cpu, const Op& op) {
  const auto reg = static_cast<SegReg>(op.imm);
  Stack stack(cpu, op);
  uint64_t value = 0;
  Segment segment;
  if (!stack.pop(value, op.r0) || !check_segment_load(cpu, op, reg, static_cast<uint16_t>(value), segment)) return false;
  stack.commit();
  finish_load(cpu, reg, segment);
  return advance_rip(cpu, op);
}

bool exec_load_far_pointer(SoftCpu& cpu, const Op& op) {
  const auto reg = static_cast<SegReg>(op.imm);
  const unsigned size = op.r0;
  uint64_t offset = 0;
  uint16_t selector = 0;
  Segment segment;
  if (!load_far_operand(cpu, op, selector, offset) || !check_segment_load(cpu, op, reg, selector, segment)) return false;
  commit_segment(cpu, reg, segment);
  set_sized(cpu, op.r1, size, offset);
  return advance_rip(cpu, op);
}

bool exec_sldt(SoftCpu& cpu, const Op& op) {
  return require_protected(cpu) && allowed_by_umip(cpu) && write_rm(cpu, op, cpu.s.ldtr.selector);
}

bool exec_str(SoftCpu& cpu, const Op& op) {
  return require_protected(cpu) && allowed_by_umip(cpu) && write_rm(cpu, op, cpu.s.tr.selector);
}

bool exec_lldt(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  if (!require_protected(cpu) || !require_ring0(cpu) || !read_rm16(cpu, op, selector)) return false;
  if (is_null(selector)) {
    cpu.s.ldtr = null_segment(selector);
    return advance_rip(cpu, op);
  }
  if ((selector & 4) != 0) return raise_gp(cpu, selector_error(selector));
  Descriptor d;
  if (!read_descriptor(cpu, op, selector, vec::GP, d)) return false;
  if (!d.system() || d.type() != sys::ldt) return raise_gp(cpu, selector_error(selector));
  if (!d.present()) return raise(cpu, vec::NP, selector_error(selector));
  if (cpu.s.long_mode()) {
    if (!read_upper_half(cpu, op, selector, vec::GP, d)) return false;
    if (!is_canonical(d.base64())) return raise_gp(cpu, selector_error(selector));
  }
  cpu.s.ldtr = d.segment(selector);
  cpu.s.ldtr.base = d.base64();
  return advance_rip(cpu, op);
}

bool exec_ltr(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  if (!require_protected(cpu) || !require_ring0(cpu) || !read_rm16(cpu, op, selector)) return false;
  if (is_null(selector)) return raise_gp(cpu, 0);
  if ((selector & 4) != 0) return raise_gp(cpu, selector_error(selector));
  Descriptor d;
  if (!read_descriptor(cpu, op, selector, vec::GP, d)) return false;
  const bool available = d.system() && (d.type() == sys::tss32 || (d.type() == sys::tss16 && !cpu.s.long_mode()));
  if (!available) return raise_gp(cpu, selector_error(selector));
  if (!d.present()) return raise(cpu, vec::NP, selector_error(selector));
  if (cpu.s.long_mode()) {
    if (!read_upper_half(cpu, op, selector, vec::GP, d)) return false;
    if (!is_canonical(d.base64())) return raise_gp(cpu, selector_error(selector));
  }
  if (!set_busy(cpu, op, d, true)) return false;
  cpu.s.tr = d.segment(selector);
  cpu.s.tr.base = d.base64();
  return advance_rip(cpu, op);
}

bool exec_verr(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  Descriptor d;
  bool visible = false;
  if (!require_protected(cpu) || !read_rm16(cpu, op, selector) || !inspect(cpu, op, selector, d, visible)) return false;
  set_zf(cpu, visible && d.readable());
  return true;
}

bool exec_verw(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  Descriptor d;
  bool visible = false;
  if (!require_protected(cpu) || !read_rm16(cpu, op, selector) || !inspect(cpu, op, selector, d, visible)) return false;
  set_zf(cpu, visible && d.writable_data());
  return true;
}

bool exec_lar(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  Descriptor d;
  bool visible = false;
  if (!require_protected(cpu) || !read_rm16(cpu, op, selector) || !inspect(cpu, op, selector, d, visible)) return false;
  visible = visible && (!d.system() || known_to_lar(cpu, d.type()));
  if (visible) {
    // Bits 16-19 are called undefined (SDM 2 "LAR"); processors leave the limit's high bits there (measured).
    const uint64_t rights = d.low >> 32 & 0x00ffff00;
    set_sized(cpu, static_cast<unsigned>(op.imm), op.r0, rights);
  }
  set_zf(cpu, visible);
  return true;
}

bool exec_lsl(SoftCpu& cpu, const Op& op) {
  uint16_t selector = 0;
  Descriptor d;
  bool visible = false;
  if (!require_protected(cpu) || !read_rm16(cpu, op, selector) || !inspect(cpu, op, selector, d, visible)) return false;
  visible = visible && (!d.system() || known_to_lsl(cpu, d.type()));
  if (visible) set_sized(cpu, static_cast<unsigned>(op.imm), op.r0, d.limit());
  set_zf(cpu, visible);
  return true;
}

bool exec_arpl(SoftCpu& cpu, const Op& op) {
  if (!require_protected(cpu)) return false;
  const unsigned wanted = get<uint16_t>(&cpu, static_cast<unsigned>(op.imm)) & 3;
  uint16_t selector = 0;
  if (!read_rm16(cpu, op, selector)) return false;
  const bool raised = (selector & 3u) < wanted;
  if (raised) {  // a selector that stays as it is is not written (SDM 2 "ARPL")
    selector = static_cast<uint16_t>((selector & ~3u) | wanted);
    if (is_register(op)) set<uint16_t>(&cpu, op.r1, selector);
    else if (!store_operand(cpu, op, selector)) return false;
  }
  set_zf(cpu, raised);
  return true;
}

bool exec_sgdt(SoftCpu& cpu, const Op& op) { return store_table(cpu, op, cpu.s.gdtr); }
bool exec_sidt(SoftCpu& cpu, const Op& op) { return store_table(cpu, op, cpu.s.idtr); }
bool exec_lgdt(SoftCpu& cpu, const Op& op) { return load_table(cpu, op, cpu.s.gdtr); }
bool exec_lidt(SoftCpu& cpu, const Op& op) { return load_table(cpu, op, cpu.s.idtr); }

}  // namespace retrovisor::soft
