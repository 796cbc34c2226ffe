// Hardware task switches (SDM 3A chapter 7).
#pragma once

#include "vmm/soft/segments.h"

namespace retrovisor::soft {

enum class TaskSwitch : uint8_t {
  jump,  // JMP: the old task ends
  call,  // CALL, or an event through a task gate: nests, sets NT and the back link
  iret,  // IRET with NT: back to the task of the back link
};

// Switches to the task of the TSS `tss` (a checked descriptor, named by `selector`). `return_rip` and `rflags` are saved
// in the old TSS. False with cpu.fault set: either nothing has changed, or, for faults that the manual places in the
// new task, the new task is current and s.rip is its first instruction.
bool task_switch(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor tss, TaskSwitch why, uint64_t return_rip,
                 uint64_t rflags);

// A task gate: finds and checks its TSS, then switches.
bool task_gate(SoftCpu& cpu, const Op& op, const Descriptor& gate, TaskSwitch why, uint64_t return_rip, uint64_t rflags);

// After a switch for an event with an error code: pushes it in the new task.
bool push_task_error(SoftCpu& cpu, const Op& op, uint32_t error);

// Behind a switch to a task with the T flag in its TSS: raises #DB with BT, before its first instruction.
bool report_task_trap(SoftCpu& cpu);

// Reads SS:ESP of the inner privilege level `dpl` from the TSS (legacy modes). Not checked yet. False: #TS.
bool read_inner_stack(SoftCpu& cpu, const Op& op, unsigned dpl, uint16_t& ss, uint64_t& esp);
// Reads the RSP at byte `offset` of the 64-bit TSS (RSP0-2, IST1-7). False: #TS, or #SS for a non-canonical one.
bool read_long_stack(SoftCpu& cpu, const Op& op, unsigned offset, uint64_t& rsp);

}  // namespace retrovisor::soft
