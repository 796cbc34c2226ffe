// MOV LEA MOVZX MOVSX MOVSXD XCHG CMOVcc SETcc BSWAP XLAT, sign extensions, flag moves and no-operations.
#include "vmm/soft/move.h"

#include "vmm/soft/pick.h"

namespace retrovisor::soft {
namespace {

template <class T>
RV_HANDLER op_mov_rr(SoftCpu* cpu, const Op* op) {
  set<T>(cpu, op->r0, get<T>(cpu, op->r1));
  RV_NEXT;
}

template <class T>
RV_HANDLER op_mov_ri(SoftCpu* cpu, const Op* op) {
  set<T>(cpu, op->r0, static_cast<T>(op->imm));
  RV_NEXT;
}

template <class T, class Ea>
RV_HANDLER op_mov_rm(SoftCpu* cpu, const Op* op) {
  T v;
  if (!load(cpu, op, Ea::linear(cpu, op, sizeof(T), Access::read), v)) RV_FAULT;
  set<T>(cpu, op->r0, v);
  RV_NEXT;
}

template <class T, class Ea>
RV_HANDLER op_mov_mr(SoftCpu* cpu, const Op* op) {
  if (!store<T>(cpu, op, Ea::linear(cpu, op, sizeof(T), Access::write), get<T>(cpu, op->r0))) RV_FAULT;
  RV_NEXT;
}

template <class T, class Ea>
RV_HANDLER op_mov_mi(SoftCpu* cpu, const Op* op) {
  if (!store<T>(cpu, op, Ea::linear(cpu, op, sizeof(T), Access::write), static_cast<T>(op->imm))) RV_FAULT;
  RV_NEXT;
}

// MOV with an absolute offset in the instruction (A0-A3); imm: the offset, r1: address size.
template <class T, bool Store>
bool exec_moffs(SoftCpu& cpu, const Op& op) {
  const auto offset = static_cast<uint64_t>(op.imm);
  const auto segment = static_cast<SegReg>(op.ea & ea::seg_mask);
  if constexpr (Store) {
    return store<T>(&cpu, &op, segment_address(cpu, segment, offset, sizeof(T), Access::write), get<T>(&cpu, slot_of(RAX)));
  } else {
    T v;
    if (!load(&cpu, &op, segment_address(cpu, segment, offset, sizeof(T), Access::read), v)) return false;
    set<T>(&cpu, slot_of(RAX), v);
    return true;
  }
}

template <class T, class Ea>
RV_HANDLER op_lea(SoftCpu* cpu, const Op* op) {
  if constexpr (std::is_same_v<Ea, EaBase>) {
    set<T>(cpu, op->r0, static_cast<T>(EaBase::linear(cpu, op, 0, Access::read)));
  } else {
    set<T>(cpu, op->r0, static_cast<T>(effective_offset(*cpu, *op)));
  }
  RV_NEXT;
}

// 64-bit addresses with an index; a segment does not count.
template <class T>
RV_HANDLER op_lea_indexed(SoftCpu* cpu, const Op* op) {
  const uint64_t v = get<uint64_t>(cpu, op->base) + (get<uint64_t>(cpu, op->index) << op->scale) +
                     static_cast<uint64_t>(static_cast<int64_t>(op->disp));
  set<T>(cpu, op->r0, static_cast<T>(v));
  RV_NEXT;
}

template <class To, class From>
RV_HANDLER op_extend_r(SoftCpu* cpu, const Op* op) {
  set<To>(cpu, op->r0, static_cast<To>(get<From>(cpu, op->r1)));
  RV_NEXT;
}

template <class To, class From, class Ea>
RV_HANDLER op_extend_m(SoftCpu* cpu, const Op* op) {
  From v;
  if (!load(cpu, op, Ea::linear(cpu, op, sizeof(From), Access::read), v)) RV_FAULT;
  set<To>(cpu, op->r0, static_cast<To>(v));
  RV_NEXT;
}

template <class T>
RV_HANDLER op_xchg_rr(SoftCpu* cpu, const Op* op) {
  const T a = get<T>(cpu, op->r0);
  set<T>(cpu, op->r0, get<T>(cpu, op->r1));
  set<T>(cpu, op->r1, a);
  RV_NEXT;
}

template <class T, class Ea>
RV_HANDLER op_xchg_rm(SoftCpu* cpu, const Op* op) {
  T v;
  const uint64_t at = Ea::linear(cpu, op, sizeof(T), Access::write);
  if (!load_for_write(cpu, op, at, v)) RV_FAULT;
  if (!store<T>(cpu, op, at, get<T>(cpu, op->r0))) RV_FAULT;
  set<T>(cpu, op->r0, v);
  RV_NEXT;
}

// CMOVcc: the source is read, and a 32-bit destination cleared above, whatever the condition.
template <unsigned C, class T>
RV_HANDLER op_cmov_rr(SoftCpu* cpu, const Op* op) {
  const T v = condition<C>(cpu->cc) ? get<T>(cpu, op->r1) : get<T>(cpu, op->r0);
  set<T>(cpu, op->r0, v);
  RV_NEXT;
}

template <unsigned C, class T, class Ea>
RV_HANDLER op_cmov_rm(SoftCpu* cpu, const Op* op) {
  T v;
  if (!load(cpu, op, Ea::linear(cpu, op, sizeof(T), Access::read), v)) RV_FAULT;
  if (!condition<C>(cpu->cc)) v = get<T>(cpu, op->r0);
  set<T>(cpu, op->r0, v);
  RV_NEXT;
}

template <unsigned C>
RV_HANDLER op_setcc_r(SoftCpu* cpu, const Op* op) {
  set<uint8_t>(cpu, op->r1, condition<C>(cpu->cc) ? 1 : 0);
  RV_NEXT;
}

template <unsigned C, class Ea>
RV_HANDLER op_setcc_m(SoftCpu* cpu, const Op* op) {
  if (!store<uint8_t>(cpu, op, Ea::linear(cpu, op, 1, Access::write), condition<C>(cpu->cc) ? 1 : 0)) RV_FAULT;
  RV_NEXT;
}

RV_HANDLER op_nop([[maybe_unused]] SoftCpu* cpu, const Op* op) { RV_NEXT; }

template <class T>
RV_HANDLER op_cbw(SoftCpu* cpu, const Op* op) {  // CBW CWDE CDQE: to T from half of it
  using Half = std::conditional_t<sizeof(T) == 2, int8_t, std::conditional_t<sizeof(T) == 4, int16_t, int32_t>>;
  set<T>(cpu, slot_of(RAX), static_cast<T>(get<Half>(cpu, slot_of(RAX))));
  RV_NEXT;
}

template <class T>
RV_HANDLER op_cwd(SoftCpu* cpu, const Op* op) {  // CWD CDQ CQO
  using Signed = std::make_signed_t<T>;
  set<T>(cpu, slot_of(RDX), get<Signed>(cpu, slot_of(RAX)) < 0 ? static_cast<T>(~T{0}) : T{0});
  RV_NEXT;
}

template <class T>
RV_HANDLER op_bswap(SoftCpu* cpu, const Op* op) {
  if constexpr (sizeof(T) == 8) set<T>(cpu, op->r1, __builtin_bswap64(get<T>(cpu, op->r1)));
  else if constexpr (sizeof(T) == 4) set<T>(cpu, op->r1, __builtin_bswap32(get<T>(cpu, op->r1)));
  else set<T>(cpu, op->r1, 0);  // undefined for 16 bits; CPUs give zero
  RV_NEXT;
}

bool exec_xlat(SoftCpu& cpu, const Op& op) {
  uint64_t offset = cpu.s.gpr[RBX] + (cpu.s.gpr[RAX] & 0xff);
  if (op.r0 == 2) offset &= 0xffff;
  if (op.r0 == 4) offset &= 0xffffffff;
  uint8_t v;
  if (!load(&cpu, &op, segment_address(cpu, static_cast<SegReg>(op.ea & ea::seg_mask), offset, 1, Access::read), v)) return false;
  set<uint8_t>(&cpu, slot_of(RAX), v);
  return true;
}

// No cache to flush; faults like a load.
bool exec_clflush(SoftCpu& cpu, const Op& op) {
  uint8_t v;
  return load_operand(cpu, op, v);
}

enum class FlagOp : uint8_t { clc, stc, cmc, cld, std_ };
template <FlagOp F>
RV_HANDLER op_flag(SoftCpu* cpu, const Op* op) {
  if constexpr (F == FlagOp::clc) cpu->cc &= ~cc::CF;
  if constexpr (F == FlagOp::stc) cpu->cc |= cc::CF;
  if constexpr (F == FlagOp::cmc) cpu->cc ^= cc::CF;
  if constexpr (F == FlagOp::cld) cpu->s.rflags &= ~flag::DF;
  if constexpr (F == FlagOp::std_) cpu->s.rflags |= flag::DF;
  RV_NEXT;
}

RV_HANDLER op_lahf(SoftCpu* cpu, const Op* op) {
  set<uint8_t>(cpu, slot_of(RAX) + 1, static_cast<uint8_t>(flags_of_cc(cpu->cc) | 2));
  RV_NEXT;
}
RV_HANDLER op_sahf(SoftCpu* cpu, const Op* op) {
  const uint32_t of = cpu->cc & cc::OF;
  cpu->cc = (cc_of_flags(get<uint8_t>(cpu, slot_of(RAX) + 1)) & ~cc::OF) | of;
  RV_NEXT;
}
RV_HANDLER op_salc(SoftCpu* cpu, const Op* op) {
  set<uint8_t>(cpu, slot_of(RAX), (cpu->cc & cc::CF) != 0 ? 0xff : 0);
  RV_NEXT;
}

template <class From>
Handler extend_handler(const Insn& insn, Op& op) {
  op.r1 = sized_slot(insn.rm, sizeof(From), insn.rex);
  return pick_size(insn.operand_size, [&]<class T>() -> Handler {
    using To = std::conditional_t<std::is_signed_v<From>, std::make_signed_t<T>, T>;
    if (!insn.memory) return op_extend_r<To, From>;
    return pick_ea(op, []<class Ea>() -> Handler { return op_extend_m<To, From, Ea>; });
  });
}

Emit emit_move_0f(const Insn& insn, Op& op) {
  const uint8_t o = insn.opcode;
  if (insn.lock) return Emit::unknown;
  const unsigned c = o & 15;
  if (o >> 4 == 4) {
    return emit_as(op, pick_condition(c, [&]<unsigned C>() -> Handler {
      return pick_size(insn.operand_size, [&]<class T>() -> Handler {
        if (!insn.memory) return op_cmov_rr<C, T>;
        return pick_ea(op, []<class Ea>() -> Handler { return op_cmov_rm<C, T, Ea>; });
      });
    }));
  }
  if (o >> 4 == 9) {
    op.r1 = byte_slot(insn.rm, insn.rex);
    return emit_as(op, pick_condition(c, [&]<unsigned C>() -> Handler {
      if (!insn.memory) return op_setcc_r<C>;
      return pick_ea(op, []<class Ea>() -> Handler { return op_setcc_m<C, Ea>; });
    }));
  }
  if (o >= 0xc8 && o <= 0xcf) {
    op.r1 = slot_of(insn.reg);
    return emit_as(op, pick_size(insn.operand_size, []<class T>() -> Handler { return op_bswap<T>; }));
  }
  switch (o) {
    case 0xb6: return emit_as(op, extend_handler<uint8_t>(insn, op));
    case 0xb7: return emit_as(op, extend_handler<uint16_t>(insn, op));
    case 0xbe: return emit_as(op, extend_handler<int8_t>(insn, op));
    case 0xbf: return emit_as(op, extend_handler<int16_t>(insn, op));
    case 0x0d:  // PREFETCHW and its kin: hints
      return insn.memory ? emit_as(op, op_nop) : Emit::unknown;
    case 0x18: case 0x19: case 0x1a: case 0x1b: case 0x1c: case 0x1d: case 0x1e: case 0x1f:  // hints (SDM 2, NOP)
      return emit_as(op, op_nop);
    case 0xae:  // CLFLUSH: no cache to flush. (66 0F AE /7 is CLFLUSHOPT, not in the model.)
      if (insn.memory && insn.reg_field() == 7 && insn.rep == 0 && !insn.prefix66) {
        return emit_as(op, op_call<exec_clflush>);
      }
      return Emit::unknown;
    default: return Emit::unknown;
  }
}

}  // namespace

Emit emit_move(const Insn& insn, Op& op) {
  if (insn.map == OpMap::map_0f) return emit_move_0f(insn, op);
  if (insn.map != OpMap::one_byte) return Emit::unknown;
  const uint8_t o = insn.opcode;
  const unsigned size = pair_size(insn);
  if (o == 0x86 || o == 0x87) {  // XCHG: locked by itself with memory
    if (insn.lock && !insn.memory) return Emit::unknown;
    op.r0 = sized_slot(insn.reg, size, insn.rex);
    op.r1 = sized_slot(insn.rm, size, insn.rex);
    return emit_as(op, pick_size(size, [&]<class T>() -> Handler {
      if (!insn.memory) return op_xchg_rr<T>;
      return pick_ea(op, []<class Ea>() -> Handler { return op_xchg_rm<T, Ea>; });
    }));
  }
  if (insn.lock) return Emit::unknown;
  if (o >= 0x90 && o <= 0x97) {
    if (insn.reg == RAX) return emit_as(op, op_nop);  // NOP, PAUSE
    op.r0 = slot_of(RAX);
    op.r1 = slot_of(insn.reg);
    return emit_as(op, pick_size(insn.operand_size, []<class T>() -> Handler { return op_xchg_rr<T>; }));
  }
  if (o >= 0xb0 && o <= 0xbf) {
    const unsigned s = o < 0xb8 ? 1 : insn.operand_size;
    op.r0 = sized_slot(insn.reg, s, insn.rex);
    return emit_as(op, pick_size(s, []<class T>() -> Handler { return op_mov_ri<T>; }));
  }
  switch (o) {
    case 0x63:  // MOVSXD; ARPL elsewhere
      if (insn.mode != block_mode::code64) return Emit::unknown;
      if (insn.operand_size == 2) return emit_as(op, extend_handler<int16_t>(insn, op));
      return emit_as(op, extend_handler<int32_t>(insn, op));
    case 0x88: case 0x89: case 0x8a: case 0x8b: {
      const uint8_t reg = sized_slot(insn.reg, size, insn.rex);
      const bool to_register = (o & 2) != 0;
      op.r0 = reg;
      if (insn.memory)
        return emit_as(op, pick_size(size, [&]<class T>() {
          return pick_ea(op, [&]<class Ea>() -> Handler { return to_register ? op_mov_rm<T, Ea> : op_mov_mr<T, Ea>; });
        }));
      const uint8_t rm = sized_slot(insn.rm, size, insn.rex);
      op.r0 = to_register ? reg : rm;
      op.r1 = to_register ? rm : reg;
      return emit_as(op, pick_size(size, []<class T>() -> Handler { return op_mov_rr<T>; }));
    }
    case 0x8d:
      if (!insn.memory) return Emit::unknown;
      return emit_as(op, pick_size(size, [&]<class T>() -> Handler {
        if ((op.ea & ea::wide) == 0 && insn.address_size == 8) return op.index == kZeroSlot ? op_lea<T, EaBase> : op_lea_indexed<T>;
        return op_lea<T, EaSlow>;
      }));
    case 0x98: return emit_as(op, pick_size(insn.operand_size, []<class T>() -> Handler {
      if constexpr (sizeof(T) == 1) return nullptr; else return op_cbw<T>;
    }));
    case 0x99: return emit_as(op, pick_size(insn.operand_size, []<class T>() -> Handler { return op_cwd<T>; }));
    case 0x9e: return emit_as(op, op_sahf);
    case 0x9f: return emit_as(op, op_lahf);
    case 0xa0: case 0xa1: case 0xa2: case 0xa3: {
      op.imm = insn.disp;
      const bool is_store = (o & 2) != 0;
      return emit_as(op, pick_size(size, [&]<class T>() -> Handler {
        return is_store ? op_call<exec_moffs<T, true>> : op_call<exec_moffs<T, false>>;
      }));
    }
    case 0xc6: case 0xc7:
      if (insn.reg_field() != 0) return Emit::unknown;
      if (insn.memory)
        return emit_as(op, pick_size(size, [&]<class T>() { return pick_ea(op, []<class Ea>() -> Handler { return op_mov_mi<T, Ea>; }); }));
      op.r0 = sized_slot(insn.rm, size, insn.rex);
      return emit_as(op, pick_size(size, []<class T>() -> Handler { return op_mov_ri<T>; }));
    case 0xd6: return insn.mode == block_mode::code64 ? Emit::unknown : emit_as(op, op_salc);
    case 0xd7: {
      // DS unless overridden; the decoder knows of no memory operand here.
      const unsigned segment = insn.segment_override == kNoRegister ? static_cast<unsigned>(DS) : insn.segment_override;
      op.ea = static_cast<uint8_t>((op.ea & ~ea::seg_mask) | segment);
      op.r0 = insn.address_size;
      return emit_as(op, op_call<exec_xlat>);
    }
    case 0xf5: return emit_as(op, op_flag<FlagOp::cmc>);
    case 0xf8: return emit_as(op, op_flag<FlagOp::clc>);
    case 0xf9: return emit_as(op, op_flag<FlagOp::stc>);
    case 0xfc: return emit_as(op, op_flag<FlagOp::cld>);
    case 0xfd: return emit_as(op, op_flag<FlagOp::std_>);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
