// Delivery of exceptions and interrupts (SDM 3A chapter 6), in all modes.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

enum class EventType : uint8_t {
  external,   // INTR or NMI
  exception,  // raised by the CPU
  software,   // INT n: gate DPL is checked, the pushed RIP is behind the instruction
  software_int3,  // INT3, INTO: the same, but not subject to vm86 redirection
  software_icebp, // INT1: like an exception, without DPL check
};

// What a debug exception leaves in DR6 and DR7 (SDM 3B 17.2.3, 17.2.4): B0-B3 become those of this one; BD, BS and BT stay until
// somebody clears them, whatever else is reported; general detection ends.
void note_debug_exception(CpuState& s, uint64_t bits);
// Delivers `fault` (an exception of the instruction at s.rip) with double- and triple-fault logic (SDM 3A 6.15,
// interrupt 8). RF is set in the pushed flags for faults; #DB is given its DR6 bits from fault.address.
// False: triple fault; s.activity is Activity::shutdown.
bool deliver_fault(SoftCpu& cpu);
// Enters the handler of a fault with an error code and forgets that it did: what remains is what the entry writes to memory.
// UserTsc::by_exception.
void raise_and_take_back(SoftCpu& cpu, uint8_t vector, uint32_t error);

// Delivers an interrupt at an instruction boundary (s.rip is the next instruction). If the delivery itself faults,
// goes on with that fault. False: triple fault.
bool deliver_interrupt(SoftCpu& cpu, uint8_t vector, EventType type);

// INT n, INT3, INTO, INT1 from their Execs: s.rip is the instruction, `next_rip` the one behind it.
// False: cpu.fault is set, nothing changed.
bool software_interrupt(SoftCpu& cpu, const Op& op, uint8_t vector, EventType type, uint64_t next_rip);

}  // namespace retrovisor::soft
