// Bit tests and scans, XADD, CMPXCHG, BOUND.
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_bits(const Insn& insn, Op& op);

}  // namespace retrovisor::soft
