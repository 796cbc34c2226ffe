// x87 functions computed here rather than by the host: the transcendental ones, because processors differ in their last
// bits, and the scaling ones.
//
// The transcendental results are computed with 128 bits and rounded once, by the rounding control; the error is below
// 0.5000001 ulp for rounding to nearest. Precision control does not apply (SDM 1 8.1.5.2). PE is set for every result of
// finite operands but an exact zero and FCOS(0) = 1, even if it happens to be exact (measured, both vendors); C1 if it was
// rounded up. Special cases follow the tables of SDM 2. What those leave undefined:
// - F2XM1 of a finite |x| > 1 gives x, with PE (measured, both vendors).
// - FYL2XP1 is y * log2(1 + x) for every x > -1, -1 is like FYL2X of 0, and below is an invalid operation. On `amd` all finite
//   x <= -1 are alike: a finite y gives x, zero and infinity keep their kind and change their sign (measured).
// - DE is set for a denormal operand wherever there is no NaN, invalid operation or division by zero.
// FSCALE by zero gives its operand (SDM 2 FSCALE, table); on `amd` a denormal one is a tiny result like others (measured).
//
// `control` is the guest's control word: rounding, and which of overflow and underflow are masked. Exceptions that are
// found before the computation are only reported; the caller decides by their masks.
#pragma once

#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {

X87Result x87_f2xm1(const X87Register& x, uint16_t control);                        // 2^x - 1
X87Result x87_fyl2x(const X87Register& x, const X87Register& y, uint16_t control);    // y * log2(x)
X87Result x87_fyl2xp1(const X87Register& x, const X87Register& y, uint16_t control,
                      ProcessorModel model = ProcessorModel::model);                // y * log2(x + 1)
X87Result x87_fpatan(const X87Register& x, const X87Register& y, uint16_t control);   // arctan(y / x), by quadrant

X87Result x87_fscale(const X87Register& x, const X87Register& by, uint16_t control,
                     ProcessorModel model = ProcessorModel::model);
struct X87Parts {
  X87Register exponent;
  X87Register significand;
  uint16_t flags;
};
X87Parts x87_fxtract(const X87Register& x);

}  // namespace retrovisor::soft
