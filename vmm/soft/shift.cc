// ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD.
#include "vmm/soft/shift.h"

#include "vmm/soft/pick.h"

namespace retrovisor::soft {
namespace {

template <class T>
constexpr unsigned kCountMask = sizeof(T) == 8 ? 63 : 31;

template <Shift S, ProcessorModel U, class T, bool ByCl>
RV_HANDLER op_shift_r(SoftCpu* cpu, const Op* op) {
  const unsigned count = (ByCl ? get<uint8_t>(cpu, slot_of(RCX)) : static_cast<unsigned>(op->imm)) & kCountMask<T>;
  T a = get<T>(cpu, op->r1);
  if (count != 0) cpu->cc = shift_operand<S, U, !ByCl>(a, count, cpu->cc);
  set<T>(cpu, op->r1, a);  // a 32-bit destination is cleared above even for a count of zero
  RV_NEXT;
}

template <Shift S, ProcessorModel U, class T, class Ea, bool ByCl>
RV_HANDLER op_shift_m(SoftCpu* cpu, const Op* op) {
  const unsigned count = (ByCl ? get<uint8_t>(cpu, slot_of(RCX)) : static_cast<unsigned>(op->imm)) & kCountMask<T>;
  T a;
  const uint64_t at = Ea::linear(cpu, op, sizeof(T), Access::write);
  if (!load_for_write(cpu, op, at, a)) RV_FAULT;
  if (count != 0) {
    const uint32_t flags = shift_operand<S, U, false>(a, count, cpu->cc);
    if (!store(cpu, op, at, a)) RV_FAULT;
    cpu->cc = flags;
  }
  RV_NEXT;
}

template <class F>
Handler pick_shift(const Insn& insn, F f) {
  const auto rotate = [&]<Shift S>() {  // AMD's processors rotate as the model does
    if (insn.processor_model == ProcessorModel::intel) return f.template operator()<S, ProcessorModel::intel>();
    return f.template operator()<S, ProcessorModel::model>();
  };
  const auto shift = [&]<Shift S>() {
    return pick_flags(insn, [&]<ProcessorModel U>() -> Handler { return f.template operator()<S, U>(); });
  };
  switch (insn.reg_field()) {
    case 0: return rotate.template operator()<Shift::rol>();
    case 1: return rotate.template operator()<Shift::ror>();
    case 2: return rotate.template operator()<Shift::rcl>();
    case 3: return rotate.template operator()<Shift::rcr>();
    case 5: return shift.template operator()<Shift::shr>();
    case 7: return shift.template operator()<Shift::sar>();
    default: return shift.template operator()<Shift::shl>();  // 4, and 6 (SAL)
  }
}

template <bool ByCl>
Handler shift_handler(const Insn& insn, Op& op, unsigned size) {
  op.r1 = sized_slot(insn.rm, size, insn.rex);
  return pick_shift(insn, [&]<Shift S, ProcessorModel U>() {
    return pick_size(size, [&]<class T>() -> Handler {
      if (!insn.memory) return op_shift_r<S, U, T, ByCl>;
      return pick_ea(op, []<class Ea>() -> Handler { return op_shift_m<S, U, T, Ea, ByCl>; });
    });
  });
}

// The flags that SHLD and SHRD leave on AMD's processors (measured): OF as SHL of the destination alone, and ROR, do.
template <class T, bool Left>
uint32_t amd_double_flags(T dest, unsigned count, bool carry) {
  constexpr unsigned bits = sizeof(T) * 8;
  const bool sign = (dest >> (bits - 1) & 1) != 0;
  const bool overflow = Left ? (sign && count < bits) != carry : sign != ((dest >> (bits - 2) & 1) != 0);
  return cc_of_result(dest) | cc::AF | (carry ? cc::CF : 0) | (overflow ? cc::OF : 0);
}

// SHLD and SHRD. For 16-bit operands a count over 16 is undefined; the result then is that of shifting the 48 bits
// formed by destination, source, destination, as Intel's CPUs do. OF follows the sign change for all counts; AF is cleared.
// AMD's shift more of the source in instead, and clear CF (measured). Intel's (measured) set OF as a count of one would.
template <ProcessorModel U, class T, bool Left>
bool double_shift(T& dest, T source, unsigned count, uint32_t& flags) {
  constexpr unsigned bits = sizeof(T) * 8;
  if (count == 0) return false;
  const T before = dest;
  if constexpr (bits == 16 && U == ProcessorModel::amd) {
    if (count > bits) {
      const uint32_t twice = uint32_t{source} << 16 | source;
      dest = static_cast<T>(twice >> (Left ? 32 - count : count - 16));
      flags = amd_double_flags<T, Left>(dest, count, false);
      return true;
    }
  }
  bool carry;
  if constexpr (bits == 16) {
    if constexpr (Left) {
      const uint64_t wide = static_cast<uint64_t>(before) << 32 | static_cast<uint64_t>(source) << 16 | before;
      carry = (wide >> (48 - count) & 1) != 0;
      dest = static_cast<T>(wide >> (32 - count));
    } else {
      const uint64_t wide = static_cast<uint64_t>(before) << 32 | static_cast<uint64_t>(source) << 16 | before;
      carry = (wide >> (count - 1) & 1) != 0;
      dest = static_cast<T>(wide >> count);
    }
  } else if constexpr (Left) {
    carry = (before >> (bits - count) & 1) != 0;
    dest = static_cast<T>(before << count | source >> (bits - count));
  } else {
    carry = (before >> (count - 1) & 1) != 0;
    dest = static_cast<T>(before >> count | source << (bits - count));
  }
  if constexpr (U == ProcessorModel::amd) {
    flags = amd_double_flags<T, Left>(dest, count, carry);
  } else if constexpr (U == ProcessorModel::intel) {
    const bool next = Left ? (before >> (bits - 2) & 1) != 0 : (source & 1) != 0;
    const bool overflow = (before >> (bits - 1) & 1) != 0 ? !next : next;
    flags = cc_of_result(dest) | (carry ? cc::CF : 0) | (overflow ? cc::OF : 0);
  } else {
    flags = cc_of_result(dest) | (carry ? cc::CF : 0) | (((dest ^ before) >> (bits - 1) & 1) != 0 ? cc::OF : 0);
  }
  return true;
}

template <ProcessorModel U, class T, bool Left, bool ByCl>
RV_HANDLER op_double_r(SoftCpu* cpu, const Op* op) {
  const unsigned count = (ByCl ? get<uint8_t>(cpu, slot_of(RCX)) : static_cast<unsigned>(op->imm)) & kCountMask<T>;
  T a = get<T>(cpu, op->r1);
  uint32_t flags;
  if (double_shift<U, T, Left>(a, get<T>(cpu, op->r0), count, flags)) cpu->cc = flags;
  set<T>(cpu, op->r1, a);
  RV_NEXT;
}

template <ProcessorModel U, class T, bool Left, bool ByCl>
bool exec_double_m(SoftCpu& cpu, const Op& op) {
  const unsigned count = (ByCl ? get<uint8_t>(&cpu, slot_of(RCX)) : static_cast<unsigned>(op.imm)) & kCountMask<T>;
  const uint64_t at = operand_address(cpu, op, sizeof(T), Access::write);
  T a;
  if (!load_for_write(&cpu, &op, at, a)) return false;
  uint32_t flags;
  if (!double_shift<U, T, Left>(a, get<T>(&cpu, op.r0), count, flags)) return true;
  if (!store(&cpu, &op, at, a)) return false;
  cpu.cc = flags;
  return true;
}

template <bool Left, bool ByCl>
Handler double_handler(const Insn& insn) {
  return pick_size(insn.operand_size, [&]<class T>() -> Handler {
    if constexpr (sizeof(T) == 1) return nullptr;
    else {
      return pick_flags(insn, [&]<ProcessorModel U>() -> Handler {
        return insn.memory ? op_call<exec_double_m<U, T, Left, ByCl>> : op_double_r<U, T, Left, ByCl>;
      });
    }
  });
}

}  // namespace

Emit emit_shift(const Insn& insn, Op& op) {
  if (insn.lock) return Emit::unknown;
  if (insn.map == OpMap::map_0f) {
    switch (insn.opcode) {
      case 0xa4: return emit_as(op, double_handler<true, false>(insn));
      case 0xa5: return emit_as(op, double_handler<true, true>(insn));
      case 0xac: return emit_as(op, double_handler<false, false>(insn));
      case 0xad: return emit_as(op, double_handler<false, true>(insn));
      default: return Emit::unknown;
    }
  }
  if (insn.map != OpMap::one_byte) return Emit::unknown;
  const unsigned size = pair_size(insn);
  switch (insn.opcode) {
    case 0xc0: case 0xc1: return emit_as(op, shift_handler<false>(insn, op, size));
    case 0xd0: case 0xd1: op.imm = 1; return emit_as(op, shift_handler<false>(insn, op, size));
    case 0xd2: case 0xd3: return emit_as(op, shift_handler<true>(insn, op, size));
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
