// How far a guest has come, counted by the host and exactly: what an interrupt's landing point is made of where a
// synchronous exit is not near. Which counter a host has, and whether it is exact there, is found out by probe.h.
//
// A count is a difference of two readings at exits; it names a point only together with the registers (several instructions
// lie between two conditional branches). Nothing of it may reach machine state other than through the boundary.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "vmm/kvm/kvm_api.h"
#include "vmm/result.h"

namespace retrovisor::kvm {

enum class ProgressKind : uint8_t {
  none,
  // KVM's statistic `insn_emulation` of the vCPU. Counts the instructions that KVM executes in software, so it is exact
  // progress where ring 0 is emulated and never moves where the guest runs natively. REP counts one per 1024 iterations.
  emulated_instructions,
  // The PMU's retired conditional branches in guest mode, of the thread that runs the vCPU.
  conditional_branches,
};
std::string_view to_string(ProgressKind kind);

class ProgressCounter {
 public:
  virtual ~ProgressCounter() = default;
  virtual ProgressKind kind() const = 0;
  virtual std::string_view name() const = 0;
  // The count so far; it starts anywhere. Only between KVM_RUNs, on the vCPU's thread. Nothing: the host did not count all
  // the time (another user of the PMU took the counter), so differences to earlier readings mean nothing.
  virtual std::optional<uint64_t> read() = 0;
};

// The counter of that kind for `vcpu`, which must outlive it. `none` gives a counter that always reads nothing.
Result<std::unique_ptr<ProgressCounter>> open_progress_counter(ProgressKind kind, const KvmVcpu& vcpu);

// --- KVM_GET_STATS_FD -----------------------------------------------------------------------------------------------

// pread of a statistics file: the number of bytes read, or a negative number.
using ReadStats = std::function<long(uint64_t offset, std::span<uint8_t> out)>;

// The file offset of the 64-bit value of the statistic `name`: a cumulative count without unit or scale. What the file says
// is checked as if hostile. Source: Documentation/virt/kvm/api.rst, 4.133 KVM_GET_STATS_FD.
Result<uint64_t> find_stat(const ReadStats& read, std::string_view name);

// --- Performance events ---------------------------------------------------------------------------------------------

// The event "retired conditional branches" of a processor family, and how far behind an overflow the interrupt can come.
struct BranchEvent {
  std::string_view processors;
  uint64_t config = 0;         // perf_event_attr.config of PERF_TYPE_RAW
  uint32_t skid = 0;           // conditional branches, at most
  bool skid_exceeded = false;  // rare cases beyond `skid` are known
};

struct HostProcessor {
  std::string vendor;              // "GenuineIntel"
  uint32_t family = 0, model = 0;  // with their extended parts (SDM 2A, CPUID leaf 1)
};
HostProcessor host_processor();

// Nothing: no event of this processor is known to be exact.
std::optional<BranchEvent> branch_event(const HostProcessor& processor);

}  // namespace retrovisor::kvm
