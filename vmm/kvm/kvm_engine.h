// The KVM engine: guest code runs on the host's processor; what KVM cannot do, a soft engine of its own does for it.
// Source: Documentation/virt/kvm/api.rst.
//
// Positions are synchronous events (MachineControl::synchronous_event). The vCPU's state has its home in the soft engine and is moved to KVM
// and back as needed, so either can go on where the other stopped.
#pragma once

#include <memory>

#include "vmm/engine.h"

namespace retrovisor::kvm {

class SystemCalls;

struct KvmEngineOptions {
  // Which engine runs the guest where both could. The result of a run does not depend on it.
  enum class Share : uint8_t {
    kvm,          // KVM whatever it can
    kernel_only,  // KVM rings 0 to 2, the soft engine ring 3: the kernel's known returns to its programs are patched
    in_turns,     // they take turns at events, as `turns` says: for tests
    stepped,      // KVM, step by step, instructions that every KVM does right (plain_code.h); the soft engine the rest: slow,
                  // and exact on hosts whose KVM emulates and gets things wrong
  };
  Share share = Share::kvm;
  // KVM runs nothing but 64-bit code in the upper half of the address space: a Linux kernel, but not what unpacks it, which
  // reads the clock and looks at its own code as data.
  bool upper_half_only = false;
  uint64_t turns = 1;  // seed of the turns
  SystemCalls* calls = nullptr;  // null: the real ones. Outlive the engine
};

// Counts for the summary. Never part of machine state.
struct KvmStatistics {
  uint64_t entries = 0;     // of KVM_RUN
  uint64_t soft = 0;        // instructions of the soft engine, for whatever reason
  uint64_t assists = 0;     // those of them that KVM could not execute, or would have executed wrongly: breakpoints
  uint64_t kicks = 0;
  uint64_t progress = 0;    // instructions that KVM counted, where it counts
  uint64_t patched = 0;     // sites of RDTSC and the like
  std::map<std::string, uint64_t> assisted;  // how often each, by mnemonic or bytes in hex
};

// Makes engines for machines of one vCPU whose clock counts events, and whose processor model is the host's.
EngineFactory kvm_engine(const KvmEngineOptions& options = {});
// The statistics of an engine that kvm_engine() made; null for any other.
const KvmStatistics* kvm_statistics(const Engine& engine);

}  // namespace retrovisor::kvm
