// Segment registers and descriptor tables. What the Ops hold: system.h.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

bool exec_mov_from_sreg(SoftCpu& cpu, const Op& op);   // imm: SegReg
bool exec_mov_to_sreg(SoftCpu& cpu, const Op& op);     // end. imm: SegReg
bool exec_push_sreg(SoftCpu& cpu, const Op& op);       // imm: SegReg
bool exec_pop_sreg(SoftCpu& cpu, const Op& op);        // end. imm: SegReg
bool exec_load_far_pointer(SoftCpu& cpu, const Op& op);  // end. imm: SegReg; r1: destination
bool exec_sldt(SoftCpu& cpu, const Op& op);
bool exec_str(SoftCpu& cpu, const Op& op);
bool exec_lldt(SoftCpu& cpu, const Op& op);            // end
bool exec_ltr(SoftCpu& cpu, const Op& op);             // end
bool exec_verr(SoftCpu& cpu, const Op& op);
bool exec_verw(SoftCpu& cpu, const Op& op);
bool exec_lar(SoftCpu& cpu, const Op& op);             // imm: byte offset of the destination; r1: the source, if a register
bool exec_lsl(SoftCpu& cpu, const Op& op);             // the same
bool exec_arpl(SoftCpu& cpu, const Op& op);            // imm: byte offset of the register operand
bool exec_sgdt(SoftCpu& cpu, const Op& op);
bool exec_sidt(SoftCpu& cpu, const Op& op);
bool exec_lgdt(SoftCpu& cpu, const Op& op);            // end
bool exec_lidt(SoftCpu& cpu, const Op& op);            // end

}  // namespace retrovisor::soft
