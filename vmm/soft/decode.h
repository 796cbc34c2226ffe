// The instruction decoder.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/soft/insn.h"

namespace retrovisor::soft {

enum class DecodeStatus : uint8_t {
  ok,
  truncated,  // more bytes are needed than there are (fewer than kMaxInsnLength were given)
  too_long,   // more than 15 bytes: #GP(0)
  invalid,    // no such opcode: #UD; `length` holds what was read
};

// Decodes one instruction from the `available` bytes at `bytes`. `mode`: block_mode::code16, code32 or code64.
// Knows every defined one-, two- and three-byte opcode's format (so lengths are right even for instructions that the
// engine then answers with #UD, such as VEX-coded ones).
DecodeStatus decode(const uint8_t* bytes, size_t available, uint8_t mode, Insn& out);

}  // namespace retrovisor::soft
