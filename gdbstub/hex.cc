#include "gdbstub/hex.h"

namespace retrovisor::gdb {
namespace {

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string hex_bytes(std::span<const uint8_t> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const uint8_t b : bytes) {
    out += kDigits[b >> 4];
    out += kDigits[b & 15];
  }
  return out;
}

std::string hex_bytes(std::string_view text) {
  std::string out;
  out.reserve(text.size() * 2);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    out += hex_bytes(std::span(&byte, 1));
  }
  return out;
}

std::optional<std::vector<uint8_t>> bytes_of_hex(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  std::vector<uint8_t> out;
  out.reserve(text.size() / 2);
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<uint8_t>(high << 4 | low));
  }
  return out;
}

std::optional<uint64_t> number_of_hex(std::string_view text) {
  Fields fields(text);
  const auto value = fields.number();
  if (!fields.empty()) return std::nullopt;
  return value;
}

bool Fields::take(std::string_view text) {
  if (!rest_.starts_with(text)) return false;
  rest_.remove_prefix(text.size());
  return true;
}

std::string_view Fields::until(char separator) {
  const size_t end = rest_.find(separator);
  const std::string_view field = rest_.substr(0, end);
  rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
  return field;
}

std::optional<uint64_t> Fields::number() {
  uint64_t value = 0;
  size_t digits = 0;
  while (digits < rest_.size() && digit(rest_[digits]) >= 0) {
    if (digits == 16) return std::nullopt;
    value = value << 4 | static_cast<uint64_t>(digit(rest_[digits]));
    ++digits;
  }
  if (digits == 0) return std::nullopt;
  rest_.remove_prefix(digits);
  return value;
}

}  // namespace retrovisor::gdb
