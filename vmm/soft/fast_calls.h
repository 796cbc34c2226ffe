// SYSCALL, SYSENTER and their returns, SWAPGS, segment bases. What the Ops hold: system.h.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// All end. imm of the RD/WR..BASE forms: SegReg; r1: the general register.
bool exec_syscall(SoftCpu& cpu, const Op& op);
bool exec_sysret(SoftCpu& cpu, const Op& op);
bool exec_sysenter(SoftCpu& cpu, const Op& op);
bool exec_sysexit(SoftCpu& cpu, const Op& op);
bool exec_swapgs(SoftCpu& cpu, const Op& op);
bool exec_read_base(SoftCpu& cpu, const Op& op);
bool exec_write_base(SoftCpu& cpu, const Op& op);

}  // namespace retrovisor::soft
