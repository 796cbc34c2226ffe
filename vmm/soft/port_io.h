// Port I/O. What the Ops hold: system.h.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// All end. r0: operand size (1, 2, 4); imm of IN and OUT: port, or -1 for DX. INS and OUTS: r1: 1 with a
// REP prefix; imm: address size | SegReg << 8.
bool exec_in(SoftCpu& cpu, const Op& op);
bool exec_out(SoftCpu& cpu, const Op& op);
bool exec_ins(SoftCpu& cpu, const Op& op);
bool exec_outs(SoftCpu& cpu, const Op& op);

}  // namespace retrovisor::soft
