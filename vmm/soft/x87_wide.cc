#include "vmm/soft/x87_wide.h"

namespace retrovisor::soft {

Wide wide_multiply(const Wide& a, const Wide& b) {
  const bool negative = a.negative != b.negative;
  if (a.zero() || b.zero()) return {0, 0, negative};
  const Uint128 high = multiply_high(a.m, b.m);
  if ((high >> 127) != 0) return {high, a.e + b.e + 1, negative};
  return {high << 1, a.e + b.e, negative};
}

int wide_compare_magnitude(const Wide& a, const Wide& b) {
  if (a.zero() || b.zero()) return a.zero() ? (b.zero() ? 0 : -1) : 1;
  if (a.e != b.e) return a.e < b.e ? -1 : 1;
  if (a.m != b.m) return a.m < b.m ? -1 : 1;
  return 0;
}

Wide wide_add(const Wide& a, const Wide& b) {
  const bool a_larger = wide_compare_magnitude(a, b) >= 0;
  const Wide& large = a_larger ? a : b;
  const Wide& small = a_larger ? b : a;
  if (small.zero()) return large;
  const int64_t distance = int64_t{large.e} - small.e;
  if (distance >= 128) return large;
  const Uint128 aligned = small.m >> distance;
  if (large.negative != small.negative) return wide_normalize(large.m - aligned, large.e, large.negative);
  const Uint128 sum = large.m + aligned;
  if (sum >= large.m) return {sum, large.e, large.negative};
  return {sum >> 1 | Uint128{1} << 127, large.e + 1, large.negative};
}

namespace {

// The next 64 bits of the quotient of remainder / divisor, with remainder < divisor; updates the remainder. Knuth's
// algorithm D with 64-bit digits; the divisor is normalized, so the estimate is too large by at most two.
uint64_t quotient_digit(Uint128& remainder, Uint128 divisor) {
  const uint64_t d1 = static_cast<uint64_t>(divisor >> 64), d0 = static_cast<uint64_t>(divisor);
  uint64_t q = static_cast<uint64_t>(remainder >> 64) >= d1 ? UINT64_MAX : static_cast<uint64_t>(remainder / d1);
  const Uint128 low_product = Uint128{q} * d0;
  Uint128 high = Uint128{q} * d1 + (low_product >> 64);  // the product is (high, low) with 128 and 64 bits
  uint64_t low = static_cast<uint64_t>(low_product);
  while (high > remainder || (high == remainder && low != 0)) {
    --q;
    const uint64_t before = low;
    low -= d0;
    high -= Uint128{d1} + (low > before ? 1 : 0);
  }
  remainder = ((remainder - high) << 64) - low;
  return q;
}

}  // namespace

Wide wide_divide(const Wide& a, const Wide& b, bool* exact) {
  const bool negative = a.negative != b.negative;
  if (exact != nullptr) *exact = true;
  if (a.zero()) return {0, 0, negative};
  const bool large = a.m >= b.m;
  Uint128 remainder = large ? a.m >> 1 : a.m;
  const bool lost = large && (a.m & 1) != 0;
  const uint64_t high = quotient_digit(remainder, b.m);
  const uint64_t low = quotient_digit(remainder, b.m);
  if (exact != nullptr) *exact = remainder == 0 && !lost;
  return {uint128(high, low), a.e - b.e - (large ? 0 : 1), negative};
}

Wide wide_below(const Wide& v) {
  if (v.m == Uint128{1} << 127) return {~Uint128{0}, v.e - 1, v.negative};
  return {v.m - 1, v.e, v.negative};
}

Wide wide_above(const Wide& v) {
  if (v.m == ~Uint128{0}) return {Uint128{1} << 127, v.e + 1, v.negative};
  return {v.m + 1, v.e, v.negative};
}

namespace {

constexpr int32_t kBias = 16383;
constexpr int32_t kUnmaskedAdjustment = 24576;  // 3 * 2^13 (SDM 1 8.5.4)

// Rounds a 64.64 fixed-point number to an integer, which may be 2^64 (then 0 is returned and `carry` set).
struct Rounding {
  uint64_t value;
  bool inexact;
  bool up;
  bool carry;
};
Rounding round_fixed(Uint128 v, bool exact, bool negative, unsigned mode) {
  const uint64_t whole = static_cast<uint64_t>(v >> 64), rest = static_cast<uint64_t>(v);
  constexpr uint64_t half = uint64_t{1} << 63;
  const bool inexact = rest != 0 || !exact;
  bool up = false;
  switch (mode) {
    case 0: up = rest > half || (rest == half && (!exact || (whole & 1) != 0)); break;
    case 1: up = inexact && negative; break;
    case 2: up = inexact && !negative; break;
    default: break;
  }
  const uint64_t value = whole + (up ? 1 : 0);
  return {value, inexact, up, up && value == 0};
}

uint16_t inexact_flags(const Rounding& r) {
  if (!r.inexact) return 0;
  return static_cast<uint16_t>(fsw::PE | (r.up ? fsw::C1 : 0));
}

X87Result overflow(bool negative, unsigned mode) {
  const uint16_t sign = negative ? kX87Sign : uint16_t{0};
  const bool to_infinity = mode == 0 || (mode == 1 && negative) || (mode == 2 && !negative);
  if (to_infinity) return {x87_infinity(negative), fsw::OE | fsw::PE | fsw::C1};
  return {{UINT64_MAX, static_cast<uint16_t>(sign | (kX87MaxExponent - 1))}, fsw::OE | fsw::PE};
}

}  // namespace

X87Result wide_round(const Wide& v, bool exact, uint16_t control) {
  const uint16_t sign = v.negative ? kX87Sign : uint16_t{0};
  const unsigned mode = control >> fcw::rc_shift & 3;
  if (v.zero()) return {x87_zero(v.negative)};
  Rounding r = round_fixed(v.m, exact, v.negative, mode);
  int32_t exponent = v.e + kBias + (r.carry ? 1 : 0);
  uint64_t mantissa = r.carry ? kX87IntegerBit : r.value;
  uint16_t flags = inexact_flags(r);
  if (exponent >= static_cast<int32_t>(kX87MaxExponent)) {
    if ((control & fsw::OE) != 0) return overflow(v.negative, mode);
    exponent -= kUnmaskedAdjustment;
    // Too large even so, which only FSCALE can do.
    if (exponent >= static_cast<int32_t>(kX87MaxExponent)) return {x87_infinity(v.negative), fsw::OE | fsw::PE | fsw::C1};
    flags |= fsw::OE;
  } else if (exponent <= 0) {
    if ((control & fsw::UE) == 0) {
      exponent += kUnmaskedAdjustment;
      flags |= fsw::UE;
      if (exponent <= 0) return {x87_zero(v.negative), fsw::UE | fsw::PE};
    } else {
      // A denormal result: round again, at the fixed position of the last bit. Its exponent field is zero.
      const int32_t shift = 1 - kBias - v.e;
      if (shift > 127) {
        r = round_fixed(1, false, v.negative, mode);
      } else {
        const bool lost = shift > 0 && (v.m & ((Uint128{1} << shift) - 1)) != 0;
        r = round_fixed(v.m >> shift, exact && !lost, v.negative, mode);
      }
      mantissa = r.value;
      exponent = (mantissa & kX87IntegerBit) != 0 ? 1 : 0;
      flags = inexact_flags(r);
      if (r.inexact) flags |= fsw::UE;
    }
  }
  return {{mantissa, static_cast<uint16_t>(sign | exponent)}, flags};
}

}  // namespace retrovisor::soft
