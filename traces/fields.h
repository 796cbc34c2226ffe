// Named fields of a digest: how values are taken from a serialised state, and how changes between digests are coded.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "traces/format.h"
#include "vmm/result.h"

namespace retrovisor {

inline constexpr size_t kMaxFields = 65536;
inline constexpr size_t kMaxFieldName = 255;

// The value itself if it is short, else its size and hash.
FieldValue field_value(std::span<const uint8_t> value);
// Hexadecimal: numbers (up to 8 bytes) as 0x..., longer values as bytes, hashed ones by size and hash.
std::string to_string(const FieldValue& value);

// Codes the fields of `next` that differ from `previous`, or all of them if `previous` is empty. Layout: varint count; then
// per field varint gap to the last index + 1, varint size * 2 + hashed, and: 8 bytes of hash if hashed, else a signed varint
// difference to the old number for sizes up to 8, else the bytes.
std::vector<uint8_t> encode_fields(std::span<const FieldValue> previous, std::span<const FieldValue> next);
// Applies such a coding to `values`, in place. The coding is hostile; on an error `values` is of no use.
Result<void> decode_fields(std::span<const uint8_t> coded, bool self_contained, std::vector<FieldValue>& values);

}  // namespace retrovisor
