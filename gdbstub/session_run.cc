// Running and stopping.
#include <fmt/format.h>

#include "gdbstub/hex.h"
#include "gdbstub/session.h"
#include "gdbstub/session_busy.h"
#include "traces/describe.h"

namespace retrovisor::gdb {
namespace {

constexpr unsigned kBadPacket = 22;

}  // namespace

// As gdbserver, which looks for the byte before and after each packet: what has come before a run ends that run, before its
// first instruction.
template <class Run>
void Session::go(Run&& run) {
  read_waiting();
  const PacketReader::Signs signs = reader_.take_signs();
  note(signs);
  interrupt_ = interrupt_ || signs.interrupt;
  if (std::exchange(interrupt_, false)) {
    TimelineStop here;
    here.reason = TimelineStop::Reason::interrupted;
    here.position = execution_.machine().position();
    return report(here);
  }
  Result<TimelineStop> stop = TimelineStop{};
  {
    const Busy busy(*this, Doing::run, KeepAlive::Sign::none);
    stop = settle_interrupt(run());
  }
  report(stop);
}

// The run was to end, and has ended by something else at the same moment. A step that is done can end by the interrupt as
// well; at an end of history the client has what it wanted. What was hit has to be told, and the client may go on by itself
// then (a condition that is false): the interrupt is kept.
Result<TimelineStop> Session::settle_interrupt(Result<TimelineStop> stop) {
  using Reason = TimelineStop::Reason;
  if (!stopping_ || !stop) return stop;
  switch (stop->reason) {
    case Reason::position: stop->reason = Reason::interrupted; break;
    case Reason::breakpoint:
    case Reason::watch:
    case Reason::event: interrupt_ = true; break;
    case Reason::interrupted:
    case Reason::begin:
    case Reason::end: break;
  }
  return stop;
}

// The first action that fits a thread counts for it. All vCPUs run in turn whatever is asked: what matters is whether one
// of them is to be stepped.
void Session::resume(Packet actions) {
  Fields fields(actions);
  while (!fields.empty()) {
    Fields action(fields.until(';'));
    const Packet what = action.until(':');
    VcpuId vcpu = execution_.selected();
    if (!action.empty()) {
      const auto thread = thread_id(action.rest());
      if (!thread) return send_error(kBadPacket);
      vcpu = *thread;
    }
    if (what.empty()) return send_error(kBadPacket);
    switch (what[0]) {
      case 's':
      case 'S': return step(vcpu);
      case 'r': {
        Fields range(what.substr(1));
        const auto begin = range.number();
        const auto end = range.take(",") ? range.number() : std::nullopt;
        if (!begin || !end) return send_error(kBadPacket);
        return go([&] { return execution_.step_range(vcpu, *begin, *end); });
      }
      case 'c':
      case 'C': break;
      default: return send_error(kBadPacket);
    }
  }
  go([&] { return execution_.continue_forward(); });
}

// A signal number and an address to go on at may follow; a kernel takes no signals, and gdb has not sent addresses for
// decades.
void Session::resume_old(char how, Packet rest) {
  const bool with_signal = how == 'C' || how == 'S';
  if (!with_signal && !rest.empty()) return send_error(kBadPacket);
  const bool steps = how == 's' || how == 'S';
  if (steps) return step(stepping());
  go([&] { return execution_.continue_forward(); });
}

void Session::resume_back(Packet rest) {
  if (execution_.timeline() == nullptr || (rest != "s" && rest != "c")) return send("");
  go([&] { return rest == "s" ? execution_.reverse_step(stepping()) : execution_.reverse_continue(); });
}

void Session::restart(bool answer) {
  if (execution_.timeline() == nullptr) return answer ? send("") : void();
  interrupt_ = false;  // was meant for what ran before
  const DebugTarget::Hold hold(execution_.target());
  auto stop = execution_.seek(execution_.timeline()->begin());
  if (stop) stop->reason = TimelineStop::Reason::position;
  if (answer) return report(stop);
  if (stop) stop_reply_ = stop_reply(*stop);
}

// Where gdb (13, at least) steps over a breakpoint at its program counter, by whatever command, and is told that history ends
// there, it forgets to end that step, and hangs at the next command. So a step that finds the end is one like any other to
// gdb, and what gdb does next to go on is answered by `replaylog:end`. That can be a step, too: one that gdb makes by itself, to
// watch a variable, say, which would go on forever. Before the user has the next word, gdb asks for the threads.
void Session::step(VcpuId vcpu) {
  const bool again = quiet_end_;
  bool quiet = false;
  go([&] {
    auto stop = execution_.step(vcpu);
    quiet = is_gdb_ && !again && stop && stop->reason == TimelineStop::Reason::end && execution_.timeline() != nullptr;
    if (!quiet) return stop;
    say_end(*stop);
    stop->reason = TimelineStop::Reason::position;
    return stop;
  });
  quiet_end_ = quiet;
}

void Session::say_end(const TimelineStop& stop) {
  const bool why = stop.machine_stop.reason != StopReason::position;
  console(fmt::format("[retrovisor] the recording ends here{}\n", why ? ": " + describe(stop.machine_stop) : ""));
}

void Session::report(const Result<TimelineStop>& stop) {
  if (const std::string note = execution_.take_note(); !note.empty()) console(note);
  if (end_) return;  // the client is gone
  if (!stop) {
    // To the debugger the target has run, and stands somewhere: an error alone would leave it at a loss.
    console(fmt::format("[retrovisor] {}\n", stop.error().text()));
    TimelineStop here;
    here.position = execution_.machine().position();
    execution_.reported(here);
    stop_reply_ = stop_reply(here);
    return send_stop();
  }
  execution_.reported(*stop);
  running_.reset();
  quiet_end_ = false;
  if (stop->reason == TimelineStop::Reason::end && execution_.timeline() == nullptr) {
    console(fmt::format("[retrovisor] the machine has ended: {}\n", describe(stop->machine_stop)));
    send(fmt::format("W{:02x}", stop->machine_stop.reason == StopReason::debug_exit ? stop->machine_stop.detail & 0xff : 0));
    end_ = SessionEnd::exited;
    return;
  }
  if (stop->reason == TimelineStop::Reason::event && stop->event)
    console(fmt::format("[retrovisor] {}\n", describe_at(*stop->event)));
  if (stop->reason == TimelineStop::Reason::end && execution_.timeline() != nullptr) say_end(*stop);
  stop_reply_ = stop_reply(*stop);
  send_stop();
}

void Session::send_stop() {
  execution_.select(stop_vcpu_);
  send(stop_reply_);
}

std::string Session::stop_reply(const TimelineStop& stop) {
  using Reason = TimelineStop::Reason;
  std::string why;
  unsigned signal = 5;  // SIGTRAP
  const VcpuId vcpu = stop_vcpu_ = execution_.vcpu_of(stop);
  switch (stop.reason) {
    case Reason::breakpoint: {
      const uint64_t pc = execution_.machine().vcpu(vcpu).state.linear_rip().value;
      const auto type = execution_.breakpoints().code_at(pc);
      if (type == PointType::software && swbreak_) why = "swbreak:;";
      if (type == PointType::hardware && hwbreak_) why = "hwbreak:;";
      break;
    }
    case Reason::watch:
      if (stop.observation) {
        const auto watches = execution_.breakpoints().watches();
        if (stop.observation->index >= watches.size()) break;
        const PointType type = execution_.breakpoints().watch_type(stop.observation->index);
        why = fmt::format("{}:{:x};",
                          type == PointType::write_watch  ? "watch"
                          : type == PointType::read_watch ? "rwatch"
                                                          : "awatch",
                          watches[stop.observation->index].begin.value);
      }
      break;
    case Reason::begin: why = "replaylog:begin;"; break;
    case Reason::end: why = "replaylog:end;"; break;
    case Reason::interrupted: signal = 2; break;  // SIGINT
    case Reason::event:
    case Reason::position: break;
  }
  return fmt::format("T{:02x}thread:{:x};{}", signal, vcpu.value + 1, why);
}

}  // namespace retrovisor::gdb
