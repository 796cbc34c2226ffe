// A block as the soft engine sees it: bytes, decoded instructions, and the ops made of them. For display.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "vmm/cpu/state.h"
#include "vmm/processor_model.h"
#include "vmm/result.h"

namespace retrovisor {

inline constexpr unsigned kMostBlockInstructions = 48;

// Where code lies and how the CPU takes it.
struct CodePlace {
  uint64_t address = 0;              // linear
  uint64_t instruction_pointer = 0;  // without the base of CS
  uint8_t mode = 0;          // soft::SoftCpu::mode
  ProcessorModel processor_model = ProcessorModel::model;
};
// In 16-bit code, or flat 32- or 64-bit code, with the FPU ready for use. `address` is linear.
CodePlace code_place(uint64_t address, unsigned bits, uint64_t cs_base = 0);
// Where this CPU is.
CodePlace code_place(const CpuState& state, ProcessorModel processor_model);

struct ListedMemory {
  std::string access;    // "read", "write", "read_write"
  std::string operand;   // "ds:[rbx+rcx*8+0x10]"
  unsigned size = 0;     // in bytes; 0: more than the instruction decides
  bool implicit = false;
};

// An op of the interpreter, by what its fields hold (op.h).
struct ListedOp {
  std::string handler;
  int64_t immediate = 0;
  int32_t displacement = 0;
  unsigned r0 = 0, r1 = 0, base = 0, index = 0, scale = 0, ea = 0, segment_offset = 0;
  unsigned remaining = 0;
};

struct ListedInsn {
  uint64_t address = 0;                   // linear
  uint64_t instruction_pointer = 0;
  std::vector<uint8_t> bytes;
  std::string text, note;                 // insn_text.h
  std::string decoded;                    // what our decoder made of it
  std::vector<ListedMemory> memory;       // in the order of accesses
  bool tables = false;                    // soft::MemoryOperands::tables
  std::vector<std::string> flags_read, flags_written, flags_kept, flags_live;
  bool may_leave = false;                 // by a fault or the like, before it is done
  bool fused = false;                     // part of the op before it
  std::vector<ListedOp> ops;
};

struct BlockListing {
  uint64_t address = 0;                   // linear
  uint64_t instruction_pointer = 0;
  unsigned bits = 0;
  unsigned size = 0;                      // in bytes
  unsigned ops = 0;
  std::vector<ListedInsn> instructions;
  std::string end;                        // a name: "branch", "page_end", ...
  std::string end_text;                   // in words
  std::vector<uint64_t> successors;       // instruction pointers that the end names: the target, and the next instruction
  std::vector<ListedOp> end_ops;          // that go on with the next block
};

// `bytes`: from the block's start on, as many as there are (of the page that it is in, and of the next, for an instruction that
// crosses into it); Capstone sees those behind the block, too. `handler_name`: of the function at an address. An error if there is
// no whole instruction.
Result<BlockListing> list_block(std::span<const uint8_t> bytes, const CodePlace& place, unsigned most,
                                const std::function<std::string(uintptr_t)>& handler_name);

}  // namespace retrovisor
