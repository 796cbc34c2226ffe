// Instructions as text.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace retrovisor {

enum class CodeMode : uint8_t { bits16, bits32, bits64 };

struct Instruction {
  size_t size = 0;   // 0: no instruction begins there
  std::string text;  // "mov eax, dword ptr [rbx]"
};

// The first instruction of `bytes`, which lies at `address`.
Instruction disassemble(std::span<const uint8_t> bytes, uint64_t address, CodeMode mode);

}  // namespace retrovisor
