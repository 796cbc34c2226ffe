// A decoded instruction as text. Capstone's words are for some other processor now and then: with other instructions, or with other
// rules about prefixes. What our decoder and the CPU model say counts, and where they differ from Capstone, that is told.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace retrovisor {

namespace soft {
struct DecodedInsn;
}

struct InsnText {
  std::string text;  // "mov eax, dword ptr [rbx]"; "(bad)" for what raises #UD
  std::string note;  // what Capstone takes it for, if that is something else: "capstone reads 4 bytes: call 0x3215"; or empty
};

// `bytes`: from the instruction on, as many as there are. `instruction_pointer`: its own.
InsnText insn_text(const soft::DecodedInsn& insn, std::span<const uint8_t> bytes, uint64_t instruction_pointer);

// A general register of this many bytes: "r8d".
std::string register_name(uint8_t number, unsigned size);
// Where a relative branch leads from there: what the instruction pointer is cut to goes by mode and operand size.
uint64_t branch_target(const soft::DecodedInsn& insn, uint64_t instruction_pointer);

}  // namespace retrovisor
