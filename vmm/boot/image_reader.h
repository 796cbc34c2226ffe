// Bounded little-endian reads from an image in host memory, and errors that name a file offset.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "vmm/result.h"

namespace retrovisor {

// Reads beyond the end give 0; has() tells them apart. So a forgotten check is a wrong value, never a wild read.
class ImageReader {
 public:
  explicit ImageReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  uint64_t size() const { return bytes_.size(); }
  bool has(uint64_t offset, uint64_t size) const { return offset <= bytes_.size() && size <= bytes_.size() - offset; }
  uint8_t u8(uint64_t offset) const { return static_cast<uint8_t>(number(offset, 1)); }
  uint16_t u16(uint64_t offset) const { return static_cast<uint16_t>(number(offset, 2)); }
  uint32_t u32(uint64_t offset) const { return static_cast<uint32_t>(number(offset, 4)); }
  uint64_t u64(uint64_t offset) const { return number(offset, 8); }
  // Empty unless all of it is there.
  std::span<const uint8_t> bytes(uint64_t offset, uint64_t size) const {
    return has(offset, size) ? bytes_.subspan(offset, size) : std::span<const uint8_t>();
  }
  std::span<const uint8_t> all() const { return bytes_; }

 private:
  uint64_t number(uint64_t offset, unsigned size) const {
    if (!has(offset, size)) return 0;
    uint64_t v = 0;
    for (unsigned i = 0; i < size; ++i) v |= uint64_t{bytes_[offset + i]} << (8 * i);
    return v;
  }

  std::span<const uint8_t> bytes_;
};

inline Error image_error(std::string message, uint64_t file_offset) {
  return Error{ErrorCode::bad_image, std::move(message), fmt::format("offset {:#x}", file_offset)};
}

}  // namespace retrovisor
