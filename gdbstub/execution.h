// Moves a target: forwards, backwards, by one instruction, into diversions and out of them. What the packets and the monitor
// commands share.
//
// Diversions. The first write to memory or to a register while a recorded run is debugged begins a diversion: a private copy
// of the state. The next resume ends it, and what was written is forgotten, but for two cases:
//  - the debugger calls a function of the guest (gdb's `print f(1)`): it has changed the program counter and has put a
//  return
//    address on the stack at which there is a breakpoint. Then resuming runs the diversion, until all general registers are
//    again those of the recording: the debugger has put them back after the call. Memory that the function wrote stays
//    written until the next resume.
//  - the user has said `monitor go-live`: the diversion runs until something goes back into history.
//
// Handlers. The state at a position is the one before any interrupt or exception that is taken there, so the first
// instruction of a handler has no position of its own. A breakpoint on it is shown all the same: in a diversion that takes
// the interrupt and no step more. From there a step forward leads behind the handler's first instruction, a step back to the
// interrupted one.
//
// Several vCPUs run in turns, one at a time, and history says whose turn it is: none can be held while another runs. A step
// of one vCPU goes on until that vCPU has executed an instruction, through the others' turns, in which breakpoints stop; a
// step back goes to before the last instruction that it has executed.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gdbstub/breakpoints.h"
#include "gdbstub/byte_watches.h"
#include "gdbstub/registers.h"
#include "gdbstub/target.h"

namespace retrovisor::gdb {

// Events that stop a run as breakpoints do: `monitor break-on`.
struct EventBreak {
  EventKind kind{};
  std::optional<uint64_t> a;  // vector, port, address; none: all
  std::string text;           // what the user asked for
};

class Execution {
 public:
  explicit Execution(DebugTarget& target) : target_(target), selected_(target.machine().next_vcpu()), reported_(selected_) {}

  DebugTarget& target() { return target_; }
  Machine& machine() { return target_.machine(); }
  Timeline* timeline() { return target_.timeline(); }
  Breakpoints& breakpoints() { return breakpoints_; }
  std::vector<EventBreak>& event_breaks() { return event_breaks_; }
  ByteWatches& byte_watches() { return byte_watches_; }

  // The vCPU that the debugger looks at: that of the last stop, or another that it has chosen since.
  VcpuId selected() const { return selected_; }
  void select(VcpuId vcpu) { selected_ = vcpu; }
  // The vCPU that a stop is about: which hit something, or was stepped; else the one that runs next.
  VcpuId vcpu_of(const TimelineStop& stop);
  // The debugger is told of this stop.
  void reported(const TimelineStop& stop) { selected_ = reported_ = vcpu_of(stop); }

  Result<TimelineStop> continue_forward();
  // One instruction of `vcpu`, or as many of others as come before it.
  Result<TimelineStop> step(VcpuId vcpu);
  // Instructions of `vcpu` until its program counter leaves begin..end-1, or something stops it.
  Result<TimelineStop> step_range(VcpuId vcpu, uint64_t begin, uint64_t end);
  // Back to before the last instruction of `vcpu`.
  Result<TimelineStop> reverse_step(VcpuId vcpu);
  Result<TimelineStop> reverse_continue();
  Result<TimelineStop> seek(Position position);

  // Before memory or registers are written.
  Result<void> before_change();
  // After they were.
  void changed();
  // Ends a diversion, whatever goes on in it; nothing if there is none.
  Result<void> leave_diversion();
  Result<void> go_live();
  bool is_live() const { return live_; }
  // At the first instruction of a handler.
  bool entering_handler() const { return entering_.has_value(); }
  bool diverted() { return timeline() != nullptr && timeline()->diverted(); }

  // What the user should be told since the last call; may be empty.
  std::string take_note() { return std::exchange(note_, {}); }

 private:
  StopConditions conditions(bool with_breakpoints);
  // Whether a resume goes on in the diversion.
  bool runs_diversion();
  bool registers_restored();
  bool calling();
  // What a resume begins with: either the diversion goes on, or history does.
  Result<void> settle(bool backward);
  Result<TimelineStop> run(const StopConditions& conditions, Position limit);
  Result<TimelineStop> run_recorded(const StopConditions& conditions, Position limit);
  // A stop at a breakpoint that is not at the program counter: goes on to it if it is a handler's.
  Result<TimelineStop> show_handler(Result<TimelineStop> stop);
  uint64_t pc(VcpuId vcpu) { return machine().vcpu(vcpu).state.linear_rip().value; }
  bool one_vcpu() { return machine().config().vcpus == 1; }
  static StopConditions with_turns(StopConditions c, std::function<bool(const JournalEvent&)> wanted);
  static StopConditions with_events_before(StopConditions c, Position from);
  Result<TimelineStop> step_to(VcpuId vcpu);
  // Runs until `vcpu` gets its turn: nothing, if it has not executed an instruction yet. Or something stops the others.
  Result<std::optional<TimelineStop>> other_turns(VcpuId vcpu, Position limit);
  Result<TimelineStop> back_by_one(Position from);
  // A breakpoint of the vCPU that runs next, where the debugger was told of a stop of another.
  std::optional<TimelineStop> breakpoint_here();

  DebugTarget& target_;
  VcpuId selected_, reported_;
  std::optional<VcpuId> stepped_;  // by the last step, to its end
  Breakpoints breakpoints_;
  std::vector<EventBreak> event_breaks_;
  ByteWatches byte_watches_;
  bool live_ = false;
  bool calling_ = false;
  std::optional<VcpuId> entering_;
  std::optional<VcpuId> left_handler_;  // where the present resume began
  bool changed_ = false;                // since the engine was told of changes
  bool wrote_ = false;                  // anything in this diversion
  struct Registers {
    std::array<uint64_t, 16> gpr{};
    uint64_t rip = 0;
    bool operator==(const Registers&) const = default;
  };
  std::vector<Registers> recorded_;  // of each vCPU, when the diversion began
  std::string note_;
};

}  // namespace retrovisor::gdb
