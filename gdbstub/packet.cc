#include "gdbstub/packet.h"

#include "gdbstub/hex.h"

namespace retrovisor::gdb {
namespace {

constexpr char kInterrupt = 3;
constexpr char kEscapeMask = 0x20;

// Undoes escapes; a lone '}' at the end is dropped.
std::string unescape(std::string_view data) {
  std::string out;
  out.reserve(data.size());
  for (size_t i = 0; i < data.size(); ++i) {
    if (data[i] != '}') {
      out += data[i];
    } else if (++i < data.size()) {
      out += static_cast<char>(data[i] ^ kEscapeMask);
    }
  }
  return out;
}

}  // namespace

std::string frame(std::string_view payload) {
  uint8_t sum = 0;
  for (const char c : payload) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(c));
  std::string out;
  out.reserve(payload.size() + 4);
  out += '$';
  out += payload;
  out += '#';
  out += hex_bytes(std::span<const uint8_t>(&sum, 1));
  return out;
}

std::string escape(std::string_view data) {
  std::string out;
  out.reserve(data.size());
  for (const char c : data) {
    if (c == '#' || c == '$' || c == '}' || c == '*') {
      out += '}';
      out += static_cast<char>(c ^ kEscapeMask);
    } else {
      out += c;
    }
  }
  return out;
}

void PacketReader::feed(std::string_view bytes) {
  pending_.erase(0, at_);
  at_ = 0;
  pending_ += bytes;
}

std::optional<PacketReader::Item> PacketReader::next() {
  using Kind = Item::Kind;
  while (at_ < pending_.size()) {
    const char c = pending_[at_++];
    switch (state_) {
      case State::idle:
        if (c == '+' || c == '-' || c == kInterrupt || c == '$') garbage_ = 0;
        if (c == '+') return Item{Kind::ack, {}};
        if (c == '-') return Item{Kind::nack, {}};
        if (c == kInterrupt) return Item{Kind::interrupt, {}};
        if (c == '$') {
          state_ = State::payload;
          payload_.clear();
          sum_ = 0;
          too_long_ = false;
        } else if (++garbage_ >= kMaxGarbage) {
          garbage_ = 0;
          return Item{Kind::garbage, {}};
        }
        break;
      case State::payload:
        if (c == '#') {
          state_ = State::checksum1;
        } else if (c == '$') {  // never inside a payload: the packet before was cut off
          payload_.clear();
          sum_ = 0;
          too_long_ = false;
        } else {
          sum_ = static_cast<uint8_t>(sum_ + static_cast<uint8_t>(c));
          if (payload_.size() < kPacketSize) {
            payload_ += c;
          } else {
            if (too_long_ && ++garbage_ >= kMaxGarbage) {
              garbage_ = 0;
              state_ = State::idle;
              return Item{Kind::garbage, {}};
            }
            too_long_ = true;
          }
        }
        break;
      case State::checksum1:
        digit_ = c;
        state_ = State::checksum2;
        break;
      case State::checksum2: {
        state_ = State::idle;
        garbage_ = 0;
        const char digits[] = {digit_, c};
        const auto sum = bytes_of_hex(std::string_view(digits, 2));
        if (too_long_ || !sum || (*sum)[0] != sum_) return Item{Kind::damaged, {}};
        return Item{Kind::packet, unescape(payload_)};
      }
    }
  }
  return std::nullopt;
}

bool PacketReader::take_interrupt() {
  if (state_ != State::idle) return false;
  for (size_t i = at_; i < pending_.size(); ++i) {
    if (pending_[i] == '$') return false;
    if (pending_[i] != kInterrupt) continue;
    at_ = i + 1;
    return true;
  }
  return false;
}

}  // namespace retrovisor::gdb
