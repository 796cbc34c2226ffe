// What can be said of an instruction from its decoded form alone: how control goes on behind it, which flags it reads and
// writes, whether it can be left before it is done. Holds for every processor model.
#pragma once

#include <cstdint>

#include "vmm/cpu/registers.h"
#include "vmm/soft/insn.h"

namespace retrovisor::soft {

// How control goes on. All but `next` end a block.
enum class Flow : uint8_t {
  next,         // to the instruction behind it
  conditional,  // Jcc, LOOPcc, JrCXZ: there, or to the instruction behind it
  jump,         // JMP to a relative target
  call,         // CALL of one
  indirect,     // near JMP and CALL through a register or memory, RET
  repeat,       // a string instruction with a REP prefix: to itself, until it is done
  system,       // it asks for or changes something that is settled between blocks: mode, rights, paging, interrupts, time, ports
};
Flow flow_of(const Insn& insn);

// Flags that code computes with: the arithmetic ones and DF. (The others change in Flow::system only.)
inline constexpr uint16_t kBlockFlags = static_cast<uint16_t>(flag::arithmetic | flag::DF);

// As bits of RFLAGS, among kBlockFlags.
struct FlagUse {
  uint16_t read = 0;
  uint16_t written = 0;  // also those that manuals call undefined
  uint16_t kept = 0;     // of those written: which may stay as they were (a shift by zero, an undefined flag of some processor model)
};
FlagUse flag_use_of(const Insn& insn);

// Can the instruction be left before it is done, with the flags as they were before it: by a fault, or because an access wants to
// be the last of its block? False is certain; true also stands for what nobody has looked at.
bool may_leave(const Insn& insn);

// Does the instruction access memory where ModRM names it? (LEA and hints name an address only.)
bool accesses_named_memory(const Insn& insn);

// INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS, and the same with a REP prefix.
bool is_string(const Insn& insn);
inline bool is_repeated_string(const Insn& insn) { return insn.rep != 0 && is_string(insn); }

// A conditional branch with a condition code: Jcc.
inline bool is_conditional(const Insn& insn) {
  return (insn.map == OpMap::one_byte && insn.opcode >> 4 == 7) || (insn.map == OpMap::map_0f && insn.opcode >> 4 == 8);
}

}  // namespace retrovisor::soft
