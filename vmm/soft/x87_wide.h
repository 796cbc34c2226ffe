// A floating-point number with 128 significant bits, in integer arithmetic: what the transcendental functions are
// computed in. Operations truncate; each is off by less than 2^-126 of its result.
#pragma once

#include <cstdint>

#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {

__extension__ typedef unsigned __int128 Uint128;

constexpr Uint128 uint128(uint64_t high, uint64_t low) { return Uint128{high} << 64 | low; }

// The upper 128 bits of the product.
constexpr Uint128 multiply_high(Uint128 a, Uint128 b) {
  const Uint128 a1 = a >> 64, a0 = static_cast<uint64_t>(a), b1 = b >> 64, b0 = static_cast<uint64_t>(b);
  const Uint128 middle1 = a1 * b0 + (a0 * b0 >> 64);  // cannot overflow
  const Uint128 middle2 = a0 * b1 + static_cast<uint64_t>(middle1);
  return a1 * b1 + (middle1 >> 64) + (middle2 >> 64);
}

// (-1)^negative * m * 2^(e - 127). Bit 127 of m is set, or m is zero.
struct Wide {
  Uint128 m = 0;
  int32_t e = 0;
  bool negative = false;

  bool zero() const { return m == 0; }
  Wide negated() const { return {m, e, !negative}; }
  Wide magnitude() const { return {m, e, false}; }
  Wide scaled(int32_t by) const { return {m, e + by, negative}; }
};

constexpr unsigned leading_zeros(Uint128 v) {
  const uint64_t high = static_cast<uint64_t>(v >> 64);
  return static_cast<unsigned>(high != 0 ? __builtin_clzll(high) : 64 + __builtin_clzll(static_cast<uint64_t>(v)));
}

// m * 2^(e - 127) for any m.
constexpr Wide wide_normalize(Uint128 m, int32_t e, bool negative) {
  if (m == 0) return {0, 0, negative};
  const unsigned shift = leading_zeros(m);
  return {m << shift, e - static_cast<int32_t>(shift), negative};
}

constexpr Wide wide_integer(int32_t v) {
  const uint32_t magnitude = v < 0 ? uint32_t{0} - static_cast<uint32_t>(v) : static_cast<uint32_t>(v);
  return wide_normalize(magnitude, 127, v < 0);
}

// A zero, normal or denormal register, exactly.
inline Wide wide_of(const X87Register& v) {
  const int32_t exponent = v.sign_exponent & static_cast<int32_t>(kX87MaxExponent);
  return wide_normalize(Uint128{v.mantissa} << 64, (exponent == 0 ? 1 : exponent) - 16383, x87_negative(v));
}

Wide wide_multiply(const Wide& a, const Wide& b);
Wide wide_add(const Wide& a, const Wide& b);
// b is not zero. `exact`, if given, tells whether the quotient is exact.
Wide wide_divide(const Wide& a, const Wide& b, bool* exact = nullptr);
// -1, 0, 1 by magnitude.
int wide_compare_magnitude(const Wide& a, const Wide& b);
// The next value towards zero.
Wide wide_below(const Wide& v);
// The next value away from zero.
Wide wide_above(const Wide& v);

// |v| as a fraction with 128 bits behind the point; |v| < 1.
constexpr Uint128 fraction_of(const Wide& v) {
  const int32_t shift = -(v.e + 1);
  return v.m == 0 || shift >= 128 ? 0 : v.m >> shift;
}
// A number with 127 bits behind the point.
constexpr Wide wide_from_fixed(Uint128 v) { return wide_normalize(v, 0, false); }

// Rounds to the 64 significant bits of a register by the rounding control in `control`, with the masked or unmasked
// responses to overflow and underflow (SDM 1 8.5.4 and 8.5.5; tininess is detected after rounding). `exact`: v is the
// result itself; else it is a value next to it. Flags: OE, UE, PE, C1.
X87Result wide_round(const Wide& v, bool exact, uint16_t control);

}  // namespace retrovisor::soft
