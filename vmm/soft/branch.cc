// Near branches: Jcc, JMP, CALL, RET, LOOPcc, JrCXZ. Flat modes have fast forms that go straight to the next block.
#include "vmm/soft/branch.h"

#include "vmm/soft/alu.h"
#include "vmm/soft/insn_facts.h"
#include "vmm/soft/pick.h"
#include "vmm/soft/stack.h"

namespace retrovisor::soft {
namespace {

// `Ip` is the width of the instruction pointer: uint64_t in 64-bit mode, uint32_t in flat 32-bit code.
template <class Ip>
[[gnu::always_inline]] inline void move_ip(SoftCpu* cpu, int64_t by) {
  cpu->s.rip = static_cast<Ip>(cpu->s.rip + static_cast<uint64_t>(by));
}

template <class Ip>
RV_HANDLER op_jmp(SoftCpu* cpu, const Op* op) {
  Block* self = block_of(op);
  move_ip<Ip>(cpu, self->target);
  RV_FOLLOW(self, 0);
}

template <unsigned C, class Ip>
RV_HANDLER op_jcc(SoftCpu* cpu, const Op* op) {
  Block* self = block_of(op);
  if (condition<C>(cpu->cc)) {
    move_ip<Ip>(cpu, self->target);
    RV_FOLLOW(self, 0);
  }
  move_ip<Ip>(cpu, self->size);
  RV_FOLLOW(self, 1);
}

// CMP or TEST with the Jcc behind it. The immediate, if any, is in disp.
template <Alu O, unsigned C, class T, bool Immediate>
RV_HANDLER op_compare_jcc(SoftCpu* cpu, const Op* op) {
  T a = get<T>(cpu, op->r0);
  const T b = Immediate ? static_cast<T>(op->disp) : get<T>(cpu, op->r1);
  const uint32_t flags = alu<O>(a, b, 0);
  cpu->cc = flags;
  Block* self = block_of(op);
  if (condition<C>(flags)) {
    move_ip<uint64_t>(cpu, self->target);
    RV_FOLLOW(self, 0);
  }
  move_ip<uint64_t>(cpu, self->size);
  RV_FOLLOW(self, 1);
}

// 64-bit mode near call and return.
RV_HANDLER op_call_rel(SoftCpu* cpu, const Op* op) {
  Block* self = block_of(op);
  const uint64_t rsp = cpu->s.gpr[RSP] - 8;
  if (!store<uint64_t>(cpu, op, rsp, cpu->s.rip + self->size)) RV_FAULT;
  cpu->s.gpr[RSP] = rsp;
  cpu->s.rip += static_cast<uint64_t>(self->target);
  RV_FOLLOW(self, 0);
}

RV_HANDLER op_ret(SoftCpu* cpu, const Op* op) {
  uint64_t target;
  if (!load(cpu, op, cpu->s.gpr[RSP], target)) RV_FAULT;
  if (__builtin_expect(!is_canonical(target), 0)) {
    raise_gp(*cpu, 0);
    RV_FAULT;
  }
  cpu->s.gpr[RSP] += 8 + static_cast<uint64_t>(op->imm);
  cpu->s.rip = target;
  RV_DISPATCH;
}

// CALL to where no code can be: #GP, but a fault of the stack goes before (measured: AMD and Intel alike). Intel's processors have
// written the return address by then; AMD's, and the model, have not.
bool refuse_call(SoftCpu& cpu, const Op& op, uint64_t back, unsigned size) {
  if (cpu.processor_model == ProcessorModel::intel) return poke(cpu, op, -static_cast<int64_t>(size), back, size) && raise_gp(cpu, 0);
  Op stack_op = op;
  stack_op.ea = SS;
  const uint64_t at = segment_address(cpu, SS, (cpu.s.gpr[RSP] - size) & sp_mask(cpu), size, Access::write);
  return probe_write(cpu, stack_op, at, size, cpu.s.cpl() == 3) && raise_gp(cpu, 0);
}

template <bool Call>
[[gnu::always_inline]] inline bool indirect(SoftCpu* cpu, const Op* op, uint64_t target) {
  if (__builtin_expect(!is_canonical(target), 0)) {
    return Call ? refuse_call(*cpu, *op, cpu->s.rip + op->ip_offset + op->length, 8) : raise_gp(*cpu, 0);
  }
  if constexpr (Call) {
    Op stack_op = *op;
    stack_op.ea = SS;
    const uint64_t rsp = cpu->s.gpr[RSP] - 8;
    const uint64_t back = cpu->s.rip + op->ip_offset + op->length;
    if (!store<uint64_t>(cpu, &stack_op, rsp, back)) return false;
    cpu->s.gpr[RSP] = rsp;
  }
  cpu->s.rip = target;
  return true;
}

template <bool Call>
RV_HANDLER op_indirect_r(SoftCpu* cpu, const Op* op) {
  if (!indirect<Call>(cpu, op, get<uint64_t>(cpu, op->r1))) RV_FAULT;
  RV_DISPATCH;
}

template <bool Call, class Ea>
RV_HANDLER op_indirect_m(SoftCpu* cpu, const Op* op) {
  uint64_t target;
  if (!load(cpu, op, Ea::linear(cpu, op, 8, Access::read), target)) RV_FAULT;
  if (!indirect<Call>(cpu, op, target)) RV_FAULT;
  RV_DISPATCH;
}

// --- any mode: through the run loop -----------------------------------------------------------------------------------

// Cuts `target` to the operand size. False: the code segment does not allow it.
bool allowed_target(const SoftCpu& cpu, uint64_t& target, unsigned operand_size) {
  if (operand_size == 2) target &= 0xffff;
  if (operand_size == 4) target &= 0xffffffff;
  return cpu.s.mode64() ? is_canonical(target) : target <= cpu.s.segment[CS].limit;
}

// Moves RIP to `target` if the code segment allows (SDM 2, JMP: #GP(0) beyond the limit or non-canonical).
bool jump_to(SoftCpu& cpu, uint64_t target, unsigned operand_size) {
  if (!allowed_target(cpu, target, operand_size)) return raise_gp(cpu, 0);
  cpu.s.rip = target;
  return true;
}

// op.scale holds the operand size of the slow forms that have no memory operand; r0 the condition or kind.
uint64_t relative_target(const SoftCpu& cpu, const Op& op) { return cpu.s.rip + op.length + static_cast<uint64_t>(op.imm); }

template <unsigned C>
bool exec_jcc(SoftCpu& cpu, const Op& op) {
  return condition<C>(cpu.cc) ? jump_to(cpu, relative_target(cpu, op), op.scale) : advance_rip(cpu, op);
}

bool exec_jmp(SoftCpu& cpu, const Op& op) { return jump_to(cpu, relative_target(cpu, op), op.scale); }

bool call_to(SoftCpu& cpu, const Op& op, uint64_t target, unsigned size) {
  const uint64_t back = (cpu.s.rip + op.length) & ip_mask(cpu);
  if (!allowed_target(cpu, target, size)) return refuse_call(cpu, op, back, size);
  if (!push(cpu, op, back, size)) return false;
  cpu.s.rip = target;
  return true;
}

bool exec_call(SoftCpu& cpu, const Op& op) { return call_to(cpu, op, relative_target(cpu, op), op.scale); }

bool exec_ret(SoftCpu& cpu, const Op& op) {
  uint64_t target;
  if (!peek(cpu, op, 0, target, op.scale)) return false;
  if (!jump_to(cpu, target, op.scale)) return false;
  move_sp(cpu, op.scale + op.imm);
  return true;
}

template <bool Call, bool Memory>
bool exec_indirect(SoftCpu& cpu, const Op& op) {
  // op.imm: operand size.
  const auto size = static_cast<unsigned>(op.imm);
  uint64_t target = 0;
  if constexpr (Memory) {
    const uint64_t at = operand_address(cpu, op, size, Access::read);
    uint16_t v16;
    uint32_t v32;
    if (size == 2) {
      if (!load(&cpu, &op, at, v16)) return false;
      target = v16;
    } else if (size == 4) {
      if (!load(&cpu, &op, at, v32)) return false;
      target = v32;
    } else if (!load(&cpu, &op, at, target)) {
      return false;
    }
  } else {
    target = get<uint64_t>(&cpu, op.r1);
  }
  return Call ? call_to(cpu, op, target, size) : jump_to(cpu, target, size);
}

// LOOPNE, LOOPE, LOOP, JrCXZ. op.disp: address size, op.scale: operand size.
template <unsigned Kind>
bool exec_loop(SoftCpu& cpu, const Op& op) {
  const unsigned bits = static_cast<unsigned>(op.disp) * 8;
  const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  uint64_t count = cpu.s.gpr[RCX] & mask;
  bool taken;
  if constexpr (Kind == 3) {
    taken = count == 0;
  } else {
    count = (count - 1) & mask;
    taken = count != 0;
    if constexpr (Kind == 0) taken = taken && (cpu.cc & cc::ZF) == 0;
    if constexpr (Kind == 1) taken = taken && (cpu.cc & cc::ZF) != 0;
  }
  if (!(taken ? jump_to(cpu, relative_target(cpu, op), op.scale) : advance_rip(cpu, op))) return false;
  if constexpr (Kind != 3) {
    if (bits == 16) set<uint16_t>(&cpu, slot_of(RCX), static_cast<uint16_t>(count));
    else if (bits == 32) set<uint32_t>(&cpu, slot_of(RCX), static_cast<uint32_t>(count));
    else cpu.s.gpr[RCX] = count;
  }
  return true;
}

Emit emit_conditional(const Insn& insn, Op& op) {
  const unsigned c = insn.opcode & 15;
  if (insn.mode == block_mode::code64)
    return emit_as(op, pick_condition(c, []<unsigned C>() -> Handler { return op_jcc<C, uint64_t>; }), Emit::branch);
  if (insn.flat && insn.operand_size == 4)
    return emit_as(op, pick_condition(c, []<unsigned C>() -> Handler { return op_jcc<C, uint32_t>; }), Emit::branch);
  op.scale = insn.operand_size;
  return emit_as(op, pick_condition(c, []<unsigned C>() -> Handler { return op_call_end<exec_jcc<C>>; }), Emit::end);
}

}  // namespace

RV_HANDLER op_fallthrough(SoftCpu* cpu, const Op* op) {
  Block* self = block_of(op);
  cpu->s.rip += self->size;
  if (__builtin_expect((self->mode & block_mode::flat) == 0, 0)) {
    cpu->s.rip &= ip_mask(*cpu);
    RV_LEAVE;
  }
  if ((self->mode & block_mode::code_mask) != block_mode::code64) cpu->s.rip &= 0xffffffff;
  RV_FOLLOW(self, 1);
}

bool fuses(const Insn& compare, const Insn& branch) {
  return branch.mode == block_mode::code64 && branch.flat && is_conditional(branch) && compare_of(compare).has_value();
}

void fuse_compare_branch(const Insn& before, const Insn& branch, Op& op) {
  const auto compare = compare_of(before);
  if (compare->immediate) op.disp = static_cast<int32_t>(op.imm);
  op.fn = pick_condition(branch.opcode & 15, [&]<unsigned C>() -> Handler {
    const auto by_size = [&]<class T>() -> Handler {
      if (compare->test) return compare->immediate ? op_compare_jcc<Alu::test, C, T, true> : op_compare_jcc<Alu::test, C, T, false>;
      return compare->immediate ? op_compare_jcc<Alu::cmp, C, T, true> : op_compare_jcc<Alu::cmp, C, T, false>;
    };
    if (compare->size == 1) return by_size.template operator()<uint8_t>();
    if (compare->size == 4) return by_size.template operator()<uint32_t>();
    return by_size.template operator()<uint64_t>();
  });
}

Emit emit_branch(const Insn& insn, Op& op) {
  if (insn.lock) return Emit::unknown;
  const bool code64 = insn.mode == block_mode::code64;
  if (insn.map == OpMap::map_0f) return insn.opcode >> 4 == 8 ? emit_conditional(insn, op) : Emit::unknown;
  if (insn.map != OpMap::one_byte) return Emit::unknown;
  switch (insn.opcode) {
    case 0xc2: case 0xc3:
      op.imm = insn.opcode == 0xc2 ? insn.imm & 0xffff : 0;
      op.ea = SS;
      op.scale = insn.operand_size;
      return emit_as(op, code64 ? op_ret : op_call_end<exec_ret>, Emit::end);
    case 0xe0: case 0xe1: case 0xe2: case 0xe3: {
      op.disp = insn.address_size;
      op.scale = insn.operand_size;
      static constexpr Handler kLoops[4] = {op_call_end<exec_loop<0>>, op_call_end<exec_loop<1>>, op_call_end<exec_loop<2>>,
                                            op_call_end<exec_loop<3>>};
      return emit_as(op, kLoops[insn.opcode & 3], Emit::end);
    }
    case 0xe8:
      op.ea = SS;
      op.scale = insn.operand_size;
      if (code64) return emit_as(op, op_call_rel, Emit::branch);
      return emit_as(op, op_call_end<exec_call>, Emit::end);
    case 0xe9: case 0xeb:
      if (code64) return emit_as(op, op_jmp<uint64_t>, Emit::branch);
      if (insn.flat && insn.operand_size == 4) return emit_as(op, op_jmp<uint32_t>, Emit::branch);
      op.scale = insn.operand_size;
      return emit_as(op, op_call_end<exec_jmp>, Emit::end);
    case 0xff:
      if (insn.reg_field() == 2 || insn.reg_field() == 4) {
        const bool call = insn.reg_field() == 2;
        if (!code64) {
          op.imm = insn.operand_size;
          if (insn.memory) return emit_as(op, call ? op_call_end<exec_indirect<true, true>> : op_call_end<exec_indirect<false, true>>, Emit::end);
          return emit_as(op, call ? op_call_end<exec_indirect<true, false>> : op_call_end<exec_indirect<false, false>>, Emit::end);
        }
        if (!insn.memory) return emit_as(op, call ? op_indirect_r<true> : op_indirect_r<false>, Emit::end);
        return emit_as(op, pick_ea(op, [&]<class Ea>() -> Handler { return call ? op_indirect_m<true, Ea> : op_indirect_m<false, Ea>; }), Emit::end);
      }
      return Emit::unknown;
    default: break;
  }
  if (insn.opcode >> 4 == 7) return emit_conditional(insn, op);
  return Emit::unknown;
}

}  // namespace retrovisor::soft
