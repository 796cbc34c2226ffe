// Bytes as DWARF has them: numbers of variable length (DWARF 5, section 7.6) and strings with an end, beside plain ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm/byte_builder.h"

namespace retrovisor {

class ByteWriter : public ByteBuilder {
 public:
  std::vector<uint8_t> take() { return std::move(data()); }
  void uleb(uint64_t v) {
    for (; v >= 0x80; v >>= 7) u8(v | 0x80);
    u8(v);
  }
  void sleb(int64_t v) {
    for (; v < -0x40 || v > 0x3f; v >>= 7) u8((static_cast<uint64_t>(v) & 0x7f) | 0x80);
    u8(static_cast<uint64_t>(v) & 0x7f);
  }
  void c_string(std::string_view v) { text(v).u8(0); }
  void set_u32(size_t at, uint32_t v) { std::memcpy(data().data() + at, &v, sizeof v); }
};

}  // namespace retrovisor
