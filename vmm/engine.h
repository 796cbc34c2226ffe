// An engine runs one vCPU until a stop. Devices, record, replay and the rest never know which one does. What only some engines do
// is asked for: vmm/stepper.h, vmm/host_engine.h.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/processor_model.h"
#include "vmm/user_tsc.h"
#include "vmm/platform.h"
#include "vmm/result.h"
#include "vmm/vcpu.h"

namespace retrovisor {

enum class EngineStop : uint8_t {
  limit,         // the clock stands at the limit
  yield,         // something outside the engine wants a look: a deadline may have moved, a stop was requested
  halted,        // HLT (state.activity says so), or wait-for-SIPI
  observed,      // an observer's hit() asked to stop
  triple_fault,
  stuck,         // exceptions without end and without a retired instruction
  kicked,        // the host interrupted the run between two events; only if Boundary::lands()
  failed,        // failure() says why
};

// One exception of the chain that ended in a triple fault.
struct ChainedFault {
  bool interrupt = false;  // no exception, but an interrupt of this vector, with whose delivery it began
  uint8_t vector = 0;
  bool has_error = false;
  uint32_t error = 0;
  uint64_t rip = 0;
  uint64_t address = 0;  // of a page fault: CR2
};

// In EngineStatistics::unknown_instructions, before the guest-physical address: no memory answered the fetch.
inline constexpr std::string_view kNoMemory = "no memory at ";

// Counters for the run's summary. Never part of machine state.
struct EngineStatistics {
  // Instructions the engine does not know, by their bytes in hex: how often each raised #UD. Where there is no memory to fetch
  // from, a word about that instead. What raises #UD on every processor (UD2 and the like) is the guest's own doing.
  std::map<std::string, uint64_t> unknown_instructions;
  uint64_t blocks_decoded = 0;
  uint64_t cache_bytes = 0;
};

// What an engine tells of itself. Never part of machine state.
struct EngineReport {
  EngineStatistics statistics;
  // Behind EngineStop::triple_fault: the exceptions, from the one that began it to the one that #DF's delivery ended with. Empty
  // where a host's processor knows alone.
  std::vector<ChainedFault> fault_chain;
  // Why run() returned EngineStop::failed.
  std::optional<Error> failure;
};

class HostEngine;
class Stepper;

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;
  // Where the engine keeps the state of vCPU `id`; Vcpu::state refers to it. Complete and exact outside of run(), but for what
  // HostEngine::complete() says.
  virtual CpuState& vcpu_state(VcpuId id) = 0;
  // Runs `vcpu` from the clock's position to at most `limit`. On return the vCPU's state and the clock are complete and exact.
  // Under TimeSource::events it returns behind each instruction with an event.
  virtual EngineStop run(Vcpu& vcpu, Position limit) = 0;
  // The state of `vcpu` was changed from outside (restore, debugger): forget what was derived from it.
  virtual void state_changed(Vcpu& vcpu) = 0;
  // Guest memory was changed behind the engine's back in bulk (restore of a snapshot).
  virtual void memory_changed() = 0;
  // Dirty flags were cleared: the next write to each page must be seen again.
  virtual void memory_protected() = 0;
  // An engine on the same state that runs instruction by instruction: this one or its assistant.
  virtual Stepper& stepper() = 0;
  // What this engine has to be asked because it lets the host's processor execute guest code; null if it does not.
  virtual HostEngine* host() = 0;
  virtual const EngineReport& report() const = 0;
};

// What an engine is made for. It depends on these what a run does.
struct EngineOptions {
  uint32_t vcpus = 1;
  ProcessorModel processor_model = ProcessorModel::model;
  UserTsc user_tsc = UserTsc::direct;
};
// Makes the engine of a machine, which gives it its platform.
using EngineFactory = std::function<Result<std::unique_ptr<Engine>>(const Platform&, const EngineOptions&)>;

std::unique_ptr<Engine> make_soft_engine(const Platform& platform, const EngineOptions& options);

}  // namespace retrovisor
