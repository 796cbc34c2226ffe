// Framing of the GDB remote serial protocol: "$payload#checksum", acknowledgements, escapes, and the lone byte that
// interrupts. Source: Debugging with GDB, appendix E.1 (Overview) and E.12 (Interrupts).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace retrovisor::gdb {

// Bytes of payload that we take and send at most: PacketSize of qSupported.
inline constexpr size_t kPacketSize = 0x10000;
// Bytes between packets that are neither acknowledgement nor interrupt; after so many the other side speaks no GDB.
inline constexpr size_t kMaxGarbage = 0x10000;

// "$payload#checksum". What needs an escape in `payload` must be escaped already (escape()).
std::string frame(std::string_view payload);
// Binary data made fit for a payload: '#', '$', '}' and '*' become '}' and the byte xor 0x20.
std::string escape(std::string_view data);

// Finds packets in a stream of bytes. The stream is hostile; memory stays below twice kPacketSize.
class PacketReader {
 public:
  struct Item {
    enum class Kind : uint8_t {
      packet,     // `payload`, with escapes undone
      damaged,    // a packet whose checksum is wrong, or that holds more than kPacketSize
      interrupt,  // byte 0x03 between packets
      ack,        // '+'
      nack,       // '-'
      garbage,    // kMaxGarbage bytes that are nothing
    };
    Kind kind{};
    std::string payload;
    bool interrupted = false;  // an interrupt's byte came in the middle of this packet
  };
  // What lies between packets.
  struct Signs {
    bool interrupt = false;
    unsigned acks = 0;
    bool packet = false;  // one has at least begun
  };

  void feed(std::string_view bytes);
  // The next item, or nothing until more bytes are fed.
  std::optional<Item> next();
  // In the middle of a packet: the rest is owed.
  bool partial() const { return state_ != State::idle; }
  // Takes interrupts and acknowledgements of both kinds out of what was fed, before and behind packets, which stay.
  Signs take_signs();
  // Drops copies of the packet that next() has just given, if they come right behind it: a client that gets no
  // acknowledgement in time sends it again. Returns how many.
  unsigned drop_copies();
  // Bytes that were fed and not looked at.
  size_t waiting() const { return pending_.size() - at_; }

 private:
  enum class State : uint8_t { idle, payload, checksum1, checksum2 };

  void begin_payload();
  Item end_packet();

  std::string pending_;  // fed, not looked at
  size_t at_ = 0;        // of pending_
  State state_ = State::idle;
  std::string payload_;  // as it came
  uint8_t sum_ = 0;
  char digits_[2] = {};
  size_t interrupts_ = 0;  // bytes 0x03 in it
  bool cut_in_ = false;    // one between it and its checksum
  bool too_long_ = false;
  size_t garbage_ = 0;
};

}  // namespace retrovisor::gdb
