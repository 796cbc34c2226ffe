// Little-endian numbers, and those of variable length (DWARF 5, section 7.6), one behind the other.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace retrovisor {

class ByteWriter {
 public:
  size_t size() const { return bytes_.size(); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  std::vector<uint8_t> take() { return std::move(bytes_); }

  void u8(uint64_t v) { bytes_.push_back(static_cast<uint8_t>(v)); }
  void u16(uint16_t v) { raw(v); }
  void u32(uint32_t v) { raw(v); }
  void u64(uint64_t v) { raw(v); }
  void uleb(uint64_t v) {
    for (; v >= 0x80; v >>= 7) u8(v | 0x80);
    u8(v);
  }
  void sleb(int64_t v) {
    for (; v < -0x40 || v > 0x3f; v >>= 7) u8((static_cast<uint64_t>(v) & 0x7f) | 0x80);
    u8(static_cast<uint64_t>(v) & 0x7f);
  }
  void text(std::string_view v) {
    bytes_.insert(bytes_.end(), v.begin(), v.end());
    u8(0);
  }
  void put(std::span<const uint8_t> v) { bytes_.insert(bytes_.end(), v.begin(), v.end()); }
  void set_u32(size_t at, uint32_t v) { std::memcpy(bytes_.data() + at, &v, sizeof v); }

 private:
  template <class T>
  void raw(T v) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof v);
    std::memcpy(bytes_.data() + at, &v, sizeof v);
  }
  std::vector<uint8_t> bytes_;
};

}  // namespace retrovisor
