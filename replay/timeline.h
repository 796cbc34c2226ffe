// The timeline: a recorded run that can be entered at any position, and run forwards and backwards from there. Where the
// trace has key frames, far places are entered at them; what lies between is run, and compared with the recording, when it
// is asked about.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vmm/boot/loader.h"
#include "vmm/machine/machine.h"
#include "vmm/observer.h"

namespace retrovisor {

// Bytes of memory, whichever addresses lead to them.
struct ByteWatch {
  PhysRange bytes;
  // An address that leads to bytes.begin. As a condition: only changes made while it does so count, in the address space of
  // the vCPU that makes them.
  std::optional<LinearAddr> seen_at;
};

// Who gave bytes the values that they have.
struct LastChange {
  std::optional<Observation> write;  // a physical_write; none: they are as they were at the beginning
  // Whether `seen_at` of the bytes that were written led to them then: with the tables that it was asked about, or, in the half of
  // the address space that kernels share, with the writer's.
  bool led_there = true;
  // Not found: memory held other values at the first of these positions than at the second, and nothing was seen to write.
  std::optional<std::pair<Position, Position>> unseen;
};

// What forward and backward runs stop at, beside the ends of history.
struct StopConditions {
  std::vector<uint64_t> breakpoints;  // linear addresses; any order
  std::vector<Watch> watches;         // write watches stop only where the value changes
  std::vector<ByteWatch> bytes;       // where these change; Observation::index is that of this list
  EventMask events = 0;               // kinds of journal events (exception, interrupt, ports, MMIO, ...)
  std::function<bool(const JournalEvent&)> event_filter;  // of those kinds, which; empty: all
};

// Is what an observer was told of a hit of these conditions? In the middle of its instruction.
bool is_hit(const StopConditions& conditions, const Observation& o, Machine& machine);
// Does `linear` lead to `phys` with these tables?
bool leads_to(const CpuState& state, GuestMemory& memory, LinearAddr linear, PhysAddr phys);

struct TimelineStop {
  enum class Reason : uint8_t {
    position,    // where it was asked to go
    breakpoint,
    watch,       // `observation` says which
    event,       // `event` says which
    begin,       // the beginning of history
    end,         // the end of history; `machine_stop` says how the recording ended, if it knows
    interrupted, // the host asked to stop
  };
  Reason reason{};
  Position position;  // where the timeline now stands
  std::optional<Observation> observation;
  std::optional<JournalEvent> event;
  Stop machine_stop;
  std::vector<ChainedFault> faults;  // of a triple fault
};

struct TimelineOptions {
  uint64_t checkpoint_memory = 0;         // bytes of the page store and the checkpoints; 0: a quarter of host RAM
  uint64_t checkpoint_spacing = 0;        // instructions between two lasting checkpoints; 0: 16 Mi
  // A key frame of the trace is used where that saves running more instructions than this; none: what restoring it costs.
  std::optional<uint64_t> key_frame_reach;
  std::function<bool()> interrupted;      // asked every few milliseconds while running; may be empty
  std::function<void(Position now, Position end)> progress;  // may be empty
};

// What a checkpointed timeline costs and holds, for `monitor checkpoints` and benchmarks.
struct CheckpointFigures {
  size_t count = 0;
  uint64_t bytes = 0;           // of all checkpoints and the page store
  uint64_t pages_stored = 0;    // distinct pages in the store
  uint64_t pages_captured = 0;  // pages dirtied between checkpoints, summed
  size_t key_frames = 0;        // of the trace; how often one was restored
  uint64_t key_frames_restored = 0;
};

// A state is named by its position: it is that of arrival there, before any interrupt, fault or timer at that position. So a
// breakpoint on the first instruction of a handler stands at the instruction that was interrupted, which comes at the same
// position; the next step shows the handler. Each iteration of a repeated string operation is a position, and a breakpoint
// on it stops at each. Addresses are linear ones, in whatever address space is current when they are used.
class Timeline {
 public:
  static Result<std::unique_ptr<Timeline>> open(const std::string& trace, const BootImages& images, TimelineOptions options);
  virtual ~Timeline() = default;

  // The machine, at position(). Callers read it; changing it is what a diversion is for.
  virtual Machine& machine() = 0;
  virtual Position position() const = 0;
  virtual Position begin() const = 0;
  // The end of what the trace holds.
  virtual Position end() const = 0;

  // Goes to `target` (clamped to history). The state there is the same whichever way one arrives.
  virtual Result<TimelineStop> seek(Position target) = 0;
  // Runs forward until a condition holds at a position after the present one, or to `limit`.
  virtual Result<TimelineStop> forward(const StopConditions& conditions, Position limit) = 0;
  // Runs backward to the last place before the present position where a condition holds. A breakpoint at P: stands at P,
  // before its instruction. A watch or event caused by the instruction executed at P: stands at P, before it, so that memory
  // holds the old value. Nothing found: at `limit` or at the beginning. At the end, the exceptions of a triple fault come first:
  // they happen there, so the first of them that is asked for is told without moving, once.
  virtual Result<TimelineStop> backward(const StopConditions& conditions, Position limit) = 0;
  // The last change before the present position of any of these bytes, by whomever and through whatever address. What is
  // answered has been compared with memory: from there to here it holds what was written. `asker`: whose tables seen_at is about.
  // The timeline does not move.
  virtual Result<LastChange> last_change(const std::vector<ByteWatch>& bytes, VcpuId asker) = 0;
  // The last access through these linear addresses, in any address space, that changed what they led to; the timeline does
  // not move.
  virtual Result<std::optional<Observation>> last_write(LinearAddr address, uint64_t size) = 0;

  // Makes checkpoints along the whole recording (a first pass), as far as memory allows.
  virtual Result<void> warm() = 0;
  virtual CheckpointFigures checkpoints() const = 0;
  virtual std::vector<Position> checkpoint_positions() const = 0;

  // A diversion: from here machine() is a private copy of the state that may be changed and run; history is not touched.
  // Nested calls do nothing. end_diversion() brings the recorded state at position() back.
  virtual Result<void> begin_diversion() = 0;
  virtual bool diverted() const = 0;
  virtual Result<void> end_diversion() = 0;
  // Runs the diversion forward as a machine of its own (virtual time, no input) until a condition or `instructions` are over.
  virtual Result<TimelineStop> run_diversion(const StopConditions& conditions, uint64_t instructions) = 0;
};

}  // namespace retrovisor
