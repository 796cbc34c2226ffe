// The linear sweep of CodePatches: do these bytes begin an instruction?
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "vmm/kvm/code_patches.h"

namespace retrovisor::kvm {

class CodeSweep {
 public:
  // A kernel maps its tables executable, too, at first, and two bytes are soon found in a table of numbers that can be decoded
  // for long. So around one that was not reached from where an instruction is known to begin, and around returns to programs,
  // which kernels have among other code, there have to be kBranches within kWindow bytes on both sides: a table has about
  // none, kernel text one in 40 bytes.
  static constexpr unsigned kBranches = 3;
  // How many bytes before a candidate a sweep begins, and how many instructions in a row prove that it is in step. Measured
  // over the text of a Debian 6.1 kernel: code read out of step is back in step after two instructions in the mean, and in
  // 99.96 of 100 places before the 32nd in a row that can be decoded.
  static constexpr uint64_t kWindow = 512;
  static constexpr unsigned kInStep = 32;

  // `area` and `view` outlive it. Nothing: no disassembler.
  static std::unique_ptr<CodeSweep> create(const CodePatches& view, const GuestMemory& memory,
                                           const CodePatches::Area& area);
  ~CodeSweep();
  CodeSweep(const CodeSweep&) = delete;
  CodeSweep& operator=(const CodeSweep&) = delete;

  struct Found {
    PhysAddr start;
    PatchInstruction instruction;
  };
  struct Answer {
    enum class Is : uint8_t { instruction, other_code, doubtful } is = Is::doubtful;
    Found found;  // if it is an instruction
  };
  // Is the byte at `opcode` where the opcode of one of the instructions begins? Ask in ascending order: what the last answer
  // proved helps.
  Answer ask(PhysAddr opcode);
  // Sweeps from places that were not known to begin an instruction.
  size_t blind_sweeps() const { return blind_sweeps_; }

 private:
  CodeSweep(const CodePatches& view, const GuestMemory& memory, const CodePatches::Area& area);

  struct Run {
    bool in_step = false;
    uint64_t start = 0;  // of the instruction that holds the candidate
    uint64_t end = 0;
    unsigned branches = 0;                        // decoded on the way, in one piece, with a target in the area
    std::optional<PatchInstruction> instruction;  // if the candidate is its opcode
  };
  Run run(std::span<const uint8_t> window, uint64_t window_at, uint64_t from, bool in_step, uint64_t opcode);
  // Branches from `from` on, as far as these bytes are code.
  unsigned branches_behind(std::span<const uint8_t> window, uint64_t window_at, uint64_t from);
  // A direct branch of 32 bits to a place in the area.
  bool branches_inside(std::span<const uint8_t> bytes, unsigned length, uint64_t at) const;
  unsigned decode(std::span<const uint8_t> bytes, uint64_t at);  // its length, 0 if these bytes are no code
  // The first of area_.starts at or after `at`, as physical address; UINT64_MAX: none.
  uint64_t next_start(uint64_t at) const;

  struct Disassembler;
  const CodePatches& view_;
  const GuestMemory& memory_;
  const CodePatches::Area& area_;
  std::unique_ptr<Disassembler> disassembler_;
  uint64_t ground_ = 0;  // an instruction begins here, if this is code
  bool in_code_ = true;  // it is: reached from where an instruction is known to begin, or with kBranches around
  size_t blind_sweeps_ = 0;
};

}  // namespace retrovisor::kvm
