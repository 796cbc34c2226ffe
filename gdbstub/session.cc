#include "gdbstub/session.h"

#include <fmt/format.h>

#include "gdbstub/hex.h"
#include "gdbstub/target_xml.h"

namespace retrovisor::gdb {
namespace {

// Error numbers as gdbserver uses them: errno's.
constexpr unsigned kBadPacket = 22;  // EINVAL

}  // namespace

Session::Session(Execution& execution, Connection& connection, SessionOptions options)
    : execution_(execution),
      connection_(connection),
      options_(std::move(options)),
      keep_alive_(connection),
      monitor_(execution, options_.commands) {
  stand_here();
}

// What the client finds.
void Session::stand_here() {
  TimelineStop here;
  here.position = execution_.machine().position();
  execution_.reported(here);
  stop_reply_ = stop_reply(here);
  arch_ = options_.arch.value_or(arch_of(general().state, options_.kernel));
}

SessionEnd Session::serve() {
  execution_.target().on_poll([this] { return poll(); });
  if (!begin() && !end_) end_ = SessionEnd::stopped;
  while (!end_) {
    if (const auto ended = receive(); ended && !end_) end_ = ended;
  }
  // gdb acknowledges the last answer, too, and takes it for an error if nobody is there to hear it.
  constexpr std::chrono::milliseconds kFarewell{1'000};
  const bool leaves = *end_ != SessionEnd::vanished && *end_ != SessionEnd::stopped;
  for (std::string text; leaves && acks_ && client_acks_ && owed_ > 0; text.clear()) {
    if (connection_.read(text, kFarewell) != Connection::Read::bytes) break;
    reader_.feed(text);
    acknowledged(reader_.take_signs().acks);
  }
  execution_.target().on_poll({});
  execution_.breakpoints().clear();
  execution_.event_breaks().clear();
  if (auto left = execution_.leave_diversion(); !left) end_ = SessionEnd::vanished;
  execution_.take_note();
  return *end_;
}

std::optional<VcpuId> Session::thread_id(Packet text) const {
  const uint32_t vcpus = execution_.machine().config().vcpus;
  if (text == "-1" || text == "0") return execution_.selected();
  const auto number = number_of_hex(text);
  if (!number || *number == 0 || *number > vcpus) return std::nullopt;
  return VcpuId(static_cast<uint32_t>(*number - 1));
}

void Session::handle(Packet packet) {
  if (packet.empty()) return send("");
  const Packet rest = packet.substr(1);
  switch (packet[0]) {
    case '?': return send_stop();
    case '!': extended_ = true; return send_ok();
    case 'q': return query(rest);
    case 'Q': return set(rest);
    case 'g': return read_registers();
    case 'G': return write_registers(rest);
    case 'p': return read_one_register(rest);
    case 'P': return write_one_register(rest);
    case 'm': return read_memory(rest);
    case 'M': return write_memory(rest, false);
    case 'X': return write_memory(rest, true);
    case 'Z': return point(rest, true);
    case 'z': return point(rest, false);
    case 'v': return handle_v(rest);
    case 'c':
    case 's':
    case 'C':
    case 'S': return resume_old(packet[0], rest);
    case 'b': return resume_back(rest);
    case 'R': return restart(false);
    case 'D':
      send_ok();
      end_ = SessionEnd::detached;
      return;
    case 'k': return kill();
    case 'T': return thread_id(rest) ? send_ok() : send_error(kBadPacket);
    case 'H': {
      const auto thread = rest.empty() ? std::nullopt : thread_id(rest.substr(1));
      if (!thread) return send_error(kBadPacket);
      const bool any = rest.substr(1) == "0" || rest.substr(1) == "-1";
      if (rest[0] != 'c')
        execution_.select(*thread);
      else if (any)
        running_.reset();
      else
        running_ = thread;
      return send_ok();
    }
    default: return send("");
  }
}

// An extended-remote client stays, to run it again.
void Session::kill() {
  if (extended_ && execution_.timeline() != nullptr) return restart(false);
  end_ = SessionEnd::killed;
}

void Session::handle_v(Packet rest) {
  if (rest == "Cont?") return send("vCont;c;C;s;S;r");
  if (rest.starts_with("Cont;")) return resume(rest.substr(5));
  if (rest == "Run" || rest.starts_with("Run;")) return restart(true);
  if (rest == "Kill" || rest.starts_with("Kill;")) {
    send_ok();
    return kill();
  }
  send("");  // also vMustReplyEmpty
}

}  // namespace retrovisor::gdb
