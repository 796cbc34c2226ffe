// Arithmetic. Each function picks the handler of an encoding for emit_x87.cc; nullptr means that
// there is no such instruction.
#pragma once

#include "vmm/soft/op.h"
#include "vmm/soft/x87_form.h"

namespace retrovisor::soft {

// FADD, FMUL, FSUB(R), FDIV(R) and their relatives by ModRM.reg (0, 1, 4-7).
Handler x87_arith_handler(X87Form form, unsigned reg);
// FSQRT, FRNDINT, FPREM, FPREM1, FSCALE, FXTRACT and the transcendentals: D9 F0 to FF by their low nibble, but not
// FDECSTP and FINCSTP.
Handler x87_d9_handler(unsigned low);

}  // namespace retrovisor::soft
