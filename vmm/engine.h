// An engine runs one vCPU until a stop. Devices, record, replay and the rest never know which one does.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/processor_model.h"
#include "vmm/user_tsc.h"
#include "vmm/observer.h"
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

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;
  // Where the engine keeps the state of vCPU `id`; Vcpu::state refers to it. Complete and exact outside of run().
  virtual CpuState& vcpu_state(VcpuId id) = 0;
  // Runs `vcpu` from the clock's position to at most `limit`. On return the vCPU's state and the clock are complete and exact.
  // Under TimeSource::events it returns behind each instruction with an event.
  virtual EngineStop run(Vcpu& vcpu, Position limit) = 0;

  // --- Engines that let the host's processor execute guest code; the defaults are for those that do not. ---
  // Finishes the instruction whose event was the last, if it is not finished yet. True: it had another event.
  virtual bool settle(Vcpu&) { return false; }
  // Can an interrupt be delivered before the next instruction?
  virtual bool can_deliver(Vcpu& vcpu) = 0;
  // Brings parts of the state up to date that run() leaves aside.
  virtual void complete(Vcpu&) {}
  // Marks pages dirty that were written unseen, and takes back whatever the engine had put into guest memory.
  virtual void find_dirty() {}
  // Whether run() may return EngineStop::kicked.
  virtual void allow_kicks(bool) {}
  // The host's count of instructions since the last event; 0: there is none.
  virtual uint64_t progress() { return 0; }
  // Exceptions and interrupts delivered since the clock came to its position (traps of the instruction before are no part of
  // that); 0 from an engine that cannot tell. Forgotten by state_changed().
  virtual uint64_t deliveries() { return 0; }
  // run() also returns, with EngineStop::yield, once deliveries() is `count`; 0: it does not.
  virtual void yield_behind(uint64_t /*count*/) {}
  // run() for at most `count` instructions, whatever positions count. Asked of a stepper() only.
  virtual EngineStop run_instructions(Vcpu& vcpu, uint64_t /*count*/) { return run(vcpu, kNoPosition); }
  // An engine on the same state that takes observers and runs instruction by instruction: this one or its assistant.
  virtual Engine& stepper() { return *this; }
  // Why run() returned EngineStop::failed.
  virtual const Error* failure() const { return nullptr; }
  // The state of `vcpu` was changed from outside (restore, debugger): forget what was derived from it.
  virtual void state_changed(Vcpu& vcpu) = 0;
  // Guest memory was changed behind the engine's back in bulk (restore of a snapshot).
  virtual void memory_changed() = 0;
  // Dirty flags were cleared: the next write to each page must be seen again.
  virtual void memory_protected() = 0;
  // Installs observers, or removes them (null). The object must outlive its installation; call again after changing it
  // (`resume_from` may change freely).
  virtual void observe(const Observers* observers) = 0;
  // Keeps account of the pages that code touches; off by default.
  virtual void track_touched(bool on) = 0;
  // The pages touched since the last call. Never fewer than were.
  virtual TouchedPages take_touched() = 0;
  virtual const EngineStatistics& statistics() const = 0;
  // Behind EngineStop::triple_fault: the exceptions, from the one that began it to the one that #DF's delivery ended with. Empty
  // where a host's processor knows alone.
  virtual const std::vector<ChainedFault>& fault_chain() const {
    static const std::vector<ChainedFault> kNone;
    return kNone;
  }
};

std::unique_ptr<Engine> make_soft_engine(const Platform& platform, uint32_t vcpus,
                                         ProcessorModel processor_model = ProcessorModel::model,
                                         UserTsc user_tsc = UserTsc::direct);

}  // namespace retrovisor
