// MOV and its relatives, XCHG, LEA, conditional moves and sets, flags as values, hints.
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_move(const Insn& insn, Op& op);

}  // namespace retrovisor::soft
