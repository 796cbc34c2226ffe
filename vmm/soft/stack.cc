// PUSH POP PUSHA POPA ENTER LEAVE.
#include "vmm/soft/stack.h"

#include "vmm/soft/pick.h"

namespace retrovisor::soft {

bool peek(SoftCpu& cpu, const Op& op, int64_t offset, uint64_t& value, unsigned size) {
  Op stack_op = op;
  stack_op.ea = SS;
  const uint64_t at = segment_address(cpu, SS, (cpu.s.gpr[RSP] + static_cast<uint64_t>(offset)) & sp_mask(cpu), size, Access::read);
  value = 0;
  if (size == 8) return load(&cpu, &stack_op, at, value);
  if (size == 4) {
    uint32_t v = 0;
    if (!load(&cpu, &stack_op, at, v)) return false;
    value = v;
    return true;
  }
  uint16_t v = 0;
  if (!load(&cpu, &stack_op, at, v)) return false;
  value = v;
  return true;
}

bool poke(SoftCpu& cpu, const Op& op, int64_t offset, uint64_t value, unsigned size) {
  Op stack_op = op;
  stack_op.ea = SS;
  const uint64_t at = segment_address(cpu, SS, (cpu.s.gpr[RSP] + static_cast<uint64_t>(offset)) & sp_mask(cpu), size, Access::write);
  if (size == 8) return store<uint64_t>(&cpu, &stack_op, at, value);
  if (size == 4) return store<uint32_t>(&cpu, &stack_op, at, static_cast<uint32_t>(value));
  return store<uint16_t>(&cpu, &stack_op, at, static_cast<uint16_t>(value));
}

namespace {

// 64-bit mode, 64-bit operands.
RV_HANDLER op_push_r(SoftCpu* cpu, const Op* op) {
  const uint64_t rsp = cpu->s.gpr[RSP] - 8;
  if (!store<uint64_t>(cpu, op, rsp, get<uint64_t>(cpu, op->r1))) RV_FAULT;
  cpu->s.gpr[RSP] = rsp;
  RV_NEXT;
}

RV_HANDLER op_push_i(SoftCpu* cpu, const Op* op) {
  const uint64_t rsp = cpu->s.gpr[RSP] - 8;
  if (!store<uint64_t>(cpu, op, rsp, static_cast<uint64_t>(op->imm))) RV_FAULT;
  cpu->s.gpr[RSP] = rsp;
  RV_NEXT;
}

RV_HANDLER op_pop_r(SoftCpu* cpu, const Op* op) {
  uint64_t v;
  if (!load(cpu, op, cpu->s.gpr[RSP], v)) RV_FAULT;
  cpu->s.gpr[RSP] += 8;
  set<uint64_t>(cpu, op->r1, v);
  RV_NEXT;
}

RV_HANDLER op_leave(SoftCpu* cpu, const Op* op) {
  uint64_t v;
  const uint64_t rbp = cpu->s.gpr[RBP];
  if (!load(cpu, op, rbp, v)) RV_FAULT;
  cpu->s.gpr[RSP] = rbp + 8;
  cpu->s.gpr[RBP] = v;
  RV_NEXT;
}

void set_sized(SoftCpu& cpu, unsigned slot, uint64_t v, unsigned size) {
  if (size == 2) set<uint16_t>(&cpu, slot, static_cast<uint16_t>(v));
  else if (size == 4) set<uint32_t>(&cpu, slot, static_cast<uint32_t>(v));
  else set<uint64_t>(&cpu, slot, v);
}

uint64_t get_sized(const SoftCpu& cpu, unsigned slot, unsigned size) {
  const auto v = get<uint64_t>(&cpu, slot);
  return size == 8 ? v : v & ((uint64_t{1} << (size * 8)) - 1);
}

// Any mode. `r0`: operand size.
bool exec_push_r(SoftCpu& cpu, const Op& op) { return push(cpu, op, get_sized(cpu, op.r1, op.r0), op.r0); }
bool exec_push_i(SoftCpu& cpu, const Op& op) { return push(cpu, op, static_cast<uint64_t>(op.imm), op.r0); }

bool exec_pop_r(SoftCpu& cpu, const Op& op) {
  uint64_t v;
  if (!peek(cpu, op, 0, v, op.r0)) return false;
  move_sp(cpu, op.r0);
  set_sized(cpu, op.r1, v, op.r0);
  return true;
}

bool load_sized(SoftCpu& cpu, const Op& op, uint64_t at, uint64_t& v, unsigned size) {
  if (size == 8) return load(&cpu, &op, at, v);
  uint32_t v32 = 0;
  uint16_t v16 = 0;
  if (size == 4 ? !load(&cpu, &op, at, v32) : !load(&cpu, &op, at, v16)) return false;
  v = size == 4 ? v32 : v16;
  return true;
}

bool exec_push_m(SoftCpu& cpu, const Op& op) {
  uint64_t v;
  if (!load_sized(cpu, op, operand_address(cpu, op, op.r0, Access::read), v, op.r0)) return false;
  return push(cpu, op, v, op.r0);
}

// POP to memory: the address is computed with the incremented stack pointer (SDM 2, POP).
bool exec_pop_m(SoftCpu& cpu, const Op& op) {
  uint64_t v;
  if (!peek(cpu, op, 0, v, op.r0)) return false;
  const uint64_t before = cpu.s.gpr[RSP];
  move_sp(cpu, op.r0);
  const uint64_t at = operand_address(cpu, op, op.r0, Access::write);
  bool ok;
  if (op.r0 == 8) ok = store<uint64_t>(&cpu, &op, at, v);
  else if (op.r0 == 4) ok = store<uint32_t>(&cpu, &op, at, static_cast<uint32_t>(v));
  else ok = store<uint16_t>(&cpu, &op, at, static_cast<uint16_t>(v));
  if (!ok) cpu.s.gpr[RSP] = before;
  return ok;
}

bool exec_pusha(SoftCpu& cpu, const Op& op) {
  const unsigned size = op.r0;
  // One after the other (SDM 2, PUSHA): what was stored before a fault is stored again, the same, after it.
  for (unsigned i = 0; i < 8; ++i)
    if (!poke(cpu, op, -static_cast<int64_t>(size * (i + 1)), get_sized(cpu, slot_of(i), size), size)) return false;
  move_sp(cpu, -static_cast<int64_t>(size * 8));
  return true;
}

bool exec_popa(SoftCpu& cpu, const Op& op) {
  const unsigned size = op.r0;
  // One after the other: what was loaded before a fault stays (measured: AMD and Intel alike).
  for (unsigned i = 0; i < 8; ++i) {
    uint64_t v;
    if (!peek(cpu, op, static_cast<int64_t>(size * i), v, size)) return false;
    if (7 - i != RSP) set_sized(cpu, slot_of(7 - i), v, size);
  }
  move_sp(cpu, static_cast<int64_t>(size * 8));
  return true;
}

// ENTER: r0: operand size, imm: frame size, disp: nesting level.
bool exec_enter(SoftCpu& cpu, const Op& op) {
  const unsigned size = op.r0;
  const unsigned level = static_cast<unsigned>(op.disp) & 31;
  const uint64_t mask = sp_mask(cpu);
  int64_t at = -static_cast<int64_t>(size);
  if (!poke(cpu, op, at, get_sized(cpu, slot_of(RBP), size), size)) return false;
  // The frame pointer is all of the stack pointer, even if only its lower half moves (SDM 2, ENTER: FrameTemp).
  const uint64_t frame = (cpu.s.gpr[RSP] & ~mask) | ((cpu.s.gpr[RSP] - size) & mask);
  if (level > 0) {
    for (unsigned i = 1; i < level; ++i) {
      uint64_t v;
      const uint64_t from = (cpu.s.gpr[RBP] - uint64_t{i} * size) & mask;
      const auto offset = static_cast<int64_t>(from - cpu.s.gpr[RSP]);
      if (!peek(cpu, op, offset, v, size)) return false;
      at -= size;
      if (!poke(cpu, op, at, v, size)) return false;
    }
    at -= size;
    if (!poke(cpu, op, at, frame, size)) return false;
  }
  // SDM 2, ENTER: a write at the final stack pointer is checked too.
  Op stack_op = op;
  stack_op.ea = SS;
  const uint64_t last = (cpu.s.gpr[RSP] + static_cast<uint64_t>(at - op.imm)) & mask;
  if (!probe_write(cpu, stack_op, segment_address(cpu, SS, last, size, Access::write), size, cpu.s.cpl() == 3)) return false;
  move_sp(cpu, at - op.imm);
  set_sized(cpu, slot_of(RBP), size == 8 ? frame : (size == 4 ? frame & 0xffffffff : frame & 0xffff), size);
  return true;
}

bool exec_leave(SoftCpu& cpu, const Op& op) {
  const uint64_t mask = sp_mask(cpu);
  const uint64_t before = cpu.s.gpr[RSP];
  cpu.s.gpr[RSP] = (before & ~mask) | (cpu.s.gpr[RBP] & mask);
  uint64_t v;
  if (!peek(cpu, op, 0, v, op.r0)) {
    cpu.s.gpr[RSP] = before;
    return false;
  }
  move_sp(cpu, op.r0);
  set_sized(cpu, slot_of(RBP), v, op.r0);
  return true;
}

}  // namespace

Emit emit_stack(const Insn& insn, Op& op) {
  if (insn.map != OpMap::one_byte || insn.lock) return Emit::unknown;
  const unsigned size = insn.operand_size;
  const bool fast = insn.mode == block_mode::code64 && size == 8;
  const uint8_t o = insn.opcode;
  const auto sized = [&](Handler h) {
    op.r0 = static_cast<uint8_t>(size);
    return emit_as(op, h);
  };
  if (o >= 0x50 && o < 0x60) {
    op.r1 = slot_of(insn.reg);
    if (fast) {
      op.ea = SS;
      return emit_as(op, o < 0x58 ? op_push_r : op_pop_r);
    }
    return sized(o < 0x58 ? op_call<exec_push_r> : op_call<exec_pop_r>);
  }
  switch (o) {
    case 0x60: return sized(op_call<exec_pusha>);
    case 0x61: return sized(op_call<exec_popa>);
    case 0x68: case 0x6a:
      if (fast) {
        op.ea = SS;
        return emit_as(op, op_push_i);
      }
      return sized(op_call<exec_push_i>);
    case 0x8f:
      if (insn.reg_field() != 0) return Emit::unknown;
      if (insn.memory) return sized(op_call<exec_pop_m>);
      if (fast) {
        op.ea = SS;
        return emit_as(op, op_pop_r);
      }
      return sized(op_call<exec_pop_r>);
    case 0xc8:
      op.disp = insn.imm2;
      op.imm = insn.imm & 0xffff;
      return sized(op_call<exec_enter>);
    case 0xc9:
      if (fast) {
        op.ea = SS;
        return emit_as(op, op_leave);
      }
      return sized(op_call<exec_leave>);
    case 0xff:
      if (insn.reg_field() != 6) return Emit::unknown;
      if (insn.memory) return sized(op_call<exec_push_m>);
      if (fast) {
        op.ea = SS;
        return emit_as(op, op_push_r);
      }
      return sized(op_call<exec_push_r>);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
