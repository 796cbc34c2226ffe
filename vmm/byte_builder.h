// Little-endian bytes, for building the tables that a guest reads.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace retrovisor {

class ByteBuilder {
 public:
  ByteBuilder& u8(uint64_t v) { return number(v, 1); }
  ByteBuilder& u16(uint64_t v) { return number(v, 2); }
  ByteBuilder& u32(uint64_t v) { return number(v, 4); }
  ByteBuilder& u64(uint64_t v) { return number(v, 8); }
  ByteBuilder& text(std::string_view s) {
    data_.insert(data_.end(), s.begin(), s.end());
    return *this;
  }
  ByteBuilder& bytes(std::span<const uint8_t> b) {
    data_.insert(data_.end(), b.begin(), b.end());
    return *this;
  }
  ByteBuilder& zeros(size_t n) {
    data_.insert(data_.end(), n, 0);
    return *this;
  }
  size_t size() const { return data_.size(); }
  std::vector<uint8_t>& data() { return data_; }
  const std::vector<uint8_t>& data() const { return data_; }

 private:
  ByteBuilder& number(uint64_t v, unsigned size) {
    for (unsigned i = 0; i < size; ++i) data_.push_back(static_cast<uint8_t>(v >> (8 * i)));
    return *this;
  }

  std::vector<uint8_t> data_;
};

}  // namespace retrovisor
