// Power series with fixed-point coefficients (127 bits behind the point), made at compile time.
#pragma once

#include <array>
#include <cstddef>

#include "vmm/soft/x87_wide.h"

namespace retrovisor::soft {

inline constexpr Uint128 kFixedOne = Uint128{1} << 127;

template <size_t N>
using Series = std::array<Uint128, N>;

// Coefficients 1 / (first + n * step)!, for n from zero; up to 33! fits.
template <size_t N>
constexpr Series<N> factorial_series(unsigned first, unsigned step) {
  Series<N> series{};
  Uint128 factorial = 1;
  unsigned done = 1;
  for (size_t n = 0; n < N; ++n) {
    const unsigned want = first + static_cast<unsigned>(n) * step;
    while (done < want) factorial *= ++done;
    series[n] = kFixedOne / factorial;
  }
  return series;
}

// Coefficients 1 / (2n + 1).
template <size_t N>
constexpr Series<N> odd_reciprocals() {
  Series<N> series{};
  for (size_t n = 0; n < N; ++n) series[n] = kFixedOne / (2 * n + 1);
  return series;
}

// Sum of series[n] * (sign z)^n; z has 128 bits behind the point.
template <size_t N>
constexpr Uint128 sum_series(const Series<N>& series, Uint128 z, bool alternating) {
  Uint128 sum = series[N - 1];
  for (size_t n = N - 1; n-- > 0;) {
    const Uint128 term = multiply_high(sum, z);
    sum = alternating ? series[n] - term : series[n] + term;
  }
  return sum;
}

}  // namespace retrovisor::soft
