// Trigonometric functions.
#include "vmm/soft/x87_trig.h"

#include "vmm/soft/x87_series.h"

namespace retrovisor::soft {
namespace {

constexpr Wide kOne{kFixedOne, 0, false};
constexpr Uint128 kPiMantissa = uint128(0xc90fdaa22168c234, 0xc4c6628b80dc1cd1);
constexpr Wide kPi{kPiMantissa, 1, false};
constexpr Wide kHalfPi{kPiMantissa, 0, false};
constexpr Wide kQuarterPi{kPiMantissa, -1, false};
constexpr Wide kThreeQuartersPi{uint128(0x96cbe3f9990e91a7, 0x9394c9e8a0a5159c), 1, false};

bool is_nan(X87Class c) { return c == X87Class::nan || c == X87Class::unsupported; }
uint16_t denormal_flag(X87Class c) { return c == X87Class::denormal ? fsw::DE : uint16_t{0}; }

// Below 2^-50 the second term of a series no longer fits beside a 64-bit operand; only its direction counts.
constexpr int32_t kTiny = -50;

// x = quadrant * pi/2 + remainder, |remainder| <= pi/4 (exactly, for the 66-bit pi).
struct Reduced {
  unsigned quadrant;  // modulo 4, of |x|
  Wide remainder;     // of |x|
};

// Pi as the x87 uses it (SDM 1 8.3.8): 0.C90FDAA22168C234C hexadecimal, times 4. So pi/2 is this times 2^-65.
constexpr Uint128 kHalfPiScaled = uint128(3, 0x243f6a8885a308d3);

// |x| < 2^63.
Reduced reduce(const Wide& x) {
  const int32_t shift = x.e - 62;  // x = (x.m >> 64) * 2^(shift - 1)
  if (x.e < -1) return {0, x.magnitude()};
  // In units of 2^-65; x.e >= -1, so no bit is lost: 64 significant bits shifted by up to 64 places.
  const Uint128 scaled = (x.m >> 64) << (shift + 64);
  Uint128 quotient = scaled / kHalfPiScaled;
  Uint128 rest = scaled - quotient * kHalfPiScaled;
  const bool past_middle = rest * 2 > kHalfPiScaled;
  if (past_middle) {
    rest = kHalfPiScaled - rest;
    ++quotient;
  }
  return {static_cast<unsigned>(quotient & 3), wide_normalize(rest, 127 - 65, past_middle)};
}

// |r| <= pi/4. 16 terms: the rest is below 2^-120.
Wide sine(const Wide& r) {
  if (r.e < kTiny) return wide_below(r);
  static constexpr Series<16> kSeries = factorial_series<16>(1, 2);
  const Uint128 z = fraction_of(wide_multiply(r, r));
  return wide_multiply(r, wide_from_fixed(sum_series(kSeries, z, true)));
}
Wide cosine(const Wide& r) {
  if (r.zero()) return kOne;
  if (r.e < kTiny) return wide_below(kOne);
  static constexpr Series<16> kSeries = factorial_series<16>(0, 2);
  const Uint128 z = fraction_of(wide_multiply(r, r));
  return wide_from_fixed(sum_series(kSeries, z, true));
}

// Sine or cosine of x by quadrant.
Wide sine_of(const Wide& x, const Reduced& reduced) {
  Wide v = (reduced.quadrant & 1) != 0 ? cosine(reduced.remainder) : sine(reduced.remainder);
  v.negative = (v.negative != ((reduced.quadrant & 2) != 0)) != x.negative;
  return v;
}
Wide cosine_of(const Reduced& reduced) {
  Wide v = (reduced.quadrant & 1) != 0 ? sine(reduced.remainder) : cosine(reduced.remainder);
  v.negative = v.negative != (reduced.quadrant == 1 || reduced.quadrant == 2);
  return v;
}
Wide tangent_of(const Wide& x, const Reduced& reduced) {
  const bool odd = (reduced.quadrant & 1) != 0;
  const Wide& r = reduced.remainder;
  Wide v = !odd && r.e < kTiny ? wide_above(r) : odd ? wide_divide(cosine(r), sine(r)) : wide_divide(sine(r), cosine(r));
  v.negative = (v.negative != odd) != x.negative;
  return v;
}

// What FSIN, FCOS, FPTAN and FSINCOS have in common. True: `special` is the result.
bool special_operand(const X87Register& x, X87Class c, X87Result& special) {
  if (is_nan(c)) {
    special = x87_propagate_nan(x);
    return true;
  }
  if (c == X87Class::infinity) {
    special = {kX87Indefinite, fsw::IE};
    return true;
  }
  if ((x.sign_exponent & kX87MaxExponent) >= 16383 + 63) {
    special = {x, fsw::C2};
    return true;
  }
  return false;
}

X87Result rounded(const Wide& v, uint16_t control, uint16_t flags) {
  X87Result result = wide_round(v, false, control);
  result.flags |= flags;
  return result;
}

// arctan(a / b), 0 < a <= b, in (0, pi/4].
Wide arctangent(const Wide& a, const Wide& b) {
  static constexpr Wide kTable[17] = {  // arctan(k / 16)
      {0, 0, false},
      {uint128(0xffaaddb967ef4e36, 0xcb2792dc0e2e0d51), -5, false},
      {uint128(0xfeadd4d5617b6e32, 0xc897989f3e888ef7), -4, false},
      {uint128(0xbdcbda5e72d81134, 0x7b0b4f881c9c7487), -3, false},
      {uint128(0xfadbafc96406eb15, 0x6dc79ef5f7a217e5), -3, false},
      {uint128(0x9b13b9b83f5e5e69, 0xc5abb498d27af328), -2, false},
      {uint128(0xb7b0ca0f26f78473, 0x8aa32122dcfe4483), -2, false},
      {uint128(0xd327761e611fe5b6, 0x427c95e9001e7136), -2, false},
      {uint128(0xed63382b0dda7b45, 0x6fe445ecbc3a8d03), -2, false},
      {uint128(0x832bf4a6d9867e2a, 0x4b6a09cb61a515c0), -1, false},
      {uint128(0x8f005d5ef7f59f9b, 0x5c835e1665c43747), -1, false},
      {uint128(0x9a2f80e671bdda20, 0x4226f8e2204ff3bc), -1, false},
      {uint128(0xa4bc7d1934f70924, 0x19a87f2a457dac9e), -1, false},
      {uint128(0xaeac4c38b4d8c080, 0x14725e2f3e52070a), -1, false},
      {uint128(0xb8053e2bc2319e73, 0xcb2da55210a4443d), -1, false},
      {uint128(0xc0ce85b8ac526640, 0x89dd62c46e92fa24), -1, false},
      {uint128(0xc90fdaa22168c234, 0xc4c6628b80dc1cd1), -1, false},
  };
  bool exact;
  const Wide ratio = wide_divide(a, b, &exact);
  // The nearest k / 16: then arctan(a / b) = arctan(k / 16) + arctan(u), u = (a - b k/16) / (b + a k/16), |u| <= 1/32.
  const int32_t k = static_cast<int32_t>(ratio.e < -5 ? 0 : ((ratio.m >> (127 - 5 - ratio.e)) + 1) >> 1);
  Wide u = ratio;
  if (k != 0) {
    const Wide c = wide_integer(k).scaled(-4);
    u = wide_divide(wide_add(a, wide_multiply(b, c).negated()), wide_add(b, wide_multiply(a, c)));
  } else if (ratio.e < kTiny) {
    return exact ? wide_below(ratio) : ratio;
  }
  if (u.zero()) return kTable[k];
  // 12 terms: the rest is below 2^-122.
  static constexpr Series<12> kSeries = odd_reciprocals<12>();
  const Uint128 z = fraction_of(wide_multiply(u, u));
  const Wide v = wide_multiply(u, wide_from_fixed(sum_series(kSeries, z, true)));
  return k == 0 ? v : wide_add(kTable[k], v);
}

}  // namespace

X87Result x87_fsin(const X87Register& x, uint16_t control) {
  const X87Class c = x87_classify(x);
  X87Result special;
  if (special_operand(x, c, special)) return special;
  if (c == X87Class::zero) return {x};
  const Wide w = wide_of(x);
  return rounded(sine_of(w, reduce(w)), control, denormal_flag(c));
}

X87Result x87_fcos(const X87Register& x, uint16_t control) {
  const X87Class c = x87_classify(x);
  X87Result special;
  if (special_operand(x, c, special)) return special;
  if (c == X87Class::zero) return {kX87One};
  return rounded(cosine_of(reduce(wide_of(x))), control, denormal_flag(c));
}

X87SinCos x87_fsincos(const X87Register& x, uint16_t control) {
  const X87Class c = x87_classify(x);
  X87Result special;
  if (special_operand(x, c, special)) return {special.value, special.value, special.flags};
  if (c == X87Class::zero) return {x, kX87One, 0};
  const Wide w = wide_of(x);
  const Reduced reduced = reduce(w);
  const X87Result sine = rounded(sine_of(w, reduced), control, denormal_flag(c));
  const X87Result cosine = rounded(cosine_of(reduced), control, 0);
  return {sine.value, cosine.value, static_cast<uint16_t>((sine.flags & ~fsw::C1) | cosine.flags)};
}

X87Result x87_fptan(const X87Register& x, uint16_t control) {
  const X87Class c = x87_classify(x);
  X87Result special;
  if (special_operand(x, c, special)) return special;
  if (c == X87Class::zero) return {x};
  const Wide w = wide_of(x);
  return rounded(tangent_of(w, reduce(w)), control, denormal_flag(c));
}

X87Result x87_fpatan(const X87Register& x, const X87Register& y, uint16_t control) {
  const X87Class cx = x87_classify(x), cy = x87_classify(y);
  if (is_nan(cx) || is_nan(cy)) return x87_propagate_nan(x, y);
  const uint16_t flags = denormal_flag(cx) | denormal_flag(cy);
  const bool left = x87_negative(x), negative = x87_negative(y);
  const auto angle = [&](Wide v) {
    v.negative = negative;
    return rounded(v, control, flags);
  };
  if (cy == X87Class::infinity) {
    if (cx != X87Class::infinity) return angle(kHalfPi);
    return angle(left ? kThreeQuartersPi : kQuarterPi);
  }
  if (cy == X87Class::zero || cx == X87Class::infinity) {
    return left ? angle(kPi) : X87Result{x87_zero(negative), flags};
  }
  if (cx == X87Class::zero) return angle(kHalfPi);
  const Wide wx = wide_of(x).magnitude(), wy = wide_of(y).magnitude();
  if (wide_compare_magnitude(wy, wx) <= 0) {
    const Wide v = arctangent(wy, wx);
    return angle(left ? wide_add(kPi, v.negated()) : v);
  }
  const Wide v = arctangent(wx, wy);
  return angle(wide_add(kHalfPi, left ? v : v.negated()));
}

}  // namespace retrovisor::soft
