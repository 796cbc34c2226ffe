// Far transfers, segments, control registers, I/O and the like: the instructions of system.h.
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_system(const Insn& insn, Op& op);

}  // namespace retrovisor::soft
