// MUL IMUL DIV IDIV, and the decimal adjustments.
#include "vmm/soft/multiply.h"

#include <limits>

#include "vmm/soft/pick.h"

namespace retrovisor::soft {
namespace {

template <class T>
struct Wider;
template <> struct Wider<uint8_t> { using type = uint16_t; using sign = int16_t; };
template <> struct Wider<uint16_t> { using type = uint32_t; using sign = int32_t; };
template <> struct Wider<uint32_t> { using type = uint64_t; using sign = int64_t; };
__extension__ using Uint128 = unsigned __int128;
__extension__ using Int128 = __int128;
template <> struct Wider<uint64_t> { using type = Uint128; using sign = Int128; };

// SF, ZF, AF and PF are undefined after multiplications: SF and PF of the low half, ZF and AF clear, as Intel's processors
// do (measured). AMD's keep all four (measured).
template <ProcessorModel U, class T>
uint32_t multiply_flags(T low, bool overflow, [[maybe_unused]] uint32_t old) {
  const uint32_t carry = overflow ? cc::CF | cc::OF : 0;
  if constexpr (U == ProcessorModel::amd) return (old & ~(cc::CF | cc::OF)) | carry;
  else return (cc_of_result(low) & ~cc::ZF) | carry;
}

// All flags are undefined after divisions, and stay, as with Intel's processors (measured). AMD's keep CF and OF only (measured).
template <ProcessorModel U>
void divide_flags(SoftCpu& cpu) {
  if constexpr (U == ProcessorModel::amd) cpu.cc = (cpu.cc & ~(cc::SF | cc::ZF | cc::PF)) | cc::AF;
}

// A double-width value in AX, or rDX:rAX.
template <class T>
void set_wide(SoftCpu& cpu, typename Wider<T>::type v) {
  if constexpr (sizeof(T) == 1) {
    set<uint16_t>(&cpu, slot_of(RAX), v);
  } else {
    set<T>(&cpu, slot_of(RAX), static_cast<T>(v));
    set<T>(&cpu, slot_of(RDX), static_cast<T>(v >> (sizeof(T) * 8)));
  }
}
template <class T>
typename Wider<T>::type get_wide(const SoftCpu& cpu) {
  using Wide = typename Wider<T>::type;
  if constexpr (sizeof(T) == 1) return get<uint16_t>(&cpu, slot_of(RAX));
  else return static_cast<Wide>(static_cast<Wide>(get<T>(&cpu, slot_of(RDX))) << (sizeof(T) * 8) | get<T>(&cpu, slot_of(RAX)));
}

enum class Group3 : uint8_t { mul, imul, div, idiv };

template <Group3 G, ProcessorModel U, class T>
bool group3(SoftCpu& cpu, T b) {
  using Wide = typename Wider<T>::type;
  using SignedWide = typename Wider<T>::sign;
  using Signed = std::make_signed_t<T>;
  const T a = get<T>(&cpu, slot_of(RAX));
  if constexpr (G == Group3::mul) {
    const auto r = static_cast<Wide>(static_cast<Wide>(a) * b);
    set_wide<T>(cpu, r);
    cpu.cc = multiply_flags<U>(static_cast<T>(r), static_cast<T>(r >> (sizeof(T) * 8)) != 0, cpu.cc);
  } else if constexpr (G == Group3::imul) {
    const auto r = static_cast<SignedWide>(static_cast<SignedWide>(static_cast<Signed>(a)) * static_cast<Signed>(b));
    set_wide<T>(cpu, static_cast<Wide>(r));
    cpu.cc = multiply_flags<U>(static_cast<T>(r), r != static_cast<SignedWide>(static_cast<Signed>(r)), cpu.cc);
  } else if constexpr (G == Group3::div) {
    if (b == 0) return raise(cpu, vec::DE);
    const Wide n = get_wide<T>(cpu);
    const auto q = static_cast<Wide>(n / b);
    if (q > std::numeric_limits<T>::max()) return raise(cpu, vec::DE);
    const auto r = static_cast<T>(n % b);
    if constexpr (sizeof(T) == 1) {
      set<uint16_t>(&cpu, slot_of(RAX), static_cast<uint16_t>(r << 8 | q));
    } else {
      set<T>(&cpu, slot_of(RAX), static_cast<T>(q));
      set<T>(&cpu, slot_of(RDX), r);
    }
    divide_flags<U>(cpu);
  } else {
    const auto d = static_cast<Signed>(b);
    if (d == 0) return raise(cpu, vec::DE);
    const auto n = static_cast<SignedWide>(get_wide<T>(cpu));
    constexpr auto kMost = static_cast<SignedWide>(std::numeric_limits<Signed>::max());
    // The one division that overflows the wide type itself.
    if (d == -1 && n == static_cast<SignedWide>(static_cast<Wide>(Wide{1} << (sizeof(Wide) * 8 - 1)))) return raise(cpu, vec::DE);
    const auto q = static_cast<SignedWide>(n / d);
    if (q > kMost || q < -kMost - 1) return raise(cpu, vec::DE);
    const auto r = static_cast<T>(n % d);
    if constexpr (sizeof(T) == 1) {
      set<uint16_t>(&cpu, slot_of(RAX), static_cast<uint16_t>(r << 8 | static_cast<uint8_t>(q)));
    } else {
      set<T>(&cpu, slot_of(RAX), static_cast<T>(q));
      set<T>(&cpu, slot_of(RDX), r);
    }
    divide_flags<U>(cpu);
  }
  return true;
}

template <Group3 G, ProcessorModel U, class T>
bool exec_group3_r(SoftCpu& cpu, const Op& op) { return group3<G, U, T>(cpu, get<T>(&cpu, op.r1)); }
template <Group3 G, ProcessorModel U, class T>
bool exec_group3_m(SoftCpu& cpu, const Op& op) {
  T b;
  return load_operand(cpu, op, b) && group3<G, U, T>(cpu, b);
}

template <Group3 G>
Handler group3_handler(const Insn& insn, unsigned size) {
  return pick_size(size, [&]<class T>() -> Handler {
    return pick_flags(insn, [&]<ProcessorModel U>() -> Handler {
      return insn.memory ? op_call<exec_group3_m<G, U, T>> : op_call<exec_group3_r<G, U, T>>;
    });
  });
}

template <ProcessorModel U, class T>
[[gnu::always_inline]] inline T imul2(SoftCpu* cpu, T a, T b) {
  uint8_t overflow;
  asm("imul %2, %0\n\tseto %1" : "+&r"(a), "=&q"(overflow) : "r"(b) : "cc");
  cpu->cc = multiply_flags<U>(a, overflow != 0, cpu->cc);
  return a;
}

// IMUL r, r/m and IMUL r, r/m, imm.
template <ProcessorModel U, class T, bool Immediate>
RV_HANDLER op_imul_r(SoftCpu* cpu, const Op* op) {
  const T b = Immediate ? static_cast<T>(op->imm) : get<T>(cpu, op->r0);
  set<T>(cpu, op->r0, imul2<U>(cpu, get<T>(cpu, op->r1), b));
  RV_NEXT;
}
template <ProcessorModel U, class T, bool Immediate, class Ea>
RV_HANDLER op_imul_m(SoftCpu* cpu, const Op* op) {
  T a;
  if (!load(cpu, op, Ea::linear(cpu, op, sizeof(T), Access::read), a)) RV_FAULT;
  const T b = Immediate ? static_cast<T>(op->imm) : get<T>(cpu, op->r0);
  set<T>(cpu, op->r0, imul2<U>(cpu, a, b));
  RV_NEXT;
}

template <bool Immediate>
Handler imul_handler(const Insn& insn, const Op& op) {
  return pick_size(insn.operand_size, [&]<class T>() -> Handler {
    if constexpr (sizeof(T) == 1) return nullptr;
    else {
      return pick_flags(insn, [&]<ProcessorModel U>() -> Handler {
        if (!insn.memory) return op_imul_r<U, T, Immediate>;
        return pick_ea(op, []<class Ea>() -> Handler { return op_imul_m<U, T, Immediate, Ea>; });
      });
    }
  });
}

// --- decimal adjustment (SDM 2: DAA, DAS, AAA, AAS, AAM, AAD); undefined flags: OF clear, the rest as computed ---------
// AMD's processors (measured): as the additions and subtractions leave them that are part of it; Intel's do so in AAD only.

template <ProcessorModel U, bool Subtract>
bool exec_daa(SoftCpu& cpu, const Op&) {
  const auto old = get<uint8_t>(&cpu, slot_of(RAX));
  const bool old_carry = (cpu.cc & cc::CF) != 0;
  uint8_t al = old;
  bool carry = false, adjust = false;
  if ((al & 15) > 9 || (cpu.cc & cc::AF) != 0) {
    carry = old_carry || (Subtract ? al < 6 : al > 0xf9);
    al = static_cast<uint8_t>(Subtract ? al - 6 : al + 6);
    adjust = true;
  }
  if (old > 0x99 || old_carry) {
    al = static_cast<uint8_t>(Subtract ? al - 0x60 : al + 0x60);
    carry = true;
  }
  set<uint8_t>(&cpu, slot_of(RAX), al);
  cpu.cc = cc_of_result(al) | (carry ? cc::CF : 0) | (adjust ? cc::AF : 0);
  // One addition of what is added in all: its sign can change in one direction only.
  const auto gained = static_cast<uint8_t>(Subtract ? old & ~al : ~old & al);
  if (U == ProcessorModel::amd && (gained & 0x80) != 0) cpu.cc |= cc::OF;
  return true;
}

template <ProcessorModel U, bool Subtract>
bool exec_aaa(SoftCpu& cpu, const Op&) {
  auto ax = get<uint16_t>(&cpu, slot_of(RAX));
  const bool adjust = (ax & 15) > 9 || (cpu.cc & cc::AF) != 0;
  const uint32_t whole = alu<Subtract ? Alu::sub : Alu::add>(ax, static_cast<uint16_t>(adjust ? 0x106 : 0), 0);
  ax &= 0xff0f;
  set<uint16_t>(&cpu, slot_of(RAX), ax);
  cpu.cc = U == ProcessorModel::amd ? whole & ~(cc::CF | cc::AF) : cc_of_result(static_cast<uint8_t>(ax));
  if (adjust) cpu.cc |= cc::CF | cc::AF;
  return true;
}

bool exec_aam(SoftCpu& cpu, const Op& op) {
  const auto base = static_cast<uint8_t>(op.imm);
  if (base == 0) return raise(cpu, vec::DE);
  const auto al = get<uint8_t>(&cpu, slot_of(RAX));
  const auto low = static_cast<uint8_t>(al % base);
  set<uint16_t>(&cpu, slot_of(RAX), static_cast<uint16_t>((al / base) << 8 | low));
  cpu.cc = cc_of_result(low);
  return true;
}

template <ProcessorModel U>
bool exec_aad(SoftCpu& cpu, const Op& op) {
  const auto ax = get<uint16_t>(&cpu, slot_of(RAX));
  auto al = static_cast<uint8_t>(ax);
  const uint32_t sum = alu<Alu::add>(al, static_cast<uint8_t>((ax >> 8) * static_cast<uint8_t>(op.imm)), 0);
  set<uint16_t>(&cpu, slot_of(RAX), al);
  cpu.cc = U != ProcessorModel::model ? sum : cc_of_result(al);
  return true;
}

}  // namespace

Emit emit_multiply(const Insn& insn, Op& op) {
  if (insn.lock) return Emit::unknown;
  if (insn.map == OpMap::map_0f) return insn.opcode == 0xaf ? emit_as(op, imul_handler<false>(insn, op)) : Emit::unknown;
  if (insn.map != OpMap::one_byte) return Emit::unknown;
  const auto adjustment = [&](auto f) { return emit_as(op, pick_flags(insn, f)); };
  switch (insn.opcode) {
    case 0x69: case 0x6b: return emit_as(op, imul_handler<true>(insn, op));
    case 0xf6: case 0xf7: {
      const unsigned size = pair_size(insn);
      op.r1 = sized_slot(insn.rm, size, insn.rex);
      switch (insn.reg_field()) {
        case 4: return emit_as(op, group3_handler<Group3::mul>(insn, size));
        case 5: return emit_as(op, group3_handler<Group3::imul>(insn, size));
        case 6: return emit_as(op, group3_handler<Group3::div>(insn, size));
        case 7: return emit_as(op, group3_handler<Group3::idiv>(insn, size));
        default: return Emit::unknown;
      }
    }
    case 0x27: return adjustment([]<ProcessorModel U>() -> Handler { return op_call<exec_daa<U, false>>; });
    case 0x2f: return adjustment([]<ProcessorModel U>() -> Handler { return op_call<exec_daa<U, true>>; });
    case 0x37: return adjustment([]<ProcessorModel U>() -> Handler { return op_call<exec_aaa<U, false>>; });
    case 0x3f: return adjustment([]<ProcessorModel U>() -> Handler { return op_call<exec_aaa<U, true>>; });
    case 0xd4: return emit_as(op, op_call<exec_aam>);
    case 0xd5: return adjustment([]<ProcessorModel U>() -> Handler { return op_call<exec_aad<U>>; });
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
