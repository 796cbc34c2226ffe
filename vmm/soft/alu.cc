// ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NOT NEG, in all forms. (SDM 2, opcode map A-2)
#include "vmm/soft/alu.h"

#include "vmm/soft/pick.h"

namespace retrovisor::soft {
namespace {

constexpr bool writes(Alu o) { return o != Alu::cmp && o != Alu::test; }

template <Alu O, class T>
RV_HANDLER op_rr(SoftCpu* cpu, const Op* op) {  // r0 := r0 op r1
  T a = get<T>(cpu, op->r0);
  cpu->cc = alu<O>(a, get<T>(cpu, op->r1), cpu->cc);
  if constexpr (writes(O)) set<T>(cpu, op->r0, a);
  RV_NEXT;
}

// XOR r, r: the usual way to clear a register.
template <class T>
RV_HANDLER op_clear(SoftCpu* cpu, const Op* op) {
  cpu->cc = cc::ZF | cc::PF | 1 << 9;
  set<T>(cpu, op->r0, 0);
  RV_NEXT;
}

template <Alu O, class T>
RV_HANDLER op_ri(SoftCpu* cpu, const Op* op) {  // r0 := r0 op imm
  T a = get<T>(cpu, op->r0);
  cpu->cc = alu<O>(a, static_cast<T>(op->imm), cpu->cc);
  if constexpr (writes(O)) set<T>(cpu, op->r0, a);
  RV_NEXT;
}

template <Alu O, class T, class Ea>
RV_HANDLER op_rm(SoftCpu* cpu, const Op* op) {  // r0 := r0 op [mem]
  T b;
  if (!load(cpu, op, Ea::linear(cpu, op, sizeof(T), Access::read), b)) RV_FAULT;
  T a = get<T>(cpu, op->r0);
  cpu->cc = alu<O>(a, b, cpu->cc);
  if constexpr (writes(O)) set<T>(cpu, op->r0, a);
  RV_NEXT;
}

template <Alu O, class T, class Ea, bool Immediate>
RV_HANDLER op_mx(SoftCpu* cpu, const Op* op) {  // [mem] := [mem] op (imm or r0)
  T a;
  const T b = Immediate ? static_cast<T>(op->imm) : get<T>(cpu, op->r0);
  if constexpr (writes(O)) {
    const uint64_t at = Ea::linear(cpu, op, sizeof(T), Access::write);
    if (!load_for_write(cpu, op, at, a)) RV_FAULT;
    const uint32_t flags = alu<O>(a, b, cpu->cc);
    if (!store(cpu, op, at, a)) RV_FAULT;
    cpu->cc = flags;
  } else {
    if (!load(cpu, op, Ea::linear(cpu, op, sizeof(T), Access::read), a)) RV_FAULT;
    cpu->cc = alu<O>(a, b, cpu->cc);
  }
  RV_NEXT;
}

enum class Unary : uint8_t { inc, dec, not_, neg };

template <Unary U, class T>
[[gnu::always_inline]] inline uint32_t unary(T& a, uint32_t old) {
  if constexpr (U == Unary::inc) return inc(a, old);
  if constexpr (U == Unary::dec) return dec(a, old);
  if constexpr (U == Unary::neg) {
    const T b = a;
    a = 0;
    return alu<Alu::sub>(a, b, old);
  }
  a = static_cast<T>(~a);
  return old;
}

template <Unary U, class T>
RV_HANDLER op_unary_r(SoftCpu* cpu, const Op* op) {
  T a = get<T>(cpu, op->r1);
  cpu->cc = unary<U>(a, cpu->cc);
  set<T>(cpu, op->r1, a);
  RV_NEXT;
}

template <Unary U, class T, class Ea>
RV_HANDLER op_unary_m(SoftCpu* cpu, const Op* op) {
  T a;
  const uint64_t at = Ea::linear(cpu, op, sizeof(T), Access::write);
  if (!load_for_write(cpu, op, at, a)) RV_FAULT;
  const uint32_t flags = unary<U>(a, cpu->cc);
  if (!store(cpu, op, at, a)) RV_FAULT;
  cpu->cc = flags;
  RV_NEXT;
}

template <class F>
Handler pick_alu(unsigned o, F f) {
  switch (o) {
    case 0: return f.template operator()<Alu::add>();
    case 1: return f.template operator()<Alu::or_>();
    case 2: return f.template operator()<Alu::adc>();
    case 3: return f.template operator()<Alu::sbb>();
    case 4: return f.template operator()<Alu::and_>();
    case 5: return f.template operator()<Alu::sub>();
    case 6: return f.template operator()<Alu::xor_>();
    case 7: return f.template operator()<Alu::cmp>();
    default: return f.template operator()<Alu::test>();
  }
}

constexpr unsigned kTest = 8, kCmp = 7;

// The operand of ModRM.rm with an immediate.
Handler with_immediate(const Insn& insn, Op& op, unsigned o, unsigned size) {
  if (insn.memory)
    return pick_alu(o, [&]<Alu O>() {
      return pick_size(size, [&]<class T>() { return pick_ea(op, []<class Ea>() -> Handler { return op_mx<O, T, Ea, true>; }); });
    });
  op.r0 = sized_slot(insn.rm, size, insn.rex);
  return pick_alu(o, [&]<Alu O>() { return pick_size(size, []<class T>() -> Handler { return op_ri<O, T>; }); });
}

Handler with_register(const Insn& insn, Op& op, unsigned o, unsigned size, bool to_register) {
  const uint8_t reg = sized_slot(insn.reg, size, insn.rex);
  op.r0 = reg;
  if (insn.memory && to_register)
    return pick_alu(o, [&]<Alu O>() {
      return pick_size(size, [&]<class T>() { return pick_ea(op, []<class Ea>() -> Handler { return op_rm<O, T, Ea>; }); });
    });
  if (insn.memory)
    return pick_alu(o, [&]<Alu O>() {
      return pick_size(size, [&]<class T>() { return pick_ea(op, []<class Ea>() -> Handler { return op_mx<O, T, Ea, false>; }); });
    });
  const uint8_t rm = sized_slot(insn.rm, size, insn.rex);
  op.r0 = to_register ? reg : rm;
  op.r1 = to_register ? rm : reg;
  if (o == 6 && op.r0 == op.r1) return pick_size(size, []<class T>() -> Handler { return op_clear<T>; });
  return pick_alu(o, [&]<Alu O>() { return pick_size(size, []<class T>() -> Handler { return op_rr<O, T>; }); });
}

Handler unary_handler(const Insn& insn, Op& op, Unary u, unsigned size) {
  const auto pick_unary = [u](auto f) {
    switch (u) {
      case Unary::inc: return f.template operator()<Unary::inc>();
      case Unary::dec: return f.template operator()<Unary::dec>();
      case Unary::not_: return f.template operator()<Unary::not_>();
      default: return f.template operator()<Unary::neg>();
    }
  };
  if (insn.memory)
    return pick_unary([&]<Unary U>() {
      return pick_size(size, [&]<class T>() { return pick_ea(op, []<class Ea>() -> Handler { return op_unary_m<U, T, Ea>; }); });
    });
  op.r1 = sized_slot(insn.rm, size, insn.rex);
  return pick_unary([&]<Unary U>() { return pick_size(size, []<class T>() -> Handler { return op_unary_r<U, T>; }); });
}

}  // namespace

Emit emit_alu(const Insn& insn, Op& op) {
  if (insn.map != OpMap::one_byte) return Emit::unknown;
  const uint8_t o = insn.opcode;
  if (o < 0x40 && (o & 7) < 6) {
    const unsigned which = o >> 3;
    const unsigned size = pair_size(insn);
    if ((o & 7) >= 4) {  // AL or eAX with an immediate
      if (insn.lock) return Emit::unknown;
      op.r0 = slot_of(RAX);
      return emit_as(op, pick_alu(which, [&]<Alu O>() { return pick_size(size, []<class T>() -> Handler { return op_ri<O, T>; }); }));
    }
    const bool to_register = (o & 2) != 0;
    if (insn.lock && (!insn.memory || to_register || which == kCmp)) return Emit::unknown;
    return emit_as(op, with_register(insn, op, which, size, to_register));
  }
  const unsigned size = pair_size(insn);
  switch (o) {
    case 0x80: case 0x81: case 0x82: case 0x83:
      if (insn.lock && (!insn.memory || insn.reg_field() == kCmp)) return Emit::unknown;
      return emit_as(op, with_immediate(insn, op, insn.reg_field(), size));
    case 0x84: case 0x85:
      if (insn.lock) return Emit::unknown;
      return emit_as(op, with_register(insn, op, kTest, size, true));
    case 0xa8: case 0xa9:
      if (insn.lock) return Emit::unknown;
      op.r0 = slot_of(RAX);
      return emit_as(op, pick_size(size, []<class T>() -> Handler { return op_ri<Alu::test, T>; }));
    case 0xf6: case 0xf7:
      if (insn.lock && (!insn.memory || insn.reg_field() < 2)) return Emit::unknown;
      switch (insn.reg_field()) {
        case 0: case 1: return emit_as(op, with_immediate(insn, op, kTest, size));
        case 2: return emit_as(op, unary_handler(insn, op, Unary::not_, size));
        case 3: return emit_as(op, unary_handler(insn, op, Unary::neg, size));
        default: return Emit::unknown;
      }
    case 0xfe: case 0xff:
      if (insn.reg_field() > 1 || (insn.lock && !insn.memory)) return Emit::unknown;
      return emit_as(op, unary_handler(insn, op, insn.reg_field() == 0 ? Unary::inc : Unary::dec, size));
    default: break;
  }
  if (o >= 0x40 && o < 0x50) {  // INC, DEC of a register; REX prefixes in 64-bit mode never come here
    if (insn.lock) return Emit::unknown;
    op.r1 = slot_of(insn.reg);
    return emit_as(op, pick_size(insn.operand_size, [&]<class T>() -> Handler {
      return o < 0x48 ? op_unary_r<Unary::inc, T> : op_unary_r<Unary::dec, T>;
    }));
  }
  return Emit::unknown;
}

// The forms of emit_alu() that leave nothing but flags and touch no memory.
std::optional<Compare> compare_of(const Insn& insn) {
  if (insn.map != OpMap::one_byte || insn.memory || insn.lock) return std::nullopt;
  Compare out{.size = pair_size(insn)};
  switch (insn.opcode) {
    case 0x38: case 0x39: case 0x3a: case 0x3b: break;
    case 0x3c: case 0x3d: out.immediate = true; break;
    case 0x80: case 0x81: case 0x82: case 0x83:
      if (insn.reg_field() != kCmp) return std::nullopt;
      out.immediate = true;
      break;
    case 0x84: case 0x85: out.test = true; break;
    case 0xa8: case 0xa9: out.test = out.immediate = true; break;
    case 0xf6: case 0xf7:
      if (insn.reg_field() > 1) return std::nullopt;
      out.test = out.immediate = true;
      break;
    default: return std::nullopt;
  }
  if (out.size == 2) return std::nullopt;
  return out;
}

}  // namespace retrovisor::soft
