// Control and debug registers. What the Ops hold: system.h.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// Control and debug registers. imm: register number; r1: the general register.
bool exec_smsw(SoftCpu& cpu, const Op& op);
bool exec_lmsw(SoftCpu& cpu, const Op& op);            // end
bool exec_clts(SoftCpu& cpu, const Op& op);            // end
bool exec_mov_from_cr(SoftCpu& cpu, const Op& op);     // end
bool exec_mov_to_cr(SoftCpu& cpu, const Op& op);       // end
bool exec_mov_from_dr(SoftCpu& cpu, const Op& op);     // end
bool exec_mov_to_dr(SoftCpu& cpu, const Op& op);       // end
bool exec_invlpg(SoftCpu& cpu, const Op& op);          // end
bool exec_invd(SoftCpu& cpu, const Op& op);            // INVD, WBINVD
bool exec_xgetbv(SoftCpu& cpu, const Op& op);
bool exec_xsetbv(SoftCpu& cpu, const Op& op);          // end

// Reads the PAE page directory pointers that `cr3` leads to into s.pdpte (SDM 3A 4.4.1). False: #GP(0), nothing changed.
bool load_pdptes(SoftCpu& cpu, uint64_t cr3);

}  // namespace retrovisor::soft
