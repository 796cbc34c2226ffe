// Monitor commands about the recorded run.
#include <fmt/format.h>

#include <algorithm>

#include "gdbstub/monitor.h"
#include "gdbstub/registers.h"
#include "gdbstub/trace_events.h"
#include "traces/describe.h"

namespace retrovisor::gdb {
namespace {

using Words = MonitorCommand::Words;

constexpr size_t kEventsShown = 10;  // before and after

Error bad(std::string message) { return {ErrorCode::bad_argument, std::move(message), ""}; }
Error no_recording() { return {ErrorCode::unsupported, "this machine runs for the first time: there is no recording", ""}; }

std::string here(Execution& e) {
  const Position now = e.machine().position();
  const VcpuId vcpu = e.machine().next_vcpu();
  std::string out = fmt::format("position {}", grouped(now.value));
  if (const Timeline* timeline = e.timeline(); timeline != nullptr && (!e.diverted() || e.entering_handler()))
    out += fmt::format(" of {}..{}", grouped(timeline->begin().value), grouped(timeline->end().value));
  if (e.entering_handler())
    out += ", where an interrupt or exception is taken";
  else if (e.diverted())
    out += e.is_live() ? " (live: beside the recorded run)" : " (changed: beside the recorded run)";
  return out + fmt::format(", guest time {}.{:09} s, vCPU {} at {:#x}\n", e.machine().now().value / 1'000'000'000,
                           e.machine().now().value % 1'000'000'000, vcpu.value, e.machine().vcpu(vcpu).state.linear_rip().value);
}

Result<std::string> position(Execution& e, Words words) {
  if (!words.empty()) return bad("'position' takes nothing");
  return here(e);
}

// What to say of a position that the recording does not have: where one comes to instead is told too, but not that it is another.
std::string behind_the_end(Execution& e, Position target) {
  const Position end = e.timeline()->end();
  if (target <= end) return {};
  return fmt::format("the recording ends at {}: there is no position {}\n", grouped(end.value), grouped(target.value));
}
std::string before_the_beginning(Execution& e, const std::string& word) {
  const auto by = word.starts_with('-') ? parse_number(e, word.substr(1), UINT64_MAX) : Result<uint64_t>(0);
  const uint64_t now = e.machine().position().value, begin = e.timeline()->begin().value;
  if (!by || *by <= now - begin) return {};
  return fmt::format("the recording begins at {}: there is no position {} before {}\n", grouped(begin), grouped(*by), grouped(now));
}

Result<std::string> seek(Execution& e, Words words) {
  if (e.timeline() == nullptr) return no_recording();
  Position target;
  std::string out;
  if (words.size() == 2 && words[0] == "event") {
    RV_TRY(const auto number, parse_number(e, words[1], UINT64_MAX));
    RV_TRY(const auto event, event_number(e.target().trace(), number, [&e] { return e.target().interrupted(); }));
    if (!event) return bad(fmt::format("the trace has no event {}", number));
    target = event->event.event.position;
  } else if (words.size() == 1) {
    RV_TRY(target, parse_position(e, words[0]));
    out = before_the_beginning(e, words[0]);
  } else {
    return bad("where to?");
  }
  RV_TRY(const auto stop, e.seek(target));
  out += behind_the_end(e, target);
  if (stop.reason == TimelineStop::Reason::interrupted)
    out += fmt::format("interrupted on the way to position {}\n", grouped(target.value));
  return out + here(e) +
         "(gdb shows the registers that it knows until 'maintenance flush register-cache'; the file of --init does that)\n";
}

Result<EventMask> kind_named(const std::string& name) {
  std::string known;
  for (unsigned i = 0; i < kEventKinds; ++i) {
    const std::string_view kind = to_string(static_cast<EventKind>(i));
    if (kind == "unknown") continue;
    if (kind == name) return EventMask{1} << i;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", kind);
  }
  return bad(fmt::format("'{}' is no kind of event; known are {}", name, known));
}

// How it ended belongs to what happened, a triple fault with all that led to it.
std::string end_line(const EndRecord& end) {
  return fmt::format("{:>10}  {:>14}  the recording ends: {}\n", "", end.position.value, describe(end.stop, end.faults));
}

Result<std::string> events(Execution& e, Words words) {
  if (e.timeline() == nullptr || e.target().trace().empty()) return no_recording();
  EventMask kinds = ~EventMask{0};
  Position at = e.timeline()->position();
  std::string out;
  if (!words.empty() && words[0] != "around") {
    RV_TRY(kinds, kind_named(words[0]));
    words = words.subspan(1);
  }
  if (!words.empty()) {
    if (words.size() != 2 || words[0] != "around") return bad("not understood");
    RV_TRY(at, parse_position(e, words[1]));
    out = before_the_beginning(e, words[1]) + behind_the_end(e, at);
  }
  RV_TRY(const auto found, events_around(e.target().trace(), kinds, at, kEventsShown, kEventsShown,
                                         [&e] { return e.target().interrupted(); }));
  bool marked = false;
  const auto mark = [&] {
    if (!marked) out += fmt::format("{:>10}  {:>14}  <- position {}\n", "", at.value, grouped(at.value));
    marked = true;
  };
  for (const NumberedEvent& n : found.events) {
    if (n.event.event.position >= at) mark();
    out += fmt::format("{:>10}  {:>14}  {}\n", n.number, n.event.event.position.value, describe(n.event));
  }
  if (found.end && found.end->position < at) {
    out += end_line(*found.end);
    mark();
    return out;
  }
  mark();
  if (found.end) out += end_line(*found.end);
  return out;
}

Result<std::string> checkpoints(Execution& e, Words words) {
  if (e.timeline() == nullptr) return no_recording();
  std::string out;
  const bool make = words.size() == 1 && words[0] == "make", list = words.size() == 1 && words[0] == "list";
  if (!words.empty() && !make && !list) return bad("not understood");
  if (make) {
    RV_TRY(e.timeline()->warm());
    if (e.target().interrupted()) out = "interrupted on the way: what is made so far stays\n";
  }
  const CheckpointFigures figures = e.timeline()->checkpoints();
  const std::vector<Position> at = e.timeline()->checkpoint_positions();
  out += fmt::format("{} checkpoints, {:.1f} MiB: {} distinct pages stored, {} pages captured\n", figures.count,
                                static_cast<double>(figures.bytes) / (1 << 20), grouped(figures.pages_stored),
                                grouped(figures.pages_captured));
  if (!at.empty()) {
    uint64_t widest = e.timeline()->end() - at.back();
    for (size_t i = 1; i < at.size(); ++i) widest = std::max(widest, at[i] - at[i - 1]);
    out += fmt::format("from position {} to {} of {}; the widest gap is {} instructions\n", grouped(at.front().value),
                       grouped(at.back().value), grouped(e.timeline()->end().value), grouped(widest));
  }
  if (figures.key_frames != 0)
    out += fmt::format("{} key frames in the trace, restored {} times\n", figures.key_frames, figures.key_frames_restored);
  if (list)
    for (const Position p : at) out += fmt::format("{:>18}\n", grouped(p.value));
  return out;
}

Result<std::string> go_live(Execution& e, Words words) {
  if (e.timeline() == nullptr) return no_recording();
  if (words.size() == 1 && words[0] == "off") {
    RV_TRY(e.leave_diversion());
    return here(e);
  }
  if (!words.empty()) return bad("not understood");
  RV_TRY(e.go_live());
  return std::string(
      "from here the machine goes on by itself, without input, and changes stay. 'monitor go-live off', 'monitor seek' and\n"
      "anything that runs backwards lead back into the recorded run.\n");
}

}  // namespace

void add_history_commands(std::vector<MonitorCommand>& out) {
  out.push_back({"position", "", "where we are: instructions since the start, guest time", position});
  out.push_back({"seek", "POSITION|event N", "go there", seek, true});
  out.push_back(
      {"events", "[KIND] [around POSITION]", "the trace's events around here or there, with their numbers", events});
  out.push_back({"checkpoints", "[make|list]",
                 "what there is to go back to; make: along the whole recording; list: where each is", checkpoints});
  out.push_back({"go-live", "[off]", "leave the recorded run here and go on as a machine of its own", go_live, true});
}

}  // namespace retrovisor::gdb
