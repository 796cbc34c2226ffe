// Instructions about flags beyond the arithmetic ones, and software interrupts. What the Ops hold: system.h.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

bool exec_cli(SoftCpu& cpu, const Op& op);             // end
bool exec_sti(SoftCpu& cpu, const Op& op);             // end
bool exec_pushf(SoftCpu& cpu, const Op& op);
bool exec_popf(SoftCpu& cpu, const Op& op);            // end
bool exec_clac(SoftCpu& cpu, const Op& op);            // end
bool exec_stac(SoftCpu& cpu, const Op& op);            // end
bool exec_int(SoftCpu& cpu, const Op& op);             // end. imm: vector
bool exec_int3(SoftCpu& cpu, const Op& op);            // end
bool exec_into(SoftCpu& cpu, const Op& op);            // end
bool exec_int1(SoftCpu& cpu, const Op& op);            // end

}  // namespace retrovisor::soft
