// The x87 handlers, by the file they are in. Each picks the handler of an encoding for emit_x87.cc; nullptr means that
// there is no such instruction.
#pragma once

#include "vmm/soft/op.h"

namespace retrovisor::soft {

enum class X87Form : uint8_t {
  st0_sti,      // D8: ST(0) = ST(0) op ST(i)
  sti_st0,      // DC: ST(i) = ST(0) op ST(i)
  sti_st0_pop,  // DE: the same, then pop
  float32,
  float64,
  int16,
  int32,
};

// FADD, FMUL, FSUB(R), FDIV(R) and their relatives by ModRM.reg (0, 1, 4-7). x87_arith.cc
Handler x87_arith_handler(X87Form form, unsigned reg);
// FSQRT, FRNDINT, FPREM, FPREM1, FSCALE, FXTRACT and the transcendentals: D9 F0 to FF by their low nibble, but not
// FDECSTP and FINCSTP. x87_arith.cc
Handler x87_d9_handler(unsigned low);

// Comparisons. x87_compare.cc
Handler x87_compare_handler(X87Form form, bool unordered, unsigned pops);  // FCOM, FICOM, FUCOM and with pops
Handler x87_compare_flags_handler(bool unordered, bool pop);               // FCOMI, FUCOMI, FCOMIP, FUCOMIP
Handler x87_test_handler();                                                // FTST
Handler x87_examine_handler();                                             // FXAM

// Loads and stores by operand. x87_move.cc
enum class X87Memory : uint8_t { float32, float64, float80, int16, int32, int64, bcd };
Handler x87_load_handler(X87Memory type);
Handler x87_store_handler(X87Memory type, bool pop);
Handler x87_store_truncating_handler(X87Memory type);  // FISTTP
Handler x87_load_register_handler();                   // FLD ST(i)
Handler x87_store_register_handler(bool pop);          // FST ST(i), FSTP ST(i)
Handler x87_store_quiet_handler();                     // D9 D8+i: FSTP that does not mind an empty register
Handler x87_exchange_handler();                        // FXCH
Handler x87_conditional_move_handler(unsigned condition);  // 0: B, 1: E, 2: BE, 3: U, 4-7: their negations
Handler x87_constant_handler(unsigned low);            // D9 E8 to EE, by the low three bits
Handler x87_sign_handler(bool absolute);               // FABS, FCHS

// Control. x87_env.cc
enum class X87Control : uint8_t {
  wait, nop, ignored,  // FWAIT; FNOP; FNENI, FNDISI and FNSETPM
  clear_exceptions, initialize,
  load_control, store_control, store_status, store_status_ax,
  load_environment, store_environment, restore, save,
  free, free_pop, decrement_top, increment_top,
};
Handler x87_control_handler(X87Control what);

}  // namespace retrovisor::soft
