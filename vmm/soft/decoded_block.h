// A run of instructions in decoded form: what guest bytes say, before anything is made of it. The interpreter's ops are made of
// this (block_ops.h), and listings and all else that reads code read it.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "vmm/processor_model.h"
#include "vmm/soft/decode.h"
#include "vmm/soft/insn.h"
#include "vmm/soft/insn_facts.h"
#include "vmm/soft/memory_operand.h"

namespace retrovisor::soft {

inline constexpr unsigned kMaxBlockInsns = 48;

// All that decoding depends on, beside the bytes.
struct CodeContext {
  uint8_t mode = 0;  // SoftCpu::mode (namespace block_mode)
  ProcessorModel processor_model = ProcessorModel::model;
};

// Why a block ends where it does.
enum class BlockEnd : uint8_t {
  branch,          // a relative branch: goes to DecodedBlock::target, or (conditional) on
  indirect,        // a near branch to wherever a register or memory says
  repeat,          // a string instruction with REP: comes back until it is done
  system,          // an instruction that may change what decoding depends on, or meets the world outside (Flow::system)
  undefined,       // an instruction that there is not: #UD
  page_end,        // the last instruction reaches the end of its page
  bytes_end,       // the next instruction is not whole in what can be fetched: its page or its segment ends in it
  too_long,        // the next instruction has more than 15 bytes
  most_instructions,  // there are as many as were asked for
  cut,             // whoever asked for the block wants it to end here (BlockCuts)
};

struct DecodedInsn {
  Insn insn;
  DecodeStatus status = DecodeStatus::ok;  // ok or invalid
  Flow flow = Flow::next;
  uint16_t offset = 0;                     // from the start of the block
  FlagUse flags;
  uint16_t live = 0;                       // flags (among kBlockFlags) that something reads before they are written again
  std::array<uint8_t, kMaxInsnLength> bytes;  // insn.length of them

  // Of a relative branch: where it goes, from the start of the block. (In 16- and 32-bit code the instruction pointer is then cut
  // to the operand size.)
  int64_t target() const { return static_cast<int64_t>(offset) + insn.length + insn.imm; }
  // None, if it is no instruction that there is.
  MemoryOperands memory() const { return status == DecodeStatus::ok ? memory_operands_of(insn) : MemoryOperands{}; }
};

class DecodedBlock {
 public:
  std::span<const DecodedInsn> instructions() const { return {insns_.data(), count_}; }
  const DecodedInsn& last() const { return insns_[count_ - 1]; }
  bool empty() const { return count_ == 0; }
  unsigned count() const { return count_; }
  unsigned size() const { return size_; }  // in bytes
  const CodeContext& context() const { return context_; }
  BlockEnd end() const { return end_; }

  // The instruction at `index` is not one that there is (which only those know who make something of it): it is the last.
  void end_undefined(unsigned index);

 private:
  friend class BlockBuilder;
  void find_live_flags();

  CodeContext context_;
  std::array<DecodedInsn, kMaxBlockInsns> insns_;
  unsigned count_ = 0;
  unsigned size_ = 0;
  BlockEnd end_ = BlockEnd::bytes_end;
};

// Where a block shall end although its code goes on: asked behind each instruction.
class BlockCuts {
 public:
  // `begin` and `end` of the instruction, from the start of the block.
  virtual bool cut_behind(unsigned begin, unsigned end) const = 0;

 protected:
  ~BlockCuts() = default;
};

// Where instructions come from.
struct CodeBytes {
  std::span<const uint8_t> bytes;  // from the start of the block, as far as they can be fetched
  unsigned in_page = 0;            // how many are left to the end of the page where the block begins
};

// Decodes from the first of the bytes until something ends the block. It is empty if there is no whole instruction: end() is
// bytes_end or too_long then. `most`: up to kMaxBlockInsns. `cuts` may be null.
void decode_block(const CodeBytes& code, const CodeContext& context, unsigned most, const BlockCuts* cuts, DecodedBlock& out);

}  // namespace retrovisor::soft
