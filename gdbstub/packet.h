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
  };

  void feed(std::string_view bytes);
  // The next item, or nothing until more bytes are fed.
  std::optional<Item> next();
  // In the middle of a packet: the rest is owed.
  bool partial() const { return state_ != State::idle; }
  // Whether an interrupt comes before any packet in what was fed; takes it and what comes before it.
  bool take_interrupt();

 private:
  enum class State : uint8_t { idle, payload, checksum1, checksum2 };

  std::string pending_;  // fed, not looked at
  size_t at_ = 0;        // of pending_
  State state_ = State::idle;
  std::string payload_;  // as it came
  uint8_t sum_ = 0;
  char digit_ = 0;
  bool too_long_ = false;
  size_t garbage_ = 0;
};

}  // namespace retrovisor::gdb
