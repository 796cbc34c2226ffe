// A writer of JSON: enough for the reports of the command line tool.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace retrovisor::cli {

class Json {
 public:
  // `lines`: indented, one value per line; otherwise all on one line (JSON Lines).
  explicit Json(bool lines = true) : lines_(lines) {}

  // Objects and arrays. `key` is empty for the outermost value and for members of arrays.
  Json& object(std::string_view key = {}) { return open(key, '{'); }
  Json& array(std::string_view key = {}) { return open(key, '['); }
  Json& end();

  Json& put(std::string_view key, std::string_view value);
  Json& put(std::string_view key, const char* value) { return put(key, std::string_view(value)); }
  template <class T>
  requires std::integral<T> || std::floating_point<T> Json& put(std::string_view key, T value) {
    if constexpr (std::same_as<T, bool>)
      return raw(key, value ? "true" : "false");
    else if constexpr (std::floating_point<T>)
      return number(key, static_cast<double>(value));
    else
      return raw(key, std::to_string(value));
  }
  // 64-bit values that are no counts (digests, registers) as "0x…": readers lose precision beyond 53 bits.
  Json& hex(std::string_view key, uint64_t value);

  const std::string& text() const { return text_; }

 private:
  Json& open(std::string_view key, char bracket);
  Json& raw(std::string_view key, std::string_view value);
  Json& number(std::string_view key, double value);
  void begin_value(std::string_view key);
  void quote(std::string_view text);

  void new_line();

  bool lines_;
  std::string text_;
  std::string brackets_;  // those still open
  bool first_ = true;     // no value yet in the innermost one
};

}  // namespace retrovisor::cli
