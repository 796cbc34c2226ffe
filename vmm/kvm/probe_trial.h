// What the probes of probe.cc and probe_programs.cc share: a fresh tiny guest for each piece of code.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vmm/kvm/probe.h"
#include "vmm/kvm/tiny_guest.h"

namespace retrovisor::kvm {

using Code = std::vector<uint8_t>;

inline constexpr std::chrono::milliseconds kLimit{50};  // for code that ends by itself after a few instructions

inline Finding failed(const Error& error) { return {Answer::unknown, error.text()}; }
inline Answer answer(bool yes) { return yes ? Answer::yes : Answer::no; }

// A fresh guest with `code` in it, run to its first exit.
struct Trial {
  std::unique_ptr<TinyGuest> guest;
  TinyGuest::End end;
  kvm_regs regs{};
};
Result<Trial> try_code(const Kvm& kvm, TinyGuest::Ring ring, std::span<const uint8_t> code, uint64_t cr4 = 0,
                       const kvm_guest_debug* debug = nullptr);

// The questions about what programs, and the kernels under them, meet: int_n_ring3 to wrmsr_checked.
void ask_programs(const Kvm& kvm, KvmProbe& probe);

}  // namespace retrovisor::kvm
