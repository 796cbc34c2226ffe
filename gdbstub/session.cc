#include "gdbstub/session.h"

#include <fmt/format.h>

#include "gdbstub/hex.h"

namespace retrovisor::gdb {
namespace {

// A client that asks for the same packet more often than this does not hear us.
constexpr unsigned kMaxResends = 16;
// Error numbers as gdbserver uses them: errno's.
constexpr unsigned kBadPacket = 22;  // EINVAL

}  // namespace

Session::Session(Execution& execution, Connection& connection, SessionOptions options)
    : execution_(execution), connection_(connection), options_(std::move(options)), monitor_(execution, options_.commands) {
  TimelineStop here;
  here.position = execution.machine().position();
  execution_.reported(here);
  stop_reply_ = stop_reply(here);
}

SessionEnd Session::serve() {
  execution_.target().on_poll([this] { return poll(); });
  while (!end_) {
    if (const auto ended = receive(); ended && !end_) end_ = ended;
  }
  execution_.target().on_poll({});
  execution_.breakpoints().clear();
  execution_.event_breaks().clear();
  if (auto left = execution_.leave_diversion(); !left) end_ = SessionEnd::vanished;
  execution_.take_note();
  return *end_;
}

// Handles what there is, then waits for more.
std::optional<SessionEnd> Session::receive() {
  using Kind = PacketReader::Item::Kind;
  while (auto item = reader_.next()) {
    switch (item->kind) {
      case Kind::packet:
        if (acks_ && !connection_.write("+")) return SessionEnd::vanished;
        resent_ = 0;
        handle(item->payload);
        break;
      case Kind::damaged:
        // Without acknowledgements the client would wait for ever for an answer to what we could not read.
        if (acks_ ? !connection_.write("-") : (send_error(kBadPacket), false)) return SessionEnd::vanished;
        break;
      case Kind::nack:
        if (++resent_ > kMaxResends || (!last_sent_.empty() && !connection_.write(last_sent_))) return SessionEnd::vanished;
        break;
      case Kind::interrupt: send_stop(); break;  // nothing runs: the answer is where we stand
      case Kind::ack: break;
      case Kind::garbage: return SessionEnd::vanished;
    }
    if (end_) return end_;
  }
  std::string text;
  const bool partial = reader_.partial();
  switch (connection_.read(text, partial ? options_.packet_timeout : std::chrono::milliseconds(-1))) {
    case Connection::Read::bytes: reader_.feed(text); break;
    case Connection::Read::nothing:
      if (partial) return SessionEnd::vanished;
      break;
    case Connection::Read::closed: return SessionEnd::vanished;
    case Connection::Read::stopped: return SessionEnd::stopped;
  }
  return std::nullopt;
}

// While the target runs: does the client want it to stop, or is it gone?
bool Session::poll() {
  if (end_) return true;
  std::string text;
  switch (connection_.read(text, std::chrono::milliseconds(0))) {
    case Connection::Read::bytes: reader_.feed(text); break;
    case Connection::Read::nothing: return false;
    case Connection::Read::closed: end_ = SessionEnd::vanished; return true;
    case Connection::Read::stopped: end_ = SessionEnd::stopped; return true;
  }
  return reader_.take_interrupt();
}

void Session::send(std::string_view payload) {
  last_sent_ = frame(payload);
  if (!connection_.write(last_sent_) && !end_) end_ = SessionEnd::vanished;
  if (acks_end_) acks_ = acks_end_ = false;
}

void Session::send_error(unsigned code) { send(fmt::format("E{:02x}", code)); }

void Session::send_error(const Error& error) {
  if (error_texts_)
    send(escape("E." + error.text()));
  else
    send_error(kBadPacket);
}

void Session::console(std::string_view text) {
  constexpr size_t kMost = kPacketSize / 2 - 16;
  for (size_t at = 0; at < text.size(); at += kMost) send("O" + hex_bytes(text.substr(at, kMost)));
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
