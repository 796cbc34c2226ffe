// D8 to DF, and 9B (WAIT).
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_x87(const Insn& insn, Op& op, FpuClass& fpu);

}  // namespace retrovisor::soft
