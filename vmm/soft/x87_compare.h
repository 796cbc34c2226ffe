// Comparisons. Each function picks the handler of an encoding for emit_x87.cc; nullptr means that
// there is no such instruction.
#pragma once

#include "vmm/soft/op.h"
#include "vmm/soft/x87_form.h"

namespace retrovisor::soft {

Handler x87_compare_handler(X87Form form, bool unordered, unsigned pops);  // FCOM, FICOM, FUCOM and with pops
Handler x87_compare_flags_handler(bool unordered, bool pop);               // FCOMI, FUCOMI, FCOMIP, FUCOMIP
Handler x87_test_handler();                                                // FTST
Handler x87_examine_handler();                                             // FXAM

}  // namespace retrovisor::soft
