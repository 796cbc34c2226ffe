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
          begin_payload();
        } else if (++garbage_ >= kMaxGarbage) {
          garbage_ = 0;
          return Item{Kind::garbage, {}};
        }
        break;
      case State::payload:
        if (c == '#') {
          state_ = State::checksum1;
        } else if (c == '$') {  // never inside a payload: the packet before was cut off
          begin_payload();
        } else {
          sum_ = static_cast<uint8_t>(sum_ + static_cast<uint8_t>(c));
          if (c == kInterrupt) ++interrupts_;
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
      case State::checksum2:
        if (c == kInterrupt) {
          cut_in_ = true;
        } else if (state_ == State::checksum1) {
          digits_[0] = c;
          state_ = State::checksum2;
        } else {
          digits_[1] = c;
          state_ = State::idle;
          garbage_ = 0;
          return end_packet();
        }
        break;
    }
  }
  return std::nullopt;
}

void PacketReader::begin_payload() {
  state_ = State::payload;
  payload_.clear();
  sum_ = 0;
  interrupts_ = 0;
  too_long_ = cut_in_ = false;
}

// A byte 0x03 inside a packet is data (binary writes may hold it as it is), unless the checksum says that it is none.
PacketReader::Item PacketReader::end_packet() {
  using Kind = Item::Kind;
  const auto sum = bytes_of_hex(std::string_view(digits_, 2));
  const auto without = static_cast<uint8_t>(sum_ - interrupts_ * static_cast<size_t>(kInterrupt));
  if (too_long_ || !sum || ((*sum)[0] != sum_ && (*sum)[0] != without)) return Item{Kind::damaged, {}, cut_in_};
  if ((*sum)[0] == sum_) return Item{Kind::packet, unescape(payload_), cut_in_};
  std::erase(payload_, kInterrupt);
  return Item{Kind::packet, unescape(payload_), true};
}

PacketReader::Signs PacketReader::take_signs() {
  Signs signs;
  State state = state_;
  size_t to = at_;
  for (size_t i = at_; i < pending_.size(); ++i) {
    const char c = pending_[i];
    switch (state) {
      case State::idle:
        if (c == '+' || c == '-' || c == kInterrupt) {
          signs.interrupt = signs.interrupt || c == kInterrupt;
          signs.acks += c == '+' ? 1 : 0;
          continue;  // not kept
        }
        if (c == '$') {
          signs.packet = true;
          state = State::payload;
        }
        break;
      case State::payload:
        if (c == '#') state = State::checksum1;
        break;
      case State::checksum1: state = c == kInterrupt ? state : State::checksum2; break;
      case State::checksum2: state = c == kInterrupt ? state : State::idle; break;
    }
    pending_[to++] = c;
  }
  pending_.resize(to);
  signs.packet = signs.packet || state_ != State::idle;
  return signs;
}

unsigned PacketReader::drop_copies() {
  const std::string copy = "$" + payload_ + "#" + std::string(digits_, 2);
  unsigned dropped = 0;
  for (; std::string_view(pending_).substr(at_).starts_with(copy); ++dropped) at_ += copy.size();
  return dropped;
}

}  // namespace retrovisor::gdb
