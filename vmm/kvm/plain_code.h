// Instructions that every KVM executes as the manual says, whatever it is built on: integer arithmetic, moves and near
// branches of ring 0 that raise no exception. For KvmEngineOptions::Share::stepped.
//
// The answer is on the safe side: an instruction that might fault, or needs more than one page for an operand, is not plain.
#pragma once

#include <cstdint>
#include <span>

#include "vmm/cpu/state.h"
#include "vmm/memory/guest_memory.h"

struct cs_insn;

namespace retrovisor::kvm {

class PlainCode {
 public:
  PlainCode() = default;
  ~PlainCode();
  PlainCode(const PlainCode&) = delete;
  PlainCode& operator=(const PlainCode&) = delete;

  // Is the instruction that the vCPU is about to execute plain, in the state that it is in?
  bool is_next(const CpuState& s, GuestMemory& memory);

 private:
  bool open(unsigned bits);

  size_t disassembler_ = 0;  // Capstone's handle
  cs_insn* insn_ = nullptr;
};

}  // namespace retrovisor::kvm
