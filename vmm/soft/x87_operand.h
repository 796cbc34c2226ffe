// Operands in memory as exact 80-bit values.
#pragma once

#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {

// Types of operands in memory, for overloading.
struct X87Float32 { uint32_t bits; };
struct X87Float64 { uint64_t bits; };

// NaNs keep their kind; `denormal` tells that the operand was one in its own format.
struct X87Widened {
  X87Register value;
  bool denormal = false;
};

inline X87Widened x87_widen(uint64_t fraction, unsigned fraction_bits, unsigned exponent, unsigned max_exponent,
                            bool negative) {
  const uint16_t sign = negative ? kX87Sign : uint16_t{0};
  const uint64_t aligned = fraction << (63 - fraction_bits);
  const unsigned rebias = 16383 - (max_exponent >> 1);
  if (exponent == max_exponent) return {{aligned | kX87IntegerBit, static_cast<uint16_t>(sign | kX87MaxExponent)}};
  if (exponent != 0) return {{aligned | kX87IntegerBit, static_cast<uint16_t>(sign | (exponent + rebias))}};
  if (fraction == 0) return {x87_zero(negative)};
  const unsigned shift = static_cast<unsigned>(__builtin_clzll(aligned));
  return {{aligned << shift, static_cast<uint16_t>(sign | (1 + rebias - shift))}, true};
}
inline X87Widened x87_widen(X87Float32 v) {
  return x87_widen(v.bits & 0x7fffff, 23, v.bits >> 23 & 0xff, 0xff, v.bits >> 31 != 0);
}
inline X87Widened x87_widen(X87Float64 v) {
  return x87_widen(v.bits & 0xfffffffffffff, 52, static_cast<unsigned>(v.bits >> 52) & 0x7ff, 0x7ff, v.bits >> 63 != 0);
}
inline X87Register x87_from_magnitude(uint64_t magnitude, bool negative) {
  if (magnitude == 0) return x87_zero(negative);
  const unsigned shift = static_cast<unsigned>(__builtin_clzll(magnitude));
  return {magnitude << shift, static_cast<uint16_t>((negative ? kX87Sign : 0u) | (16383 + 63 - shift))};
}
inline X87Widened x87_widen(int64_t v) {
  return {x87_from_magnitude(v < 0 ? ~static_cast<uint64_t>(v) + 1 : static_cast<uint64_t>(v), v < 0)};
}
inline X87Widened x87_widen(int16_t v) { return x87_widen(int64_t{v}); }
inline X87Widened x87_widen(int32_t v) { return x87_widen(int64_t{v}); }

}  // namespace retrovisor::soft
