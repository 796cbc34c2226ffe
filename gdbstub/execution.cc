#include "gdbstub/execution.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "gdbstub/memory_view.h"

namespace retrovisor::gdb {
namespace {

// After so many instructions a called function that has not come back is stopped where it is.
constexpr uint64_t kMaxCall = 20'000'000'000;
// A stub may end a range step when it likes (E.2, "vCont;r"); the debugger starts another.
constexpr uint64_t kMaxRangeSteps = 200'000;
constexpr uint64_t kStepsBetweenPolls = 256;
// How long another vCPU's turn may last before the one that is to be stepped comes to its own; then the step ends early.
constexpr uint64_t kMaxOtherTurns = 10'000'000;

}  // namespace

StopConditions Execution::conditions(bool with_breakpoints) const {
  StopConditions c;
  if (with_breakpoints) c.breakpoints = breakpoints_.code();
  c.watches = breakpoints_.watches();
  for (const EventBreak& e : event_breaks_) c.events |= mask_of(e.kind);
  if (c.events != 0)
    c.event_filter = [breaks = event_breaks_](const JournalEvent& e) {
      return std::any_of(breaks.begin(), breaks.end(),
                         [&](const EventBreak& b) { return b.kind == e.kind && (!b.a || *b.a == e.a); });
    };
  return c;
}

// --- diversions -------------------------------------------------------------------------------------------------------

Result<void> Execution::before_change() {
  const bool first = timeline() != nullptr && !wrote_;
  RV_TRY(target_.before_change());
  wrote_ = true;
  if (!first) return {};
  recorded_.clear();
  calling_ = false;
  for (uint32_t i = 0; i < machine().config().vcpus; ++i) {
    const CpuState& s = machine().vcpu(VcpuId(i)).state;
    recorded_.push_back({s.gpr, s.rip});
  }
  return {};
}

void Execution::changed() {
  changed_ = true;
  if (calling_ && registers_restored()) calling_ = false;  // the call is over
}

Result<void> Execution::go_live() {
  if (timeline() == nullptr) return {};
  const bool wrote = wrote_;
  RV_TRY(before_change());
  wrote_ = wrote;
  live_ = true;
  return {};
}

Result<void> Execution::leave_diversion() {
  if (timeline() == nullptr || !timeline()->diverted()) return {};
  RV_TRY(timeline()->end_diversion());
  if (wrote_ || live_)
    note_ +=
        fmt::format("[retrovisor] back in the recorded run at position {}: what was changed or run beside it is dropped\n",
                    timeline()->position().value);
  wrote_ = live_ = calling_ = changed_ = entering_ = false;
  recorded_.clear();
  return {};
}

bool Execution::registers_restored() {
  for (uint32_t i = 0; i < recorded_.size(); ++i) {
    const CpuState& s = machine().vcpu(VcpuId(i)).state;
    if (!(recorded_[i] == Registers{s.gpr, s.rip})) return false;
  }
  return true;
}

// Has the debugger prepared a call? A new program counter, and a breakpoint where the top of the stack says to return to.
bool Execution::calling() {
  for (uint32_t i = 0; i < recorded_.size(); ++i) {
    const CpuState& s = machine().vcpu(VcpuId(i)).state;
    if (s.rip == recorded_[i].rip) continue;
    uint64_t return_address = 0;
    const size_t size = s.mode64() ? 8 : 4;
    uint8_t raw[8] = {};
    const uint64_t stack = s.mode64() ? s.gpr[RSP] : (s.segment[SS].base + s.gpr[RSP]) & 0xffffffff;
    if (MemoryView(machine(), s, false).read(stack, std::span(raw, size)) != size) continue;
    std::memcpy(&return_address, raw, size);
    if (breakpoints_.code_at(return_address)) return true;
  }
  return false;
}

bool Execution::runs_diversion() {
  if (!diverted()) return false;
  if (live_) return true;
  if (registers_restored()) {
    calling_ = false;
    return false;
  }
  calling_ = calling_ || calling();
  return calling_;
}

Result<void> Execution::settle(bool backward) {
  if (changed_) {
    machine().memory_changed();
    for (uint32_t i = 0; i < machine().config().vcpus; ++i) machine().engine().state_changed(machine().vcpu(VcpuId(i)));
    changed_ = false;
  }
  if (diverted() && (backward || !runs_diversion())) return leave_diversion();
  return {};
}

// --- forwards ---------------------------------------------------------------------------------------------------------

Result<TimelineStop> Execution::run(const StopConditions& c, Position limit) {
  if (!diverted()) return target_.forward(c, limit);
  const Position now = machine().position();
  const uint64_t most = live_ ? UINT64_MAX : kMaxCall;
  const uint64_t instructions = limit > now ? std::min(limit - now, most) : 0;
  auto stop = timeline()->run_diversion(c, instructions);
  if (stop && stop->reason == TimelineStop::Reason::position && instructions == kMaxCall)
    note_ += fmt::format("[retrovisor] the called function has not returned in {} instructions\n", kMaxCall);
  return stop;
}

Result<TimelineStop> Execution::show_handler(Result<TimelineStop> stop) {
  if (!stop || stop->reason != TimelineStop::Reason::breakpoint || timeline() == nullptr || diverted()) return stop;
  if (breakpoints_.code_at(pc())) return stop;
  RV_TRY(timeline()->begin_diversion());
  const Position here = machine().position();
  Observers observers;
  observers.breakpoints = breakpoints_.code();
  observers.hit = [&](const Observation& o) {
    stop->observation = o;
    entering_ = o.position == here;
    return true;
  };
  machine().engine().observe(&observers);
  machine().run_until(here + 1);
  machine().engine().observe(nullptr);
  if (entering_) return stop;
  RV_TRY(timeline()->end_diversion());  // what interrupts here does not come by itself (input): the position alone is told
  return stop;
}

Result<TimelineStop> Execution::continue_forward() {
  RV_TRY(settle(false));
  return show_handler(run(conditions(true), kNoPosition));
}

Result<TimelineStop> Execution::step(VcpuId vcpu) {
  RV_TRY(settle(false));
  StopConditions c = conditions(false);
  const Position start = machine().position();
  for (;;) {
    auto stop = run(c, machine().position() + 1);
    if (!stop || stop->reason != TimelineStop::Reason::position || machine().config().vcpus == 1 || current_vcpu() == vcpu ||
        machine().position() - start > kMaxOtherTurns)
      return stop;
    // Another vCPU's turn: on to the end of it.
    StopConditions turn = conditions(true);
    const auto filter = turn.event_filter;
    turn.event_filter = [filter, events = turn.events, vcpu](const JournalEvent& e) {
      if (e.kind == EventKind::vcpu_switch && e.a == vcpu.value) return true;
      return (events & mask_of(e.kind)) != 0 && (!filter || filter(e));
    };
    turn.events |= mask_of(EventKind::vcpu_switch);
    stop = run(turn, start + kMaxOtherTurns);
    if (!stop || stop->reason != TimelineStop::Reason::event || stop->event->kind != EventKind::vcpu_switch) return stop;
  }
}

Result<TimelineStop> Execution::step_range(VcpuId vcpu, uint64_t begin, uint64_t end) {
  for (uint64_t steps = 1;; ++steps) {
    auto stop = step(vcpu);
    if (!stop || stop->reason != TimelineStop::Reason::position) return stop;
    const uint64_t pc = linear_pc(machine().vcpu(vcpu).state);
    if (pc < begin || pc >= end || steps >= kMaxRangeSteps) return stop;
    if (breakpoints_.code_at(pc)) {
      stop->reason = TimelineStop::Reason::breakpoint;
      return stop;
    }
    if (steps % kStepsBetweenPolls == 0 && target_.interrupted()) {
      stop->reason = TimelineStop::Reason::interrupted;
      return stop;
    }
  }
}

// --- backwards --------------------------------------------------------------------------------------------------------

namespace {

Error no_way_back() {
  return {ErrorCode::unsupported, "this machine runs for the first time and cannot go back: record it, then debug its trace",
          ""};
}

}  // namespace

Result<TimelineStop> Execution::reverse_step() {
  if (timeline() == nullptr) return no_way_back();
  const bool from_handler = entering_;
  RV_TRY(settle(true));
  const Position now = timeline()->position();
  if (from_handler) {  // the interrupted instruction
    TimelineStop stop;
    stop.position = now;
    return stop;
  }
  const Position begin = timeline()->begin();
  if (now <= begin) {
    TimelineStop stop;
    stop.reason = TimelineStop::Reason::begin;
    stop.position = now;
    return stop;
  }
  const StopConditions c = conditions(false);
  const bool plain = c.watches.empty() && c.events == 0;
  auto stop = plain ? timeline()->seek(now - 1) : timeline()->backward(c, now - 1);
  // Coming to the first instruction is a step like others; wanting to go further back is not.
  if (stop && stop->reason == TimelineStop::Reason::begin) stop->reason = TimelineStop::Reason::position;
  return stop;
}

Result<TimelineStop> Execution::reverse_continue() {
  if (timeline() == nullptr) return no_way_back();
  const bool from_handler = entering_;
  RV_TRY(settle(true));
  if (from_handler && breakpoints_.code_at(pc())) {
    TimelineStop stop;
    stop.reason = TimelineStop::Reason::breakpoint;
    stop.position = timeline()->position();
    return stop;
  }
  auto stop = timeline()->backward(conditions(true), timeline()->begin());
  if (stop && stop->reason == TimelineStop::Reason::position) stop->reason = TimelineStop::Reason::begin;  // nothing found
  return show_handler(std::move(stop));
}

Result<TimelineStop> Execution::seek(Position position) {
  if (timeline() == nullptr) return no_way_back();
  RV_TRY(settle(true));
  return timeline()->seek(position);
}

}  // namespace retrovisor::gdb
