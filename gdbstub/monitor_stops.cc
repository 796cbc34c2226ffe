// monitor break-on: events that stop a run.
#include <fmt/format.h>

#include <algorithm>

#include "gdbstub/monitor.h"

namespace retrovisor::gdb {
namespace {

using Words = MonitorCommand::Words;

constexpr size_t kMaxBreaks = 64;

Error bad(std::string message) { return {ErrorCode::bad_argument, std::move(message), ""}; }

std::string list(Execution& e) {
  std::string out;
  for (const EventBreak& b : e.event_breaks())
    if (std::string line = fmt::format("stops on {}\n", b.text); out.find(line) == std::string::npos) out += line;
  return out.empty() ? "stops on breakpoints and watchpoints only\n" : out;
}

Result<std::string> break_on(Execution& e, Words words) {
  if (words.empty()) return list(e);
  if (words.size() == 1 && words[0] == "off") {
    e.event_breaks().clear();
    return list(e);
  }
  struct What {
    std::string_view name;
    std::vector<EventKind> kinds;
    uint64_t max;
  };
  const What all[] = {{"exception", {EventKind::exception, EventKind::exception_lost}, 31},
                      {"irq", {EventKind::interrupt}, 255},
                      {"io", {EventKind::port_read, EventKind::port_write}, 0xffff},
                      {"mmio", {EventKind::mmio_read, EventKind::mmio_write}, UINT64_MAX},
                      {"cr3", {EventKind::cr3_write}, 0},
                      {"vcpu", {EventKind::vcpu_switch}, kMaxVcpus - 1}};
  const auto what = std::find_if(std::begin(all), std::end(all), [&](const What& w) { return w.name == words[0]; });
  if (what == std::end(all) || words.size() > (what->max == 0 ? 1u : 2u)) return bad("not understood");
  EventBreak b;
  b.text = what->name;
  if (words.size() == 2) {
    RV_TRY(const uint64_t number, what->name == "mmio" ? parse_address(e, words[1]) : parse_number(e, words[1], what->max));
    b.a = number;
    // As the events show it, however it was typed.
    const bool decimal = what->name == "exception" || what->name == "vcpu";
    b.text = decimal ? fmt::format("{} {}", what->name, number) : fmt::format("{} {:#x}", what->name, number);
  }
  if (e.event_breaks().size() + what->kinds.size() > kMaxBreaks) return bad("too many; 'monitor break-on off' forgets all");
  for (const EventKind kind : what->kinds) {
    b.kind = kind;
    e.event_breaks().push_back(b);
  }
  return list(e);
}

}  // namespace

void add_stop_commands(std::vector<MonitorCommand>& out) {
  out.push_back({"break-on", "[exception [N] | irq [N] | io [PORT] | mmio [ADDR] | cr3 | vcpu [N] | off]",
                 "stop on these events too, forwards and backwards", break_on});
}

}  // namespace retrovisor::gdb
