// Loads, stores and moves. Each function picks the handler of an encoding for emit_x87.cc; nullptr means that
// there is no such instruction.
#pragma once

#include "vmm/soft/op.h"

namespace retrovisor::soft {

// By operand:
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

}  // namespace retrovisor::soft
