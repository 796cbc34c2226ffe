// MOVS CMPS STOS LODS SCAS, with and without REP. (INS and OUTS are in port_io.h.)
#pragma once

#include "vmm/soft/emit.h"

namespace retrovisor::soft {

Emit emit_string(const Insn& insn, Op& op);

}  // namespace retrovisor::soft
