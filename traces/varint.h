// Variable-length integers: seven bits per byte, least significant first, high bit set on all bytes but the last (LEB128).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace retrovisor {

inline void put_varint(std::vector<uint8_t>& out, uint64_t v) {
  while (v >= 0x80) {
    out.push_back(static_cast<uint8_t>(v | 0x80));
    v >>= 7;
  }
  out.push_back(static_cast<uint8_t>(v));
}

// Maps small magnitudes of either sign to small numbers: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
constexpr uint64_t zigzag(uint64_t difference) { return (difference << 1) ^ (0 - (difference >> 63)); }
constexpr uint64_t unzigzag(uint64_t v) { return (v >> 1) ^ (0 - (v & 1)); }

// Reads hostile bytes front to back. After the first failure everything reads as zero and ok() is false.
class ByteCursor {
 public:
  ByteCursor() = default;
  explicit ByteCursor(std::span<const uint8_t> data) : data_(data) {}

  bool ok() const { return ok_; }
  bool at_end() const { return offset_ == data_.size(); }

  uint64_t varint() {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (offset_ == data_.size()) return fail();
      const uint8_t byte = data_[offset_++];
      if (shift == 63 && byte > 1) return fail();  // more than 64 bits
      v |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return v;
    }
    return fail();
  }
  uint8_t byte() {
    if (offset_ == data_.size()) return static_cast<uint8_t>(fail());
    return data_[offset_++];
  }
  std::span<const uint8_t> bytes(uint64_t size) {
    if (size > data_.size() - offset_) {
      fail();
      return {};
    }
    const auto out = data_.subspan(offset_, static_cast<size_t>(size));
    offset_ += out.size();
    return out;
  }

 private:
  uint64_t fail() {
    ok_ = false;
    offset_ = data_.size();
    return 0;
  }

  std::span<const uint8_t> data_;
  size_t offset_ = 0;
  bool ok_ = true;
};

}  // namespace retrovisor
