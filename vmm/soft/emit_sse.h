// MMX, SSE to SSE4.2, FXSAVE and XSAVE, and what shares their opcodes.
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_sse(const Insn& insn, Op& op, FpuClass& fpu);

}  // namespace retrovisor::soft
