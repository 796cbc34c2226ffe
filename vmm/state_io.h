// Named-field serialisation of machine state. One format serves snapshots, digests and divergence reports: every
// value carries its name ("pit8254.counter0.count"), so that two states can be compared field by field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/result.h"

namespace retrovisor {

// Appends fields to a flat buffer. Layout per field: mark 0xf1, u8 name length, name, u32 value length, value (little endian).
// Names are made of the current section and the field name, joined by '.'.
class StateWriter {
 public:
  // Enters a section (a device, a vCPU). Sections do not nest: a new one replaces the last.
  void section(std::string_view name) { section_ = name; }
  void u8(std::string_view name, uint8_t v) { number(name, v, 1); }
  void u16(std::string_view name, uint16_t v) { number(name, v, 2); }
  void u32(std::string_view name, uint32_t v) { number(name, v, 4); }
  void u64(std::string_view name, uint64_t v) { number(name, v, 8); }
  void boolean(std::string_view name, bool v) { number(name, v ? 1 : 0, 1); }
  void bytes(std::string_view name, std::span<const uint8_t> v) { field(name, v); }

  std::span<const uint8_t> data() const { return data_; }
  std::vector<uint8_t> take() { return std::move(data_); }

 private:
  void number(std::string_view name, uint64_t v, size_t size);
  void field(std::string_view name, std::span<const uint8_t> v);

  std::string section_;
  std::vector<uint8_t> data_;
};

// Reads fields back in the order they were written, checking every name and length. The input is hostile: after the
// first mismatch everything reads as zero and finish() tells the offset and the name. Range checks of a device go
// through `check`.
class StateReader {
 public:
  explicit StateReader(std::span<const uint8_t> data) : data_(data) {}

  void section(std::string_view name) { section_ = name; }
  void u8(std::string_view name, uint8_t& v) { v = static_cast<uint8_t>(number(name, 1)); }
  void u16(std::string_view name, uint16_t& v) { v = static_cast<uint16_t>(number(name, 2)); }
  void u32(std::string_view name, uint32_t& v) { v = static_cast<uint32_t>(number(name, 4)); }
  void u64(std::string_view name, uint64_t& v) { v = number(name, 8); }
  void boolean(std::string_view name, bool& v);
  // Exactly v.size() bytes.
  void bytes(std::string_view name, std::span<uint8_t> v);
  // At most `max` bytes.
  void bytes(std::string_view name, std::vector<uint8_t>& v, size_t max);
  // Records an error unless `valid`; `name` is the field at fault.
  void check(std::string_view name, bool valid);

  bool ok() const { return error_.empty(); }
  Result<void> finish() const;         // error if anything failed so far
  bool at_end() const { return offset_ == data_.size(); }

 private:
  uint64_t number(std::string_view name, size_t size);
  std::span<const uint8_t> field(std::string_view name, size_t max);

  std::span<const uint8_t> data_;
  size_t offset_ = 0;
  std::string section_;
  std::string error_;
};

// One field of a serialised state, for reports.
struct StateField {
  std::string name;
  std::vector<uint8_t> value;
};
// All fields of a state in order; stops at the first malformed one.
std::vector<StateField> state_fields(std::span<const uint8_t> state);

}  // namespace retrovisor
