// Shifts and rotates.
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_shift(const Insn& insn, Op& op);

}  // namespace retrovisor::soft
