// Exponential, logarithm, scaling.
#include "vmm/soft/x87_functions.h"

#include "vmm/soft/x87_series.h"

namespace retrovisor::soft {
namespace {

constexpr Wide kLn2{uint128(0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af), -1, false};
constexpr Wide kTwoLog2E{uint128(0xb8aa3b295c17f0bb, 0xbe87fed0691d3e88), 1, false};
constexpr Uint128 kSqrt2Mantissa = uint128(0xb504f333f9de6484, 0x597d89b3754abe9f);
constexpr Wide kOne{kFixedOne, 0, false};

bool is_nan(X87Class c) { return c == X87Class::nan || c == X87Class::unsupported; }
uint16_t denormal_flag(X87Class c) { return c == X87Class::denormal ? fsw::DE : uint16_t{0}; }
constexpr X87Result kInvalid{kX87Indefinite, fsw::IE};

X87Result rounded(const Wide& v, bool exact, uint16_t control, uint16_t flags) {
  X87Result result = wide_round(v, exact, control);
  result.flags |= flags;
  return result;
}

// The same for a transcendental function: its results count as inexact even where they are not.
X87Result rounded_inexact(const Wide& v, bool exact, uint16_t control, uint16_t flags) {
  X87Result result = rounded(v, exact, control, flags | fsw::PE);
  const bool tiny = (result.value.sign_exponent & kX87MaxExponent) == 0;
  if (tiny && (control & fsw::UE) != 0) result.flags |= fsw::UE;
  return result;
}

// 2 * atanh(s) * log2(e), |s| < 0.172: the logarithm of (1 + s) / (1 - s). 22 terms: the rest is below 2^-115.
Wide log2_of_ratio(const Wide& s) {
  static constexpr Series<22> kSeries = odd_reciprocals<22>();
  const Uint128 z = fraction_of(wide_multiply(s, s));
  return wide_multiply(wide_multiply(s, kTwoLog2E), wide_from_fixed(sum_series(kSeries, z, false)));
}

// log2(x), x > 0. The result is exact only for powers of two.
Wide log2_of(const Wide& x, bool& exact) {
  const bool upper = x.m >= kSqrt2Mantissa;
  const Wide mantissa{x.m, upper ? -1 : 0, false};  // in [sqrt(1/2), sqrt(2))
  const Wide exponent = wide_integer(x.e + (upper ? 1 : 0));
  const Wide above_one = wide_add(mantissa, kOne.negated());
  exact = above_one.zero();
  if (exact) return exponent;
  const Wide log_mantissa = log2_of_ratio(wide_divide(above_one, wide_add(mantissa, kOne)));
  return exponent.zero() ? log_mantissa : wide_add(exponent, log_mantissa);
}

// y * infinity or y * 0 with the sign of a logarithm.
X87Result times_infinity(const X87Register& y, bool negative, uint16_t flags) {
  return {x87_infinity(x87_negative(y) != negative), flags};
}

}  // namespace

X87Result x87_f2xm1(const X87Register& x, uint16_t control) {
  const X87Class c = x87_classify(x);
  if (is_nan(c)) return x87_propagate_nan(x);
  if (c == X87Class::zero) return {x};
  if (c == X87Class::infinity) return {x87_negative(x) ? X87Register{kX87IntegerBit, 0xbfff} : x};
  const Wide w = wide_of(x);
  if (w.e >= 0) {
    if (w.e > 0 || w.m != kFixedOne) return {x, fsw::PE};
    return {w.negative ? X87Register{kX87IntegerBit, 0xbffe} : x, fsw::PE};
  }
  // exp(v) - 1 = v * sum of v^n / (n + 1)!, |v| < 0.694. 28 terms: the rest is below 2^-110.
  static constexpr Series<28> kSeries = factorial_series<28>(1, 1);
  const Wide v = wide_multiply(w, kLn2);
  const Uint128 sum = sum_series(kSeries, fraction_of(v), w.negative);
  return rounded_inexact(wide_multiply(v, wide_from_fixed(sum)), false, control, denormal_flag(c));
}

X87Result x87_fyl2x(const X87Register& x, const X87Register& y, uint16_t control) {
  const X87Class cx = x87_classify(x), cy = x87_classify(y);
  if (is_nan(cx) || is_nan(cy)) return x87_propagate_nan(x, y);
  const uint16_t flags = denormal_flag(cx) | denormal_flag(cy);
  if (cx == X87Class::zero) {
    if (cy == X87Class::zero) return kInvalid;
    if (cy == X87Class::infinity) return times_infinity(y, true, 0);
    return times_infinity(y, true, fsw::ZE);  // goes before a denormal y (SDM 1 8.6)
  }
  if (x87_negative(x)) return kInvalid;
  if (cx == X87Class::infinity) return cy == X87Class::zero ? kInvalid : times_infinity(y, false, flags);
  const Wide w = wide_of(x);
  const bool below_one = w.e < 0, one = w.e == 0 && w.m == kFixedOne;
  if (cy == X87Class::infinity) return one ? kInvalid : times_infinity(y, below_one, flags);
  if (cy == X87Class::zero || one) return {x87_zero(x87_negative(y) != below_one), flags};
  bool exact;
  const Wide logarithm = log2_of(w, exact);
  return rounded_inexact(wide_multiply(wide_of(y), logarithm), exact, control, flags);
}

X87Result x87_fyl2xp1(const X87Register& x, const X87Register& y, uint16_t control, ProcessorModel model) {
  const X87Class cx = x87_classify(x), cy = x87_classify(y);
  if (is_nan(cx) || is_nan(cy)) return x87_propagate_nan(x, y);
  const uint16_t flags = denormal_flag(cx) | denormal_flag(cy);
  const bool negative = x87_negative(x);
  if (cx == X87Class::zero) {
    if (cy == X87Class::infinity) return kInvalid;
    return {x87_zero(negative != x87_negative(y)), flags};
  }
  if (cx == X87Class::infinity) return negative || cy == X87Class::zero ? kInvalid : times_infinity(y, false, flags);
  const Wide w = wide_of(x);
  if (negative && w.e >= 0) {
    if (model == ProcessorModel::amd) {
      if (cy == X87Class::zero || cy == X87Class::infinity) return {{y.mantissa, static_cast<uint16_t>(y.sign_exponent ^ kX87Sign)}};
      return {x, static_cast<uint16_t>(flags | fsw::PE)};
    }
    if (w.e > 0 || w.m != kFixedOne || cy == X87Class::zero) return kInvalid;
    return times_infinity(y, true, cy == X87Class::infinity ? uint16_t{0} : fsw::ZE);
  }
  if (cy == X87Class::infinity) return times_infinity(y, negative, flags);
  if (cy == X87Class::zero) return {x87_zero(negative != x87_negative(y)), flags};
  bool exact = false;
  // Below 1/4 the sum 1 + x would lose bits of x: log2(1 + x) is that of (1 + s) / (1 - s) with s = x / (x + 2).
  const Wide logarithm =
      w.e < -2 ? log2_of_ratio(wide_divide(w, wide_add(wide_integer(2), w))) : log2_of(wide_add(kOne, w), exact);
  return rounded_inexact(wide_multiply(wide_of(y), logarithm), exact && w.e < 64, control, flags);
}

X87Result x87_fscale(const X87Register& x, const X87Register& by, uint16_t control, ProcessorModel model) {
  const X87Class cx = x87_classify(x), cb = x87_classify(by);
  if (is_nan(cx) || is_nan(cb)) return x87_propagate_nan(x, by);
  const bool negative = x87_negative(x);
  const uint16_t flags = denormal_flag(cx) | denormal_flag(cb);
  if (cb == X87Class::infinity) {
    if (x87_negative(by)) return cx == X87Class::infinity ? kInvalid : X87Result{x87_zero(negative), flags};
    return cx == X87Class::zero ? kInvalid : X87Result{x87_infinity(negative), flags};
  }
  if (cx == X87Class::zero || cx == X87Class::infinity) return {x, flags};
  constexpr int32_t kFar = 1 << 16;  // more than any exponent needs
  if (cb == X87Class::zero && model != ProcessorModel::amd) control |= fsw::UE;
  const Wide w = wide_of(by);
  int32_t n = 0;
  if (!w.zero() && w.e >= 0) n = w.e >= 16 ? kFar : static_cast<int32_t>(w.m >> (127 - w.e));
  return rounded(wide_of(x).scaled(w.negative ? -n : n), true, control, flags);
}

X87Parts x87_fxtract(const X87Register& x) {
  const X87Class c = x87_classify(x);
  if (is_nan(c)) {
    const X87Result nan = x87_propagate_nan(x);
    return {nan.value, nan.value, nan.flags};
  }
  if (c == X87Class::zero) return {x87_infinity(true), x, fsw::ZE};
  if (c == X87Class::infinity) return {x87_infinity(false), x, 0};
  const Wide w = wide_of(x);
  const X87Result exponent = wide_round(wide_integer(w.e), true, fcw::initial);
  return {exponent.value, wide_round({w.m, 0, w.negative}, true, fcw::initial).value, denormal_flag(c)};
}

}  // namespace retrovisor::soft
