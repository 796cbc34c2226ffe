// Far jumps, calls and returns. What the Ops hold: system.h.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// All end. imm of direct forms: offset | selector << 32.
bool exec_far_jump_direct(SoftCpu& cpu, const Op& op);
bool exec_far_jump_memory(SoftCpu& cpu, const Op& op);
bool exec_far_call_direct(SoftCpu& cpu, const Op& op);
bool exec_far_call_memory(SoftCpu& cpu, const Op& op);
bool exec_far_return(SoftCpu& cpu, const Op& op);  // imm: bytes to release
bool exec_iret(SoftCpu& cpu, const Op& op);

}  // namespace retrovisor::soft
