#include "gdbstub/execution.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "vmm/machine/memory_view.h"

namespace retrovisor::gdb {
namespace {

// After so many instructions a called function that has not come back is stopped where it is.
constexpr uint64_t kMaxCall = 20'000'000'000;
// A stub may end a range step when it likes (E.2, "vCont;r"); the debugger starts another.
constexpr uint64_t kMaxRangeSteps = 200'000;
constexpr uint64_t kStepsBetweenPolls = 256;
// How long others run before the one that is to be stepped comes to its turn; then the step ends without it. Halted vCPUs
// are woken by timers and interrupts: this is 0.1 s of guest time.
constexpr uint64_t kMaxOtherTurns = 100'000'000;
// A step back that is over in this time is not interrupted.
constexpr std::chrono::milliseconds kShort{40};

bool asks_for(const StopConditions& c, const JournalEvent& e) {
  return (c.events & mask_of(e.kind)) != 0 && (!c.event_filter || c.event_filter(e));
}

}  // namespace

StopConditions Execution::conditions(bool with_breakpoints) {
  StopConditions c;
  if (with_breakpoints) c.breakpoints = breakpoints_.code();
  c.watches = breakpoints_.watches();
  byte_watches_.add_to(c, machine(), selected_, breakpoints_);
  for (const EventBreak& e : event_breaks_) c.events |= mask_of(e.kind);
  if (c.events != 0)
    c.event_filter = [breaks = event_breaks_](const JournalEvent& e) {
      return std::any_of(breaks.begin(), breaks.end(),
                         [&](const EventBreak& b) { return b.kind == e.kind && (!b.a || *b.a == e.a); });
    };
  return c;
}

// `c`, and turns of vCPUs that `wanted` says yes to.
StopConditions Execution::with_turns(StopConditions c, std::function<bool(const JournalEvent&)> wanted) {
  c.event_filter = [filter = c.event_filter, events = c.events, wanted = std::move(wanted)](const JournalEvent& e) {
    if (e.kind == EventKind::vcpu_switch && wanted(e)) return true;
    return (events & mask_of(e.kind)) != 0 && (!filter || filter(e));
  };
  c.events |= mask_of(EventKind::vcpu_switch);
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
  wrote_ = live_ = calling_ = changed_ = false;
  entering_.reset();
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
    if (MemoryView(machine().memory(), s, false).read(stack, std::span(raw, size)) != size) continue;
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
  stepped_.reset();
  left_handler_ = entering_;
  if (changed_) {
    machine().memory_changed();
    for (uint32_t i = 0; i < machine().config().vcpus; ++i) machine().engine().state_changed(machine().vcpu(VcpuId(i)));
    changed_ = false;
  }
  if (diverted() && (backward || !runs_diversion())) RV_TRY(leave_diversion());
  byte_watches_.begin(machine(), selected_, breakpoints_, backward);
  return {};
}

// --- forwards ---------------------------------------------------------------------------------------------------------

Result<TimelineStop> Execution::run(const StopConditions& c, Position limit) {
  if (!diverted()) return run_recorded(c, limit);
  const Position now = machine().position();
  const uint64_t most = live_ ? UINT64_MAX : kMaxCall;
  const uint64_t instructions = limit > now ? std::min(limit - now, most) : 0;
  auto stop = timeline()->run_diversion(c, instructions);
  if (stop && stop->reason == TimelineStop::Reason::position && instructions == kMaxCall)
    note_ += fmt::format("[retrovisor] the called function has not returned in {} instructions\n", kMaxCall);
  return stop;
}

// Breakpoints at the position where a run begins are passed over, and a handler that is entered there has no other: whether
// one is entered is found out first.
Result<TimelineStop> Execution::run_recorded(const StopConditions& c, Position limit) {
  const bool from_handler = std::exchange(left_handler_, std::nullopt).has_value();
  if (timeline() == nullptr || from_handler || breakpoints_.code().empty()) return target_.forward(c, limit);
  const Position here = machine().position();
  constexpr EventMask kEntries = mask_of(EventKind::interrupt) | mask_of(EventKind::exception);
  const auto enters = [here](const JournalEvent& e) { return (kEntries & mask_of(e.kind)) != 0 && e.position == here; };
  StopConditions with_entry = c;
  with_entry.events |= kEntries;
  with_entry.event_filter = [&](const JournalEvent& e) { return enters(e) || asks_for(c, e); };
  auto stop = target_.forward(with_entry, limit);
  if (!stop || stop->reason != TimelineStop::Reason::event || !enters(*stop->event) || asks_for(c, *stop->event))
    return stop;
  {
    const DebugTarget::Hold hold(target_);
    stop = timeline()->seek(here);
  }
  if (!stop) return stop;
  stop->reason = TimelineStop::Reason::breakpoint;
  stop = show_handler(std::move(stop));
  if (!stop || entering_) return stop;
  return target_.forward(c, limit);
}

Result<TimelineStop> Execution::show_handler(Result<TimelineStop> stop) {
  if (!stop || stop->reason != TimelineStop::Reason::breakpoint || timeline() == nullptr || diverted()) return stop;
  if (stop->observation && stop->observation->address == LinearAddr(pc(stop->observation->vcpu))) return stop;
  std::vector<uint64_t> arrival;
  for (uint32_t i = 0; i < machine().config().vcpus; ++i) arrival.push_back(pc(VcpuId(i)));
  RV_TRY(timeline()->begin_diversion());
  const Position here = machine().position();
  Interest interest;
  interest.breakpoints = breakpoints_.code();
  interest.hit = [&](const Observation& o) {
    if (o.position == here && o.address == LinearAddr(arrival[o.vcpu.value])) return false;
    if (o.position == here) {
      entering_ = o.vcpu;
      stop->observation = o;
    }
    return true;
  };
  {
    const Subscription subscription = machine().observers().subscribe(std::move(interest));
    machine().run_until(here + 1);
  }
  if (entering_) return stop;
  RV_TRY(timeline()->end_diversion());  // what interrupts here does not come by itself (input): the position alone is told
  return stop;
}

VcpuId Execution::vcpu_of(const TimelineStop& stop) {
  if (stop.observation) return stop.observation->vcpu;
  if (stop.event && stop.event->kind == EventKind::vcpu_switch) return VcpuId(static_cast<uint32_t>(stop.event->a));
  if (stop.event) return stop.event->vcpu;
  if (stepped_) return *stepped_;
  return machine().next_vcpu();
}

std::optional<TimelineStop> Execution::breakpoint_here() {
  const VcpuId next = machine().next_vcpu();
  if (one_vcpu() || next == reported_) return std::nullopt;
  const CpuState& s = machine().vcpu(next).state;
  const uint64_t address = s.linear_rip().value;
  if (s.activity != Activity::running || !breakpoints_.code_at(address)) return std::nullopt;
  TimelineStop stop;
  stop.reason = TimelineStop::Reason::breakpoint;
  stop.position = machine().position();
  stop.observation.emplace();
  stop.observation->vcpu = next;
  stop.observation->position = stop.position;
  stop.observation->address = LinearAddr(address);
  stop.observation->rip = s.rip;
  stop.observation->on_arrival = true;
  return stop;
}

Result<TimelineStop> Execution::continue_forward() {
  RV_TRY(settle(false));
  if (auto stop = breakpoint_here()) return *stop;
  return show_handler(run(conditions(true), kNoPosition));
}

Result<TimelineStop> Execution::step(VcpuId vcpu) {
  RV_TRY(settle(false));
  auto stop = step_to(vcpu);
  if (stop && stop->reason == TimelineStop::Reason::position) stepped_ = vcpu;
  return show_handler(std::move(stop));
}

Result<TimelineStop> Execution::step_to(VcpuId vcpu) {
  using Reason = TimelineStop::Reason;
  const StopConditions own = conditions(false);
  if (one_vcpu()) return run(own, machine().position() + 1);
  if (const auto stop = breakpoint_here(); stop && stop->observation->vcpu != vcpu) return *stop;
  const Position limit = machine().position() + kMaxOtherTurns;
  for (;;) {
    if (machine().next_vcpu() != vcpu) {
      RV_TRY(auto stop, other_turns(vcpu, limit));
      if (stop.has_value()) return *stop;
    }
    auto stop = run(own, machine().position() + 1);
    if (!stop || stop->reason != Reason::position || machine().last_vcpu() == vcpu) return stop;
  }
}

Result<std::optional<TimelineStop>> Execution::other_turns(VcpuId vcpu, Position limit) {
  using Reason = TimelineStop::Reason;
  const StopConditions own = conditions(false);
  RV_TRY(auto ran, run(with_turns(conditions(true), [vcpu](const JournalEvent& e) { return e.a == vcpu.value; }), limit));
  TimelineStop& stop = ran;
  if (stop.reason == Reason::breakpoint && stop.observation->vcpu == vcpu) return std::optional<TimelineStop>();
  if (stop.reason == Reason::event && stop.event->kind == EventKind::vcpu_switch && stop.event->a == vcpu.value) {
    if (machine().position() > stop.event->position) {  // behind its instruction
      if (timeline() != nullptr && !diverted() && (!own.watches.empty() || !own.bytes.empty() || own.events != 0)) {
        // What the instruction did has not been looked at.
        const DebugTarget::Hold hold(target_);
        RV_TRY(timeline()->seek(stop.event->position));
      } else if (machine().last_vcpu() == vcpu) {
        stop = {};
        stop.position = machine().position();
        return std::optional(stop);
      }
    }
    return std::optional<TimelineStop>();
  }
  if (stop.reason == Reason::position)
    note_ +=
        fmt::format("[retrovisor] vCPU {} has not run while others executed {} instructions\n", vcpu.value, kMaxOtherTurns);
  return std::optional(stop);
}

Result<TimelineStop> Execution::step_range(VcpuId vcpu, uint64_t begin, uint64_t end) {
  for (uint64_t steps = 1;; ++steps) {
    auto stop = step(vcpu);
    if (!stop || stop->reason != TimelineStop::Reason::position) return stop;
    if (machine().last_vcpu() != vcpu) return stop;  // it has not run, as has been told: another step would not make it
    const uint64_t pc = machine().vcpu(vcpu).state.linear_rip().value;
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

// `c`, but for events that happen at `from`: a step back begins before them.
StopConditions Execution::with_events_before(StopConditions c, Position from) {
  c.event_filter = [filter = std::move(c.event_filter), from](const JournalEvent& e) {
    return e.position < from && (!filter || filter(e));
  };
  return c;
}

Result<TimelineStop> Execution::back_by_one(Position from) {
  const StopConditions c = with_events_before(conditions(true), from);
  if (c.breakpoints.empty() && c.watches.empty() && c.bytes.empty() && c.events == 0) return timeline()->seek(from - 1);
  auto stop = timeline()->backward(c, from - 1);
  if (!stop || stop->reason != TimelineStop::Reason::breakpoint) return stop;
  // A breakpoint where we arrive is met by running on, not by coming here; one on a handler is between here and there.
  if (stop->observation->address != LinearAddr(pc(stop->observation->vcpu))) return show_handler(std::move(stop));
  stop->reason = TimelineStop::Reason::position;
  stop->observation.reset();
  return stop;
}

Result<TimelineStop> Execution::reverse_step(VcpuId vcpu) {
  using Reason = TimelineStop::Reason;
  if (timeline() == nullptr) return no_way_back();
  RV_TRY(settle(true));
  const auto from_handler = std::exchange(left_handler_, std::nullopt);
  // A step that takes no time comes to its end before it is interrupted: else it would leave off anywhere.
  const DebugTarget::Hold hold(target_, kShort);
  TimelineStop here;
  here.position = timeline()->position();
  if (from_handler == vcpu) {  // the interrupted instruction
    stepped_ = vcpu;
    return here;
  }
  const Position begin = timeline()->begin();
  for (Position from = here.position; from > begin;) {
    auto stop = back_by_one(from);
    if (!stop) return stop;
    // Coming to the first instruction is a step like others; wanting to go further back is not.
    if (stop->reason == Reason::begin) stop->reason = Reason::position;
    if (stop->reason != Reason::position) return stop;
    if (one_vcpu()) return stop;
    // Whose instruction was it?
    {
      const DebugTarget::Hold whole(target_);
      if (auto again = timeline()->forward({}, from); !again) return again;
      if (machine().last_vcpu() == vcpu) {
        stepped_ = vcpu;
        return timeline()->seek(from - 1);
      }
    }
    // Another's. On to the end of its own last turn.
    const auto away = [vcpu](const JournalEvent& e) { return e.vcpu == vcpu; };
    stop = timeline()->backward(with_turns(with_events_before(conditions(true), from), away), begin);
    if (stop && stop->reason == Reason::position) stop->reason = Reason::begin;  // it has never run before
    if (!stop || stop->reason != Reason::event || stop->event->kind != EventKind::vcpu_switch || !away(*stop->event) ||
        asks_for(conditions(false), *stop->event))
      return show_handler(std::move(stop));
    from = stop->position;
  }
  here.reason = Reason::begin;
  here.position = timeline()->position();
  return here;
}

Result<TimelineStop> Execution::reverse_continue() {
  if (timeline() == nullptr) return no_way_back();
  RV_TRY(settle(true));
  const auto from_handler = std::exchange(left_handler_, std::nullopt);
  if (from_handler && breakpoints_.code_at(pc(*from_handler))) {
    TimelineStop stop;
    stop.reason = TimelineStop::Reason::breakpoint;
    stop.position = timeline()->position();
    stop.observation.emplace();
    stop.observation->vcpu = *from_handler;
    stop.observation->position = stop.position;
    stop.observation->address = LinearAddr(pc(*from_handler));
    return stop;
  }
  auto stop = timeline()->backward(conditions(true), timeline()->begin());
  if (stop && stop->reason == TimelineStop::Reason::position) stop->reason = TimelineStop::Reason::begin;  // nothing found
  return show_handler(std::move(stop));
}

Result<TimelineStop> Execution::seek(Position position) {
  if (timeline() == nullptr) return no_way_back();
  RV_TRY(settle(true));
  left_handler_.reset();
  return timeline()->seek(position);
}

}  // namespace retrovisor::gdb
