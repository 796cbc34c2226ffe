#include "traces/fields.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "traces/varint.h"

namespace retrovisor {
namespace {

constexpr size_t kNumberSize = 8;
constexpr uint64_t kMaxFieldSize = uint64_t{1} << 30;

bool is_number(const FieldValue& v) { return !v.hashed && v.size <= kNumberSize; }

uint64_t number(const FieldValue& v) {
  uint64_t n = 0;
  if (is_number(v)) std::memcpy(&n, v.bytes.data(), kNumberSize);
  return n;
}

uint64_t number_mask(uint64_t size) { return size >= kNumberSize ? UINT64_MAX : (uint64_t{1} << (8 * size)) - 1; }

Error bad(const char* message) { return {ErrorCode::bad_trace, message, {}}; }

}  // namespace

FieldValue field_value(std::span<const uint8_t> value) {
  FieldValue out;
  out.size = static_cast<uint32_t>(value.size());
  out.hashed = value.size() > FieldValue::kInline;
  if (out.hashed) {
    const uint64_t hash = XXH3_64bits(value.data(), value.size());
    std::memcpy(out.bytes.data(), &hash, sizeof hash);
  } else {
    std::copy(value.begin(), value.end(), out.bytes.begin());
  }
  return out;
}

std::string to_string(const FieldValue& v) {
  if (v.hashed) {
    uint64_t hash = 0;
    std::memcpy(&hash, v.bytes.data(), sizeof hash);
    return fmt::format("{} bytes with hash {:016x}", v.size, hash);
  }
  if (is_number(v)) return fmt::format("{:#x}", number(v));
  std::string out;
  for (size_t i = 0; i < v.size && i < v.bytes.size(); ++i) out += fmt::format("{:02x}", v.bytes[i]);
  return out;
}

std::vector<uint8_t> encode_fields(std::span<const FieldValue> previous, std::span<const FieldValue> next) {
  RV_ASSERT(next.size() <= kMaxFields && (previous.empty() || previous.size() == next.size()));
  std::vector<uint8_t> body;
  uint64_t count = 0;
  size_t expected = 0;  // index that a gap of 0 means
  for (size_t i = 0; i < next.size(); ++i) {
    if (!previous.empty() && previous[i] == next[i]) continue;
    const FieldValue& v = next[i];
    put_varint(body, i - expected);
    put_varint(body, uint64_t{v.size} << 1 | (v.hashed ? 1 : 0));
    if (v.hashed) {
      body.insert(body.end(), v.bytes.begin(), v.bytes.begin() + kNumberSize);
    } else if (is_number(v)) {
      const uint64_t old = previous.empty() ? 0 : number(previous[i]);
      put_varint(body, zigzag(number(v) - old));
    } else {
      body.insert(body.end(), v.bytes.begin(), v.bytes.begin() + v.size);
    }
    expected = i + 1;
    ++count;
  }
  std::vector<uint8_t> out;
  put_varint(out, count);
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

Result<void> decode_fields(std::span<const uint8_t> coded, bool self_contained, std::vector<FieldValue>& values) {
  ByteCursor in(coded);
  const uint64_t count = in.varint();
  if (count > values.size() || (self_contained && count != values.size()))
    return bad("a digest has the wrong number of fields");
  uint64_t index = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t gap = in.varint();
    if (!in.ok() || gap >= values.size() - index) return bad("a digest names a field that does not exist");
    index += gap;
    FieldValue next;
    const uint64_t tag = in.varint();
    next.hashed = (tag & 1) != 0;
    const uint64_t size = tag >> 1;
    if (next.hashed ? size > kMaxFieldSize : size > FieldValue::kInline)
      return bad("a digest has a field of impossible size");
    next.size = static_cast<uint32_t>(size);
    if (is_number(next)) {
      const uint64_t old = self_contained ? 0 : number(values[index]);
      const uint64_t n = old + unzigzag(in.varint());
      if ((n & ~number_mask(size)) != 0) return bad("a digest has a field value that does not fit its size");
      std::memcpy(next.bytes.data(), &n, sizeof n);
    } else {
      const auto raw = in.bytes(next.hashed ? kNumberSize : size);
      std::copy(raw.begin(), raw.end(), next.bytes.begin());
    }
    if (!in.ok()) return bad("the fields of a digest are cut off");
    values[index++] = next;
  }
  if (!in.ok() || !in.at_end()) return bad("the fields of a digest have the wrong length");
  return {};
}

}  // namespace retrovisor
