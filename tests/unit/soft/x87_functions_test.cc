// The transcendental functions against high-precision results, and their special cases.
#include "vmm/soft/x87_functions.h"
#include "vmm/soft/x87_trig.h"

#include <gtest/gtest.h>

#include "tests/unit/soft/x87_bench.h"
#include "tests/unit/soft/x87_reference.h"
#include "vmm/soft/x87_wide.h"

namespace retrovisor::soft {
namespace {

using reference::Reference;

constexpr uint16_t kNearest = 0x37f, kDown = 0x77f, kUp = 0xb7f, kTowardsZero = 0xf7f;

const X87Register kZero{0, 0}, kMinusZero{0, 0x8000}, kOne{kX87IntegerBit, 0x3fff}, kMinusOne{kX87IntegerBit, 0xbfff};
const X87Register kInfinity{kX87IntegerBit, 0x7fff}, kMinusInfinity{kX87IntegerBit, 0xffff}, kTwo{kX87IntegerBit, 0x4000};
const X87Register kHalf{kX87IntegerBit, 0x3ffe}, kMinusHalf{kX87IntegerBit, 0xbffe}, kMinusTwo{kX87IntegerBit, 0xc000};
const X87Register kQuiet{0xc000000000001234, 0x7fff}, kSignaling{0x8000000000001234, 0x7fff}, kDenormal{0x1234, 0};
const X87Register kUnnormal{1, 0x3fff};

// The magnitude with the next larger representation.
X87Register larger(X87Register v) {
  if (++v.mantissa == 0) return {kX87IntegerBit, static_cast<uint16_t>(v.sign_exponent + 1)};
  if (v.mantissa == kX87IntegerBit && (v.sign_exponent & 0x7fff) == 0) ++v.sign_exponent;
  return v;
}

// Rounding to nearest must be exact; the directed modes must give the two neighbours of the true result.
template <class F, size_t N>
void check(const char* name, F function, const Reference (&table)[N]) {
  for (const Reference& row : table) {
    const std::string where = std::string(name) + " " + text(row.x) + " " + text(row.y);
    const X87Result nearest = function(row.x, row.y, kNearest);
    EXPECT_TRUE(same(nearest.value, row.result)) << where << ": " << text(nearest.value);
    EXPECT_NE(nearest.flags & fsw::PE, 0) << where;
    EXPECT_EQ(nearest.flags & (fsw::IE | fsw::ZE | fsw::OE | fsw::C2), 0) << where;
    const X87Result zero = function(row.x, row.y, kTowardsZero);
    const bool negative = x87_negative(row.result);
    const X87Result away = function(row.x, row.y, negative ? kDown : kUp);
    const X87Result same_as_zero = function(row.x, row.y, negative ? kUp : kDown);
    EXPECT_TRUE(same(larger(zero.value), away.value)) << where << ": " << text(zero.value) << " " << text(away.value);
    EXPECT_TRUE(same(zero.value, same_as_zero.value)) << where;
    EXPECT_TRUE(same(row.result, zero.value) || same(row.result, away.value)) << where;
    EXPECT_EQ(zero.flags & fsw::C1, 0) << where;
    EXPECT_NE(away.flags & fsw::C1, 0) << where;
    EXPECT_EQ((nearest.flags & fsw::C1) != 0, same(row.result, away.value)) << where;
  }
}

X87Result fyl2xp1(const X87Register& x, const X87Register& y, uint16_t control) { return x87_fyl2xp1(x, y, control); }

TEST(X87Functions, are_correctly_rounded) {
  const auto unary = [](auto f) {
    return [f](const X87Register& x, const X87Register&, uint16_t control) { return f(x, control); };
  };
  check("fsin", unary(x87_fsin), reference::kSine);
  check("fcos", unary(x87_fcos), reference::kCosine);
  check("fptan", unary(x87_fptan), reference::kTangent);
  check("f2xm1", unary(x87_f2xm1), reference::kExponential);
  check("fyl2x", x87_fyl2x, reference::kLogarithm);
  check("fyl2xp1", fyl2xp1, reference::kLogarithmPlusOne);
  check("fpatan", x87_fpatan, reference::kArctangent);
}

TEST(X87Functions, sincos_gives_what_sine_and_cosine_give) {
  for (const Reference& row : reference::kSine) {
    const X87SinCos both = x87_fsincos(row.x, kNearest);
    EXPECT_TRUE(same(both.sine, row.result)) << text(row.x);
    EXPECT_TRUE(same(both.cosine, x87_fcos(row.x, kNearest).value)) << text(row.x);
  }
}

// Both vendors call it inexact nevertheless.
TEST(X87Functions, logarithm_of_a_power_of_two_is_exact) {
  for (int k = -16445; k < 16384; k += 7) {
    const X87Register x = wide_round(wide_integer(1).scaled(k), true, kNearest).value;
    const X87Result result = x87_fyl2x(x, kOne, kUp);
    EXPECT_TRUE(same(result.value, wide_round(wide_integer(k), true, kNearest).value)) << k << " " << text(result.value);
    EXPECT_EQ(result.flags, k == 0 ? 0 : fsw::PE | (x87_classify(x) == X87Class::denormal ? fsw::DE : 0)) << k;
  }
}

struct Special {
  X87Register x, y, result;
  uint16_t flags;
};

// Flags of inexact angles are PE with or without C1.
template <class F, size_t N>
void check_special(const char* name, F function, const Special (&table)[N]) {
  for (const Special& row : table) {
    const X87Result result = function(row.x, row.y, kNearest);
    const std::string where = std::string(name) + " " + text(row.x) + " " + text(row.y);
    EXPECT_TRUE(same(result.value, row.result)) << where << ": " << text(result.value);
    EXPECT_EQ(result.flags & ~fsw::C1, row.flags) << where;
  }
}

TEST(X87Functions, special_cases_of_fyl2x) {
  const Special table[] = {
      {kZero, kTwo, kMinusInfinity, fsw::ZE},      {kMinusZero, kMinusTwo, kInfinity, fsw::ZE},
      {kZero, kZero, kX87Indefinite, fsw::IE},     {kZero, kInfinity, kMinusInfinity, 0},
      {kZero, kMinusInfinity, kInfinity, 0},       {kMinusOne, kTwo, kX87Indefinite, fsw::IE},
      {kMinusInfinity, kTwo, kX87Indefinite, fsw::IE}, {kOne, kTwo, kZero, 0},
      {kOne, kMinusTwo, kMinusZero, 0},            {kOne, kInfinity, kX87Indefinite, fsw::IE},
      {kHalf, kInfinity, kMinusInfinity, 0},       {kTwo, kInfinity, kInfinity, 0},
      {kHalf, kZero, kMinusZero, 0},               {kTwo, kMinusZero, kMinusZero, 0},
      {kInfinity, kTwo, kInfinity, 0},             {kInfinity, kMinusTwo, kMinusInfinity, 0},
      {kInfinity, kZero, kX87Indefinite, fsw::IE}, {kInfinity, kInfinity, kInfinity, 0},
      {kTwo, kQuiet, kQuiet, 0},                   {kQuiet, kUnnormal, kX87Indefinite, fsw::IE},
      {kSignaling, kTwo, {0xc000000000001234, 0x7fff}, fsw::IE},
      {kTwo, kDenormal, kDenormal, fsw::DE | fsw::UE | fsw::PE},
      {kTwo, {0xc000000000000000, 0x4000}, {0xc000000000000000, 0x4000}, fsw::PE},
  };
  check_special("fyl2x", x87_fyl2x, table);
}

TEST(X87Functions, special_cases_of_fyl2xp1) {
  const Special table[] = {
      {kZero, kTwo, kZero, 0},
      {kMinusZero, kTwo, kMinusZero, 0},
      {kMinusZero, kMinusTwo, kZero, 0},
      {kZero, kInfinity, kX87Indefinite, fsw::IE},
      {{kX87IntegerBit, 0x3ffc}, kMinusInfinity, kMinusInfinity, 0},
      {{kX87IntegerBit, 0xbffc}, kInfinity, kMinusInfinity, 0},
      {{kX87IntegerBit, 0xbffc}, kZero, kMinusZero, 0}, {kMinusOne, kTwo, kMinusInfinity, fsw::ZE},
      {kMinusTwo, kTwo, kX87Indefinite, fsw::IE},
      {kInfinity, kTwo, kInfinity, 0}, {kMinusInfinity, kTwo, kX87Indefinite, fsw::IE},
      {kOne, kTwo, kTwo, fsw::PE}, {kQuiet, kTwo, kQuiet, 0},
  };
  check_special("fyl2xp1", fyl2xp1, table);
}

TEST(X87Functions, special_cases_of_fpatan) {
  const X87Register pi{0xc90fdaa22168c235, 0x4000}, minus_pi{pi.mantissa, 0xc000};
  const X87Register half{pi.mantissa, 0x3fff}, quarter{pi.mantissa, 0x3ffe};
  const X87Register three_quarters{0x96cbe3f9990e91a8, 0x4000}, minus_half{pi.mantissa, 0xbfff};
  const Special table[] = {
      {kOne, kZero, kZero, 0},                     {kOne, kMinusZero, kMinusZero, 0},
      {kZero, kZero, kZero, 0},                    {kMinusZero, kZero, pi, fsw::PE},
      {kMinusZero, kMinusZero, minus_pi, fsw::PE}, {kMinusOne, kZero, pi, fsw::PE},
      {kZero, kOne, half, fsw::PE},                {kMinusZero, kMinusOne, minus_half, fsw::PE},
      {kInfinity, kOne, kZero, 0},                 {kMinusInfinity, kOne, pi, fsw::PE},
      {kOne, kInfinity, half, fsw::PE},            {kMinusOne, kMinusInfinity, minus_half, fsw::PE},
      {kInfinity, kInfinity, quarter, fsw::PE},    {kMinusInfinity, kInfinity, three_quarters, fsw::PE},
      {kOne, kOne, quarter, fsw::PE},              {kQuiet, kOne, kQuiet, 0},
      {kOne, kDenormal, {kDenormal.mantissa, 0}, fsw::DE | fsw::PE | fsw::UE},
  };
  check_special("fpatan", x87_fpatan, table);
}

TEST(X87Functions, special_cases_of_one_operand) {
  const auto f2xm1 = [](const X87Register& x, const X87Register&, uint16_t control) { return x87_f2xm1(x, control); };
  const Special exponential[] = {
      {kZero, kZero, kZero, 0},         {kMinusZero, kZero, kMinusZero, 0}, {kOne, kZero, kOne, fsw::PE},
      {kMinusOne, kZero, kMinusHalf, fsw::PE}, {kInfinity, kZero, kInfinity, 0},   {kMinusInfinity, kZero, kMinusOne, 0},
      {kTwo, kZero, kTwo, fsw::PE},     {kQuiet, kZero, kQuiet, 0},         {kUnnormal, kZero, kX87Indefinite, fsw::IE},
  };
  check_special("f2xm1", f2xm1, exponential);
  const auto sine = [](const X87Register& x, const X87Register&, uint16_t control) { return x87_fsin(x, control); };
  const X87Register limit{kX87IntegerBit, 0x403e};
  const Special sines[] = {
      {kZero, kZero, kZero, 0},
      {kMinusZero, kZero, kMinusZero, 0},
      {kInfinity, kZero, kX87Indefinite, fsw::IE},
      {limit, kZero, limit, fsw::C2},
      {kDenormal, kZero, kDenormal, fsw::DE | fsw::UE | fsw::PE},
      {kSignaling, kZero, kQuiet, fsw::IE},
  };
  check_special("fsin", sine, sines);
}

TEST(X87Functions, underflow_with_unmasked_exception_adjusts_the_exponent) {
  const uint16_t unmasked = kNearest & ~fsw::UE;
  const X87Result masked = x87_fscale({0xc000000000000001, 1}, kMinusOne, kNearest);
  EXPECT_TRUE(same(masked.value, {0x6000000000000000, 0})) << text(masked.value);
  EXPECT_EQ(masked.flags, fsw::UE | fsw::PE);
  const X87Result result = x87_fscale({0xc000000000000001, 1}, kMinusOne, unmasked);
  EXPECT_TRUE(same(result.value, {0xc000000000000001, 24576})) << text(result.value);
  EXPECT_EQ(result.flags, fsw::UE);
}

// 128-bit arithmetic against identities that do not go through it.
TEST(X87Wide, division_and_multiplication_are_inverse) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    Wide a{uint128(random() | kX87IntegerBit, random()), 0, false}, b{uint128(random() | kX87IntegerBit, random()), 3, true};
    if (i % 4 == 0) b.m |= ~Uint128{0} << 64;   // quotient digits at their limits
    if (i % 8 == 0) a.m = b.m - (random() & 3);
    const Wide quotient = wide_divide(a, b);
    const Wide back = wide_multiply(quotient, b);
    const Wide error = wide_add(back, a.negated());
    EXPECT_TRUE(error.zero() || error.e <= a.e - 125) << i << " error exponent " << error.e;
  }
}

TEST(X87Wide, division_tells_exact_quotients) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 5000; ++i) {
    const Wide a = wide_normalize(random(), 127, false), b = wide_normalize(random() | 1, 127, false);
    bool exact = false;
    const Wide q = wide_divide(wide_normalize(a.m >> 96 << 96, a.e, false), wide_integer(4), &exact);
    EXPECT_TRUE(exact && q.e == a.e - 2);
    wide_divide(wide_integer(1), b, &exact);
    EXPECT_EQ(exact, b.m == kX87IntegerBit * Uint128{1} << 64);
  }
}

}  // namespace
}  // namespace retrovisor::soft
