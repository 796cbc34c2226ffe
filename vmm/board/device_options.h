// A device of a machine as people name it, on a command line and in a trace: its type, and options as text.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm/result.h"

namespace retrovisor {

struct DeviceSpec {
  std::string type;
  std::vector<std::pair<std::string, std::string>> options;  // those that were given
  bool operator==(const DeviceSpec&) const = default;
};
// The devices of a machine, in the order in which they are made: the order of their state.
using DeviceList = std::vector<DeviceSpec>;

// "type[,option=value]...".
Result<DeviceSpec> parse_device(std::string_view text);
std::string to_string(const DeviceSpec& device);

enum class OptionKind : uint8_t { number, flag, text };

struct OptionType {
  std::string_view name;
  OptionKind kind = OptionKind::number;
  std::string_view standard;  // its value where none is given
  std::string_view help;
  uint64_t most = UINT64_MAX;  // of a number
};

// The values of all options of a device.
class DeviceOptions {
 public:
  // Fails at names that `types` does not have, names given twice and values that are none of their kind.
  static Result<DeviceOptions> check(std::span<const OptionType> types, const DeviceSpec& device);

  // The option must be one of the type's, of this kind.
  uint64_t number(std::string_view name) const;
  bool flag(std::string_view name) const { return number(name) != 0; }
  const std::string& text(std::string_view name) const;
  // Whether an option has the same value in `other`, of a device of the same type: 0x10 is 16.
  bool same(std::string_view name, const DeviceOptions& other) const;

 private:
  std::map<std::string, uint64_t, std::less<>> numbers_;  // and flags: 0 or 1
  std::map<std::string, std::string, std::less<>> texts_;
};

}  // namespace retrovisor
