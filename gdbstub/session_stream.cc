// Packets come and go, acknowledged or not, and interrupts in between. docs/gdb-protocol.md tells the rules.
#include <fmt/format.h>

#include "gdbstub/hex.h"
#include "gdbstub/session.h"
#include "gdbstub/session_busy.h"

namespace retrovisor::gdb {
namespace {

// A client that asks for the same packet more often than this does not hear us.
constexpr unsigned kMaxResends = 16;
// Error numbers as gdbserver uses them: errno's.
constexpr unsigned kBadPacket = 22;  // EINVAL
// What a client says while it waits for an answer is kept up to here; one that says more is let go, since its interrupts and its
// end could not be seen.
constexpr size_t kMostWaiting = 4 * kPacketSize;
// A client that has not acknowledged output for so long has stopped to wait for the answer.
constexpr std::chrono::milliseconds kSilence{2'000};

}  // namespace

// The first part of a session, before any packet is looked at.
bool Session::begin() {
  if (!options_.begin) return true;
  bool good = false;
  {
    const Busy busy(*this, Doing::run, KeepAlive::Sign::noise);
    good = options_.begin(execution_);
  }
  execution_.take_note();
  stand_here();
  return good;
}

// Handles what there is, then waits for more.
std::optional<SessionEnd> Session::receive() {
  while (auto item = reader_.next()) {
    if (const auto ended = take(*item)) return ended;
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

std::optional<SessionEnd> Session::take(PacketReader::Item& item) {
  using Kind = PacketReader::Item::Kind;
  interrupt_ = interrupt_ || item.interrupted;
  switch (item.kind) {
    case Kind::packet: {
      const bool acks = acks_;
      if (acks && !write("+")) return SessionEnd::vanished;
      if (acks) {
        // A client that got no acknowledgement in time has sent the packet again, and may do so while this one comes.
        read_waiting();
        reader_.drop_copies();
        const bool again = client_acks_ && owed_ == 1 && item.payload == last_packet_ && !item.payload.starts_with("qRcmd,");
        last_packet_ = item.payload;
        if (again) break;
      }
      resent_ = 0;
      const Busy busy(*this, Doing::request, KeepAlive::Sign::noise);
      handle(item.payload);
      break;
    }
    case Kind::damaged:
      // Without acknowledgements the client would wait for ever for an answer to what we could not read.
      if (acks_ ? !write("-") : (send_error(kBadPacket), false)) return SessionEnd::vanished;
      break;
    case Kind::nack:
      // Of an answer that the client has had, or of none (gdb says so when one is late, with acknowledgements or without):
      // a second copy would be taken for the next answer.
      if (owed_ <= 0 || last_sent_.empty()) break;
      if (++resent_ > kMaxResends || !write(last_sent_)) return SessionEnd::vanished;
      break;
    case Kind::interrupt: interrupt_ = true; break;  // nothing runs: the next run will end by it
    case Kind::ack: acknowledged(1); break;
    case Kind::garbage: return SessionEnd::vanished;
  }
  return std::nullopt;
}

Connection::Read Session::read_waiting() {
  if (reader_.waiting() > kMostWaiting) return Connection::Read::closed;
  std::string text;
  const Connection::Read read = connection_.read(text, std::chrono::milliseconds(0));
  if (read == Connection::Read::bytes) reader_.feed(text);
  return read;
}

void Session::note(const PacketReader::Signs& signs) {
  if (signs.acks == 0) return;
  acknowledged(signs.acks);
  heard_ = KeepAlive::Clock::now();
}

// gdb's first byte is one, for whatever may have been sent to it. Some clients acknowledge ahead of the answer.
void Session::acknowledged(unsigned count) {
  client_acks_ = true;
  if (!last_packet_.empty()) owed_ -= count;
}

// While something is done for the client: does it want an end of it, or is it gone?
bool Session::poll() {
  if (end_) return true;
  if (doing_ == Doing::nothing || stopping_) return stopping_;
  switch (read_waiting()) {
    case Connection::Read::closed: end_ = SessionEnd::vanished; return true;
    case Connection::Read::stopped: end_ = SessionEnd::stopped; return true;
    case Connection::Read::bytes:
    case Connection::Read::nothing: break;
  }
  const PacketReader::Signs signs = reader_.take_signs();
  note(signs);
  if (signs.interrupt) (doing_ == Doing::request ? interrupt_ : stopping_) = true;
  // gdb leaves a monitor command at Ctrl-C without a word. Its next packet says that it has.
  if (doing_ == Doing::command && is_gdb_ && (signs.packet || client_has_left())) stopping_ = left_ = true;
  return stopping_;
}

bool Session::client_has_left() {
  return acks_ && client_acks_ && keep_alive_.outputs() > 0 && KeepAlive::Clock::now() - heard_ > kSilence;
}

void Session::send(std::string_view payload) {
  last_sent_ = frame(payload);
  if (payload.empty() || payload[0] != 'O' || payload == "OK") keep_alive_.busy(KeepAlive::Sign::none);
  if (acks_) ++owed_;
  else owed_ = 0;
  if (!write(last_sent_) && !end_) end_ = SessionEnd::vanished;
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

}  // namespace retrovisor::gdb
