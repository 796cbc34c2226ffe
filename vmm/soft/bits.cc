// BT BTS BTR BTC, BSF BSR, XADD, CMPXCHG, CMPXCHG8B CMPXCHG16B, BOUND.
#include "vmm/soft/bits.h"

#include "vmm/soft/pick.h"

namespace retrovisor::soft {
namespace {

enum class Bit : uint8_t { test, set, reset, complement };

template <Bit B, class T>
T apply(T v, unsigned bit) {
  const T mask = static_cast<T>(T{1} << bit);
  if constexpr (B == Bit::set) return static_cast<T>(v | mask);
  if constexpr (B == Bit::reset) return static_cast<T>(v & ~mask);
  if constexpr (B == Bit::complement) return static_cast<T>(v ^ mask);
  return v;
}

void set_carry(SoftCpu& cpu, bool carry) { cpu.cc = (cpu.cc & ~cc::CF) | (carry ? cc::CF : 0); }  // the others stay

template <Bit B, class T, bool Immediate>
RV_HANDLER op_bit_r(SoftCpu* cpu, const Op* op) {
  const unsigned bit = static_cast<unsigned>(Immediate ? static_cast<T>(op->imm) : get<T>(cpu, op->r0)) % (sizeof(T) * 8);
  const T v = get<T>(cpu, op->r1);
  set_carry(*cpu, (v >> bit & 1) != 0);
  if constexpr (B != Bit::test) set<T>(cpu, op->r1, apply<B>(v, bit));
  RV_NEXT;
}

// With memory and a register the bit number is signed and reaches beyond the operand (SDM 2, BT).
template <Bit B, class T, bool Immediate>
bool exec_bit_m(SoftCpu& cpu, const Op& op) {
  constexpr unsigned bits = sizeof(T) * 8;
  uint64_t offset = effective_offset(cpu, op);
  unsigned bit;
  if constexpr (Immediate) {
    bit = static_cast<unsigned>(op.imm) % bits;
  } else {
    const auto number = static_cast<int64_t>(static_cast<std::make_signed_t<T>>(get<T>(&cpu, op.r0)));
    bit = static_cast<unsigned>(number & (bits - 1));
    offset += static_cast<uint64_t>((number >> (bits == 64 ? 6 : bits == 32 ? 5 : 4)) * static_cast<int64_t>(sizeof(T)));
    const unsigned size = op.ea >> ea::size_shift & ea::size_mask;
    if (size == 0) offset &= 0xffff;
    if (size == 1) offset &= 0xffffffff;
  }
  const Access access = B == Bit::test ? Access::read : Access::write;
  const uint64_t at = segment_address(cpu, static_cast<SegReg>(op.ea & ea::seg_mask), offset, sizeof(T), access);
  T v;
  if constexpr (B == Bit::test) {
    if (!load(&cpu, &op, at, v)) return false;
  } else {
    if (!load_for_write(&cpu, &op, at, v)) return false;
    if (!store(&cpu, &op, at, apply<B>(v, bit))) return false;
  }
  set_carry(cpu, (v >> bit & 1) != 0);
  return true;
}

template <bool Immediate>
Handler bit_handler(const Insn& insn, unsigned which) {
  return pick_size(insn.operand_size, [&]<class T>() -> Handler {
    if constexpr (sizeof(T) == 1) return nullptr;
    else {
      switch (which & 3) {
        case 0: return insn.memory ? op_call<exec_bit_m<Bit::test, T, Immediate>> : op_bit_r<Bit::test, T, Immediate>;
        case 1: return insn.memory ? op_call<exec_bit_m<Bit::set, T, Immediate>> : op_bit_r<Bit::set, T, Immediate>;
        case 2: return insn.memory ? op_call<exec_bit_m<Bit::reset, T, Immediate>> : op_bit_r<Bit::reset, T, Immediate>;
        default: return insn.memory ? op_call<exec_bit_m<Bit::complement, T, Immediate>> : op_bit_r<Bit::complement, T, Immediate>;
      }
    }
  });
}

// BSF and BSR: with a zero source the destination stays (as CPUs do) and ZF is set. The other flags, undefined, are
// those of testing the source. On AMD's and Intel's processors PF is that of the bit number, or of zero, and the others are
// clear; Zen 3 leaves all of them alone (measured).
template <ProcessorModel U, class T, bool Reverse>
void scan(SoftCpu* cpu, const Op* op, T v) {
  if constexpr (U == ProcessorModel::amd_zen3) cpu->cc = (cpu->cc & ~cc::ZF) | (v == 0 ? cc::ZF : 0);
  else cpu->cc = cc_of_result(v);
  if (v == 0) return;
  const auto wide = static_cast<uint64_t>(v);
  const auto bit = static_cast<T>(Reverse ? 63 - __builtin_clzll(wide) : __builtin_ctzll(wide));
  set<T>(cpu, op->r0, bit);
  if constexpr (U == ProcessorModel::amd || U == ProcessorModel::intel) cpu->cc = cc_of_result(bit) & ~cc::ZF;
}
template <ProcessorModel U, class T, bool Reverse>
RV_HANDLER op_scan_r(SoftCpu* cpu, const Op* op) {
  scan<U, T, Reverse>(cpu, op, get<T>(cpu, op->r1));
  RV_NEXT;
}
template <ProcessorModel U, class T, bool Reverse>
bool exec_scan_m(SoftCpu& cpu, const Op& op) {
  T v;
  if (!load_operand(cpu, op, v)) return false;
  scan<U, T, Reverse>(&cpu, &op, v);
  return true;
}

template <class T>
RV_HANDLER op_xadd_r(SoftCpu* cpu, const Op* op) {
  T a = get<T>(cpu, op->r1);
  const T b = get<T>(cpu, op->r0);
  const T before = a;
  cpu->cc = alu<Alu::add>(a, b, 0);
  set<T>(cpu, op->r0, before);
  set<T>(cpu, op->r1, a);
  RV_NEXT;
}
template <class T, class Ea>
RV_HANDLER op_xadd_m(SoftCpu* cpu, const Op* op) {
  T a;
  const uint64_t at = Ea::linear(cpu, op, sizeof(T), Access::write);
  if (!load_for_write(cpu, op, at, a)) RV_FAULT;
  const T before = a;
  const uint32_t flags = alu<Alu::add>(a, get<T>(cpu, op->r0), 0);
  if (!store(cpu, op, at, a)) RV_FAULT;
  cpu->cc = flags;
  set<T>(cpu, op->r0, before);
  RV_NEXT;
}

// CMPXCHG: the destination is written either way (SDM 2, CMPXCHG), which matters for faults and A/D bits only.
template <class T>
RV_HANDLER op_cmpxchg_r(SoftCpu* cpu, const Op* op) {
  T acc = get<T>(cpu, slot_of(RAX));
  const T dest = get<T>(cpu, op->r1);
  cpu->cc = alu<Alu::cmp>(acc, dest, 0);
  if (acc == dest) set<T>(cpu, op->r1, get<T>(cpu, op->r0));
  else set<T>(cpu, slot_of(RAX), dest);
  RV_NEXT;
}
template <class T, class Ea>
RV_HANDLER op_cmpxchg_m(SoftCpu* cpu, const Op* op) {
  T dest;
  const uint64_t at = Ea::linear(cpu, op, sizeof(T), Access::write);
  if (!load_for_write(cpu, op, at, dest)) RV_FAULT;
  T acc = get<T>(cpu, slot_of(RAX));
  const uint32_t flags = alu<Alu::cmp>(acc, dest, 0);
  if (!store<T>(cpu, op, at, acc == dest ? get<T>(cpu, op->r0) : dest)) RV_FAULT;
  cpu->cc = flags;
  if (acc != dest) set<T>(cpu, slot_of(RAX), dest);
  RV_NEXT;
}

template <class Half>
bool exec_cmpxchg_wide(SoftCpu& cpu, const Op& op) {
  struct Pair {
    Half low, high;
  };
  const uint64_t at = operand_address(cpu, op, sizeof(Pair), Access::write);
  if constexpr (sizeof(Half) == 8) {
    if (!cpu.address_fault && (at & 15) != 0) return raise_gp(cpu, 0);  // SDM 2, CMPXCHG16B
  }
  Pair v;
  if (!load_for_write(&cpu, &op, at, v)) return false;
  const Pair expected{get<Half>(&cpu, slot_of(RAX)), get<Half>(&cpu, slot_of(RDX))};
  const bool equal = v.low == expected.low && v.high == expected.high;
  const Pair out = equal ? Pair{get<Half>(&cpu, slot_of(RBX)), get<Half>(&cpu, slot_of(RCX))} : v;
  if (!store(&cpu, &op, at, out)) return false;
  cpu.cc = (cpu.cc & ~cc::ZF) | (equal ? cc::ZF : 0);
  if (!equal) {
    set<Half>(&cpu, slot_of(RAX), v.low);
    set<Half>(&cpu, slot_of(RDX), v.high);
  }
  return true;
}

template <class T>
bool exec_bound(SoftCpu& cpu, const Op& op) {
  // Each bound by itself: alignment checks look at their size, not at the pair's (SDM 3A table 6-7).
  T lower, upper;
  if (!load(&cpu, &op, part_address(cpu, op, 0, sizeof(T), Access::read), lower) ||
      !load(&cpu, &op, part_address(cpu, op, sizeof(T), sizeof(T), Access::read), upper)) {
    return false;
  }
  const T index = get<T>(&cpu, op.r0);
  return index < lower || index > upper ? raise(cpu, vec::BR) : true;
}

}  // namespace

Emit emit_bits(const Insn& insn, Op& op) {
  if (insn.map == OpMap::one_byte) {
    if (insn.opcode != 0x62 || !insn.memory || insn.lock || insn.mode == block_mode::code64) return Emit::unknown;
    return emit_as(op, insn.operand_size == 2 ? op_call<exec_bound<int16_t>> : op_call<exec_bound<int32_t>>);
  }
  if (insn.map != OpMap::map_0f) return Emit::unknown;
  const auto sized = [&](unsigned size) {
    op.r0 = sized_slot(insn.reg, size, insn.rex);
    op.r1 = sized_slot(insn.rm, size, insn.rex);
    return size;
  };
  const unsigned pair = (insn.opcode & 1) == 0 ? 1 : insn.operand_size;
  switch (insn.opcode) {
    case 0xa3: case 0xab: case 0xb3: case 0xbb:
      if (insn.lock && (!insn.memory || insn.opcode == 0xa3)) return Emit::unknown;
      return emit_as(op, bit_handler<false>(insn, insn.opcode >> 3));
    case 0xba:
      if (insn.reg_field() < 4 || (insn.lock && (!insn.memory || insn.reg_field() == 4))) return Emit::unknown;
      return emit_as(op, bit_handler<true>(insn, insn.reg_field()));
    case 0xbc: case 0xbd: {
      // TZCNT and LZCNT are not in the model: F3 is ignored, as on CPUs without them.
      if (insn.lock) return Emit::unknown;
      const bool reverse = insn.opcode == 0xbd;
      return emit_as(op, pick_size(insn.operand_size, [&]<class T>() -> Handler {
        const auto handler = [&]<ProcessorModel U>() -> Handler {
          if (!insn.memory) return reverse ? op_scan_r<U, T, true> : op_scan_r<U, T, false>;
          return reverse ? op_call<exec_scan_m<U, T, true>> : op_call<exec_scan_m<U, T, false>>;
        };
        return insn.scans_keep_flags ? handler.template operator()<ProcessorModel::amd_zen3>() : pick_flags(insn, handler);
      }));
    }
    case 0xb0: case 0xb1:
      if (insn.lock && !insn.memory) return Emit::unknown;
      return emit_as(op, pick_size(sized(pair), [&]<class T>() -> Handler {
        if (!insn.memory) return op_cmpxchg_r<T>;
        return pick_ea(op, []<class Ea>() -> Handler { return op_cmpxchg_m<T, Ea>; });
      }));
    case 0xc0: case 0xc1:
      if (insn.lock && !insn.memory) return Emit::unknown;
      return emit_as(op, pick_size(sized(pair), [&]<class T>() -> Handler {
        if (!insn.memory) return op_xadd_r<T>;
        return pick_ea(op, []<class Ea>() -> Handler { return op_xadd_m<T, Ea>; });
      }));
    case 0xc7:
      if (insn.reg_field() != 1 || !insn.memory) return Emit::unknown;
      return emit_as(op, insn.operand_size == 8 ? op_call<exec_cmpxchg_wide<uint64_t>> : op_call<exec_cmpxchg_wide<uint32_t>>);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
