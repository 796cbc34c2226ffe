#include "vmm/state_io.h"

#include <algorithm>
#include <cstring>

namespace retrovisor {
namespace {

constexpr uint8_t kFieldMark = 0xf1;  // guards against reading from the middle of a field
constexpr size_t kMaxName = 255;

struct RawField {
  std::string_view name;
  std::span<const uint8_t> value;
  size_t end = 0;
};

// The field at `offset`, or false if the bytes there are no whole field.
bool parse_field(std::span<const uint8_t> data, size_t offset, RawField& out) {
  const size_t left = data.size() - offset;
  if (left < 2 || data[offset] != kFieldMark) return false;
  const size_t name_size = data[offset + 1];
  if (left < 2 + name_size + 4) return false;
  const uint8_t* p = data.data() + offset + 2;
  out.name = std::string_view(reinterpret_cast<const char*>(p), name_size);
  uint32_t value_size = 0;
  std::memcpy(&value_size, p + name_size, 4);
  if (left - (2 + name_size + 4) < value_size) return false;
  out.value = data.subspan(offset + 2 + name_size + 4, value_size);
  out.end = offset + 2 + name_size + 4 + value_size;
  return true;
}

}  // namespace

void StateWriter::number(std::string_view name, uint64_t v, size_t size) {
  uint8_t raw[8];
  std::memcpy(raw, &v, sizeof raw);  // the host is little endian (x86-64)
  field(name, std::span<const uint8_t>(raw, size));
}

void StateWriter::field(std::string_view name, std::span<const uint8_t> v) {
  const size_t name_size = section_.size() + 1 + name.size();
  RV_ASSERT(name_size <= kMaxName && v.size() <= UINT32_MAX);
  data_.push_back(kFieldMark);
  data_.push_back(static_cast<uint8_t>(name_size));
  data_.insert(data_.end(), section_.begin(), section_.end());
  data_.push_back('.');
  data_.insert(data_.end(), name.begin(), name.end());
  const auto size = static_cast<uint32_t>(v.size());
  uint8_t raw[4];
  std::memcpy(raw, &size, 4);
  data_.insert(data_.end(), raw, raw + 4);
  data_.insert(data_.end(), v.begin(), v.end());
}

std::span<const uint8_t> StateReader::field(std::string_view name, size_t max) {
  if (!ok()) return {};
  const std::string full = section_ + "." + std::string(name);
  RawField raw;
  if (!parse_field(data_, offset_, raw)) {
    error_ = "machine state ends or is damaged where " + full + " is expected";
    return {};
  }
  if (raw.name != full) {
    error_ = "machine state has " + std::string(raw.name) + " where " + full + " is expected";
    return {};
  }
  if (raw.value.size() > max) {
    error_ = "machine state field " + full + " is too long";
    return {};
  }
  offset_ = raw.end;
  return raw.value;
}

uint64_t StateReader::number(std::string_view name, size_t size) {
  const auto v = field(name, size);
  if (!ok()) return 0;
  if (v.size() != size) {
    error_ = "machine state field " + section_ + "." + std::string(name) + " has the wrong size";
    return 0;
  }
  uint64_t out = 0;
  std::memcpy(&out, v.data(), size);
  return out;
}

void StateReader::boolean(std::string_view name, bool& v) {
  const uint64_t raw = number(name, 1);
  check(name, raw <= 1);
  v = raw == 1;
}

void StateReader::bytes(std::string_view name, std::span<uint8_t> v) {
  const auto raw = field(name, v.size());
  if (!ok() || raw.size() != v.size()) {
    check(name, false);
    std::fill(v.begin(), v.end(), uint8_t{0});
    return;
  }
  std::copy(raw.begin(), raw.end(), v.begin());
}

void StateReader::bytes(std::string_view name, std::vector<uint8_t>& v, size_t max) {
  const auto raw = field(name, max);
  v.assign(raw.begin(), raw.end());
}

void StateReader::check(std::string_view name, bool valid) {
  if (!valid && ok()) error_ = "machine state field " + section_ + "." + std::string(name) + " has an impossible value";
}

Result<void> StateReader::finish() const {
  if (ok()) return {};
  return Error{ErrorCode::bad_trace, error_, "state offset " + std::to_string(offset_)};
}

std::vector<StateField> state_fields(std::span<const uint8_t> state) {
  std::vector<StateField> out;
  RawField raw;
  for (size_t offset = 0; offset < state.size() && parse_field(state, offset, raw); offset = raw.end)
    out.push_back({std::string(raw.name), std::vector<uint8_t>(raw.value.begin(), raw.value.end())});
  return out;
}

}  // namespace retrovisor
