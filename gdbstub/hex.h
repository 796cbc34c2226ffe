// Hexadecimal text, as packets carry numbers and bytes. Everything read here comes from outside.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace retrovisor::gdb {

// Bytes in order, two lower-case digits each.
std::string hex_bytes(std::span<const uint8_t> bytes);
std::string hex_bytes(std::string_view text);
// The same backwards; nothing if `text` is no whole number of bytes.
std::optional<std::vector<uint8_t>> bytes_of_hex(std::string_view text);
// A number of 1 to 16 digits, most significant first, that is all of `text`.
std::optional<uint64_t> number_of_hex(std::string_view text);

// Takes a packet apart from left to right.
class Fields {
 public:
  explicit Fields(std::string_view text) : rest_(text) {}

  bool empty() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }
  // Whether `text` comes next; it is taken.
  bool take(std::string_view text);
  // Up to the next `separator`, which is taken too, or to the end.
  std::string_view until(char separator);
  // A hexadecimal number of at most 16 digits.
  std::optional<uint64_t> number();

 private:
  std::string_view rest_;
};

}  // namespace retrovisor::gdb
