// MUL IMUL DIV IDIV, and the decimal adjustments.
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_multiply(const Insn& insn, Op& op);

}  // namespace retrovisor::soft
