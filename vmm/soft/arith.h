// Integer arithmetic with x86 flags. The host is x86-64, so its own instructions compute result and flags in one go;
// where the manuals leave flags undefined they are set here in one of a few fixed ways (ProcessorModel), so that every host
// gives the same.
#pragma once

#include <cstdint>
#include <type_traits>

#include "vmm/processor_model.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

enum class Alu : uint8_t { add, or_, adc, sbb, and_, sub, xor_, cmp, test };

// SF, ZF and PF of a result; all other flags clear.
template <class T>
[[gnu::always_inline]] inline uint32_t cc_of_result(T r) {
  uint16_t ax;
  asm("test %1, %1\n\tlahf\n\tmovb $0, %%al" : "=&a"(ax) : "r"(r) : "cc");
  return ax & ~(cc::AF | cc::CF);
}

// Computes a := a op b; returns the new flags. `old` is needed for the carry of adc and sbb.
template <Alu O, class T>
[[gnu::always_inline]] inline uint32_t alu(T& a, T b, [[maybe_unused]] uint32_t old) {
  uint16_t ax;
  if constexpr (O == Alu::add) {
    asm("add %2, %0\n\tlahf\n\tseto %%al" : "+r"(a), "=a"(ax) : "r"(b) : "cc");
    return ax;
  } else if constexpr (O == Alu::sub) {
    asm("sub %2, %0\n\tlahf\n\tseto %%al" : "+r"(a), "=a"(ax) : "r"(b) : "cc");
    return ax;
  } else if constexpr (O == Alu::cmp) {
    asm("cmp %2, %1\n\tlahf\n\tseto %%al" : "=a"(ax) : "r"(a), "r"(b) : "cc");
    return ax;
  } else if constexpr (O == Alu::adc) {
    asm("bt $8, %3\n\tadc %2, %0\n\tlahf\n\tseto %%al" : "+&r"(a), "=a"(ax) : "r"(b), "r"(old) : "cc");
    return ax;
  } else if constexpr (O == Alu::sbb) {
    asm("bt $8, %3\n\tsbb %2, %0\n\tlahf\n\tseto %%al" : "+&r"(a), "=a"(ax) : "r"(b), "r"(old) : "cc");
    return ax;
  } else {  // logic: CF and OF clear; AF, undefined, clear
    if constexpr (O == Alu::or_) a = static_cast<T>(a | b);
    if constexpr (O == Alu::and_) a = static_cast<T>(a & b);
    if constexpr (O == Alu::xor_) a = static_cast<T>(a ^ b);
    if constexpr (O == Alu::test) return cc_of_result(static_cast<T>(a & b));
    return cc_of_result(a);
  }
}

// INC and DEC: like add and sub of one, but CF stays.
template <class T>
[[gnu::always_inline]] inline uint32_t inc(T& a, uint32_t old) {
  uint16_t ax;
  asm("bt $8, %2\n\tinc %0\n\tlahf\n\tseto %%al" : "+&r"(a), "=a"(ax) : "r"(old) : "cc");
  return ax;
}
template <class T>
[[gnu::always_inline]] inline uint32_t dec(T& a, uint32_t old) {
  uint16_t ax;
  asm("bt $8, %2\n\tdec %0\n\tlahf\n\tseto %%al" : "+&r"(a), "=a"(ax) : "r"(old) : "cc");
  return ax;
}

// Condition codes of Jcc, SETcc, CMOVcc, in encoding order.
template <unsigned C>
[[gnu::always_inline]] inline bool condition(uint32_t f) {
  constexpr unsigned kind = C >> 1;
  bool r;
  if constexpr (kind == 0) r = (f & cc::OF) != 0;
  if constexpr (kind == 1) r = (f & cc::CF) != 0;
  if constexpr (kind == 2) r = (f & cc::ZF) != 0;
  if constexpr (kind == 3) r = (f & (cc::CF | cc::ZF)) != 0;
  if constexpr (kind == 4) r = (f & cc::SF) != 0;
  if constexpr (kind == 5) r = (f & cc::PF) != 0;
  if constexpr (kind == 6) r = ((f >> 15 ^ f) & 1) != 0;
  if constexpr (kind == 7) r = ((f >> 15 ^ f) & 1) != 0 || (f & cc::ZF) != 0;
  return (C & 1) != 0 ? !r : r;
}

template <ProcessorModel U>
inline constexpr uint32_t kShiftAf = U == ProcessorModel::amd ? cc::AF : 0;

enum class Shift : uint8_t { rol, ror, rcl, rcr, shl, shr, sal, sar };

// OF of Intel's processors (measured) after a shift or rotate by any count: as if the count were one.
template <Shift S, class T>
[[gnu::always_inline]] inline uint32_t overflow_of_first(T a, uint32_t old) {
  constexpr unsigned bits = sizeof(T) * 8;
  const bool msb = (a >> (bits - 1) & 1) != 0;
  bool overflow = false;  // SAR
  constexpr bool left = S == Shift::shl || S == Shift::sal || S == Shift::rol || S == Shift::rcl;
  if constexpr (left) overflow = msb != ((a >> (bits - 2) & 1) != 0);
  if constexpr (S == Shift::shr) overflow = msb;
  if constexpr (S == Shift::ror) overflow = msb != ((a & 1) != 0);
  if constexpr (S == Shift::rcr) overflow = msb != ((old & cc::CF) != 0);
  return overflow ? cc::OF : 0;
}

template <Shift S, ProcessorModel U, class T>
inline uint32_t shift(T& a, unsigned count, uint32_t old);

// Shifts and rotates by a count already masked to 5 or 6 bits and not zero. Intel's processors (measured): OF is that of a count
// of one, but a rotate of a register by an immediate (`Immediate`) other than one keeps it, and one through carry that
// comes round to where it was keeps CF and OF.
template <Shift S, ProcessorModel U, bool Immediate, class T>
[[gnu::always_inline]] inline uint32_t shift_operand(T& a, unsigned count, uint32_t old) {
  if constexpr (U != ProcessorModel::intel) {
    return shift<S, U>(a, count, old);
  } else {
    constexpr unsigned bits = sizeof(T) * 8;
    if constexpr (S == Shift::rcl || S == Shift::rcr) {
      if (count % (bits + 1) == 0) return old;
    }
    uint32_t overflow = overflow_of_first<S>(a, old);
    if constexpr (Immediate && (S == Shift::rol || S == Shift::ror)) {
      if (count != 1) overflow = old & cc::OF;
    }
    return (shift<S, ProcessorModel::model>(a, count, old) & ~cc::OF) | overflow;
  }
}

// The model's: OF, defined for counts of one only, follows the same formula for all counts; AF is cleared by shifts and kept by
// rotates. AMD's processors (measured) differ in that shifts set AF, and that SHR by more than one clears OF.
template <Shift S, ProcessorModel U, class T>
inline uint32_t shift(T& a, unsigned count, uint32_t old) {
  constexpr unsigned bits = sizeof(T) * 8;
  const auto flags = [&](bool carry, bool overflow) {
    return static_cast<uint32_t>((carry ? cc::CF : 0) | (overflow ? cc::OF : 0));
  };
  const auto msb = [](T v) { return (v >> (bits - 1) & 1) != 0; };
  // The host's shift gives result, CF, SF, ZF and PF; AF and, but for counts of one, OF are undefined there.
  const auto cl = static_cast<uint8_t>(count);
  uint16_t ax;
  if constexpr (S == Shift::shl || S == Shift::sal) {
    if (bits < 32 && count >= bits) {  // CF is undefined then: the last bit shifted out, if any was left
      const bool carry = count == bits && (a & 1) != 0;
      a = 0;
      return cc_of_result(a) | flags(carry, carry) | kShiftAf<U>;
    }
    asm("shl %2, %0\n\tlahf\n\tmovb $0, %%al" : "+&r"(a), "=&a"(ax) : "c"(cl) : "cc");
    return (ax & ~cc::AF) | kShiftAf<U> | (msb(a) != ((ax & cc::CF) != 0) ? cc::OF : 0);
  } else if constexpr (S == Shift::shr) {
    const uint32_t overflow = msb(a) && (U != ProcessorModel::amd || count == 1) ? cc::OF : 0;
    if (bits < 32 && count >= bits) {
      const bool carry = count == bits && msb(a);
      a = 0;
      return cc_of_result(a) | flags(carry, overflow != 0) | kShiftAf<U>;
    }
    asm("shr %2, %0\n\tlahf\n\tmovb $0, %%al" : "+&r"(a), "=&a"(ax) : "c"(cl) : "cc");
    return (ax & ~cc::AF) | kShiftAf<U> | overflow;
  } else if constexpr (S == Shift::sar) {
    asm("sar %2, %0\n\tlahf\n\tmovb $0, %%al" : "+&r"(a), "=&a"(ax) : "c"(cl) : "cc");
    return (ax & ~cc::AF) | kShiftAf<U>;
  } else if constexpr (S == Shift::rol || S == Shift::ror) {
    const unsigned c = count % bits;
    if (c != 0) {
      if constexpr (S == Shift::rol) a = static_cast<T>(a << c | a >> (bits - c));
      else a = static_cast<T>(a >> c | a << (bits - c));
    }
    const uint32_t rest = old & ~(cc::CF | cc::OF);
    if constexpr (S == Shift::rol) return rest | flags((a & 1) != 0, msb(a) != ((a & 1) != 0));
    else return rest | flags(msb(a), msb(a) != ((a >> (bits - 2) & 1) != 0));
  } else {
    // Through carry: a rotation of bits + 1 bits.
    const unsigned c = count % (bits + 1);
    bool carry = (old & cc::CF) != 0;
    for (unsigned i = 0; i < c; ++i) {
      if constexpr (S == Shift::rcl) {
        const bool out = msb(a);
        a = static_cast<T>(a << 1 | (carry ? 1 : 0));
        carry = out;
      } else {
        const bool out = (a & 1) != 0;
        a = static_cast<T>(a >> 1 | static_cast<T>(static_cast<T>(carry) << (bits - 1)));
        carry = out;
      }
    }
    const uint32_t rest = old & ~(cc::CF | cc::OF);
    const bool overflow = S == Shift::rcl ? msb(a) != carry : msb(a) != ((a >> (bits - 2) & 1) != 0);
    return rest | flags(carry, overflow);
  }
}

}  // namespace retrovisor::soft
