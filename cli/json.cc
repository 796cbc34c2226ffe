#include "cli/json.h"

#include <fmt/format.h>

#include <cmath>

namespace retrovisor::cli {
namespace {

// Length of the well-formed UTF-8 sequence at the beginning of `text`; 0 if there is none (RFC 3629).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return tail(1) ? 2 : 0;
  if ((lead & 0xf0) == 0xe0) {
    const bool overlong = lead == 0xe0 && byte(1) < 0xa0;
    const bool surrogate = lead == 0xed && byte(1) > 0x9f;
    return tail(1) && tail(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && byte(1) < 0x90;
    const bool beyond = lead == 0xf4 && byte(1) > 0x8f;
    return tail(1) && tail(2) && tail(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

}  // namespace

void Json::quote(std::string_view text) {
  text_ += '"';
  while (!text.empty()) {
    const char c = text.front();
    const size_t length = utf8_length(text);
    if (c == '"' || c == '\\') {
      text_ += '\\';
      text_ += c;
    } else if (static_cast<uint8_t>(c) < 0x20) {
      text_ += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<uint8_t>(c)));
    } else if (length == 0) {
      text_ += "\xef\xbf\xbd";  // U+FFFD: strings in traces and images are hostile, the output must be UTF-8
    } else {
      text_ += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  text_ += '"';
}

void Json::new_line() {
  if (!lines_) return;
  text_ += '\n';
  text_.append(brackets_.size() * 2, ' ');
}

void Json::begin_value(std::string_view key) {
  if (!brackets_.empty()) {
    if (!first_) text_ += lines_ ? "," : ", ";
    new_line();
  }
  first_ = false;
  if (!key.empty()) {
    quote(key);
    text_ += ": ";
  }
}

Json& Json::open(std::string_view key, char bracket) {
  begin_value(key);
  text_ += bracket;
  brackets_ += bracket;
  first_ = true;
  return *this;
}

Json& Json::end() {
  const bool empty = first_;
  const char bracket = brackets_.back();
  brackets_.pop_back();
  first_ = false;
  if (!empty) new_line();
  text_ += bracket == '{' ? '}' : ']';
  if (brackets_.empty()) text_ += '\n';
  return *this;
}

Json& Json::put(std::string_view key, std::string_view value) {
  begin_value(key);
  quote(value);
  return *this;
}

Json& Json::raw(std::string_view key, std::string_view value) {
  begin_value(key);
  text_ += value;
  return *this;
}

Json& Json::number(std::string_view key, double value) {
  return raw(key, std::isfinite(value) ? fmt::format("{:.6g}", value) : "null");
}

Json& Json::hex(std::string_view key, uint64_t value) { return put(key, fmt::format("0x{:016x}", value)); }

}  // namespace retrovisor::cli
