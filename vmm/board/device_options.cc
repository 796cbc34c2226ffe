#include "vmm/board/device_options.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace retrovisor {
namespace {

// What can stand in a trace's header and on one line.
constexpr size_t kLongest = 4096;

bool is_hex(std::string_view text) { return text.starts_with("0x") || text.starts_with("0X"); }

std::optional<uint64_t> parse_number(std::string_view text) {
  const bool hex = is_hex(text);
  if (hex) text.remove_prefix(2);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<uint64_t> parse_flag(std::string_view text) {
  if (text == "on") return 1;
  if (text == "off") return 0;
  return std::nullopt;
}

Error wrong(const DeviceSpec& device, std::string what) { return {ErrorCode::bad_argument, std::move(what), "device " + device.type}; }

}  // namespace

Result<DeviceSpec> parse_device(std::string_view text) {
  DeviceSpec device;
  if (text.size() > kLongest) return Error{ErrorCode::bad_argument, fmt::format("more than {} characters", kLongest), "device"};
  if (text.empty()) return Error{ErrorCode::bad_argument, "an empty text: a device begins with its type", "device"};
  const bool goes_on = text.back() == ',';
  for (bool first = true; first || !text.empty(); first = false) {
    const size_t end = std::min(text.find(','), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t equals = word.find('=');
    if (word.substr(0, equals).find_first_of(" \t\n") != std::string_view::npos)
      return Error{ErrorCode::bad_argument, fmt::format("\"{}\" has a blank, which no type and no option has", word), "device"};
    if (first) {
      device.type = word;
      continue;
    }
    if (word.empty() || equals == 0) return wrong(device, fmt::format("\"{}\" is no option=value", word));
    // As elsewhere, an option without a value is one switched on.
    const bool bare = equals == std::string_view::npos;
    device.options.emplace_back(word.substr(0, equals), bare ? std::string_view("on") : word.substr(equals + 1));
  }
  if (device.type.empty()) return Error{ErrorCode::bad_argument, "a device begins with its type", "device"};
  if (goes_on) return wrong(device, "ends with a comma, with no option behind it (blanks would separate it from the device)");
  return device;
}

std::string to_string(const DeviceSpec& device) {
  std::string text = device.type;
  for (const auto& [name, value] : device.options) text += fmt::format(",{}={}", name, value);
  return text;
}

Result<DeviceOptions> DeviceOptions::check(std::span<const OptionType> types, const DeviceSpec& device) {
  std::map<std::string, std::string, std::less<>> given;
  for (const auto& [name, value] : device.options)
    if (const auto [had, fresh] = given.emplace(name, value); !fresh)
      return wrong(device, fmt::format("option {} is given twice: {} and {}", name, had->second, value));
  DeviceOptions out;
  for (const OptionType& type : types) {
    const auto found = given.find(type.name);
    const std::string value = found == given.end() ? std::string(type.standard) : found->second;
    if (found != given.end()) given.erase(found);
    if (type.kind == OptionKind::text) {
      out.texts_.emplace(type.name, value);
      continue;
    }
    const bool flag = type.kind == OptionKind::flag;
    const auto number = flag ? parse_flag(value) : parse_number(value);
    if (!number) return wrong(device, fmt::format("{}={}: expected {}", type.name, value, flag ? "on or off" : "a number"));
    if (*number > type.most)  // in the base that the user has chosen
      return wrong(device, is_hex(value) ? fmt::format("{}={}: at most {:#x}", type.name, value, type.most)
                                         : fmt::format("{}={}: at most {}", type.name, value, type.most));
    out.numbers_.emplace(type.name, *number);
  }
  if (!given.empty()) {
    std::string known;
    for (const OptionType& type : types) known += fmt::format("{}{}", known.empty() ? "" : ", ", type.name);
    return wrong(device, fmt::format("no option {}{}", given.begin()->first, known.empty() ? ": it has none" : "; it has " + known));
  }
  return out;
}

bool DeviceOptions::same(std::string_view name, const DeviceOptions& other) const {
  const auto number = numbers_.find(name);
  return number != numbers_.end() ? number->second == other.number(name) : text(name) == other.text(name);
}

uint64_t DeviceOptions::number(std::string_view name) const {
  const auto found = numbers_.find(name);
  RV_ASSERT(found != numbers_.end());
  return found->second;
}

const std::string& DeviceOptions::text(std::string_view name) const {
  const auto found = texts_.find(name);
  RV_ASSERT(found != texts_.end());
  return found->second;
}

}  // namespace retrovisor
