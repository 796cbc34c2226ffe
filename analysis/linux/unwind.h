// Who called whom, exactly: a kernel's stack at any instruction, by its ORC tables.
//
// Where no table covers the code (BPF programs, what has been made at run time) frame pointers are followed, which such code keeps.
// Sources: arch/x86/kernel/unwind_orc.c of Linux 5.0 to 6.12 for what entries mean; arch/x86/include/asm/ptrace.h for struct pt_regs.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "analysis/linux/kernel_memory.h"
#include "analysis/linux/orc.h"
#include "vmm/cpu/state.h"

namespace retrovisor {

// Registers of a frame, as far as they are known there.
struct FrameRegisters {
  uint64_t ip = 0;
  std::array<std::optional<uint64_t>, 16> gpr;  // by the processor's numbers: RAX 0, RCX 1, RDX 2, RBX 3, RSP 4, RBP 5, ...
  // `ip` is an instruction that was not finished: of an interrupt or exception, or of the CPU as it is. Else what a call returns to.
  bool exact = true;
  bool user = false;
  // Unwinder::frames(): the frame's address, where it has a caller; else 0 (UnwindStep::cfa).
  uint64_t cfa = 0;

  static FrameRegisters of(const CpuState& state);
  uint64_t sp() const { return gpr[4].value_or(0); }
  // An address in the code of this frame's own function: behind a call of a function that never returns, another one begins.
  uint64_t code() const { return exact ? ip : ip - 1; }
};

enum class UnwindEnd : uint8_t {
  none,        // there is a caller
  outermost,   // the kernel was entered here, or a task began here
  user,        // what follows is a program's: its registers are the caller's
  unknown,     // nothing tells of this code's frame
  unreadable,  // the stack leads to where no memory is, or back to where it came from
};

struct UnwindStep {
  UnwindEnd end{};
  FrameRegisters caller;  // of UnwindEnd::none and user
  uint64_t cfa = 0;       // the frame's address: RSP in the caller, behind its return address
  bool by_frame_pointer = false;
};

class Unwinder {
 public:
  // Says which entry an instruction has; nothing: no table covers it.
  using Find = std::function<std::optional<OrcEntry>(uint64_t ip)>;

  Unwinder(const KernelMemory& memory, Find find) : memory_(memory), find_(std::move(find)) {}

  UnwindStep step(const FrameRegisters& frame) const;
  // All frames from `frame` on, it first; at most `most`. The last step's end is `*end`.
  std::vector<FrameRegisters> frames(const FrameRegisters& frame, size_t most, UnwindEnd* end = nullptr) const;

 private:
  UnwindStep by_registers(const FrameRegisters& frame, uint64_t at, bool all) const;

  const KernelMemory& memory_;
  Find find_;
};

}  // namespace retrovisor
