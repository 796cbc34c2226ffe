#include "vmm/board/device_type.h"

#include <algorithm>

#include <fmt/format.h>

namespace retrovisor {
namespace {

using Types = std::map<std::string_view, const DeviceType*>;

Types& types() {
  static Types all;
  return all;
}

}  // namespace

DeviceRegistration::DeviceRegistration(const DeviceType& type) {
  RV_ASSERT(type.make != nullptr && !type.name.empty());
  RV_ASSERT(types().emplace(type.name, &type).second);
}

std::vector<const DeviceType*> device_types() {
  std::vector<const DeviceType*> out;
  for (const auto& [name, type] : types()) out.push_back(type);
  return out;
}

Result<const DeviceType*> find_device_type(std::string_view name) {
  if (const auto found = types().find(name); found != types().end()) return found->second;
  std::string all;
  for (const auto& [known, type] : types()) all += fmt::format("{}{}", all.empty() ? "" : ", ", known);
  return Error{ErrorCode::bad_argument, fmt::format("there is no device {}; there are {}", name, all), "device"};
}

Result<CheckedDevice> check_device(const DeviceSpec& device) {
  CheckedDevice out;
  RV_TRY(out.type, find_device_type(device.type));
  RV_TRY(out.options, DeviceOptions::check(out.type->options, device));
  return out;
}

Result<void> add_device(DeviceList& list, DeviceSpec device) {
  RV_TRY(const auto checked, check_device(device));
  const auto same = std::find_if(list.begin(), list.end(), [&](const DeviceSpec& d) { return d.type == device.type; });
  if (!checked.type->single || same == list.end()) {
    list.push_back(std::move(device));
    return {};
  }
  RV_TRY(const auto before, check_device(*same));
  for (auto& [name, value] : device.options) {
    const auto given = std::find_if(same->options.begin(), same->options.end(), [&](const auto& o) { return o.first == name; });
    if (given == same->options.end()) {
      same->options.emplace_back(std::move(name), std::move(value));
    } else if (!checked.options.same(name, before.options)) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("{0}={1} and {0}={2} contradict each other: a machine has one {3}", name, given->second, value, device.type),
                   "device " + device.type};
    }
  }
  return {};
}

std::string_view numbered(const DeviceType& type) {
  const bool is = std::any_of(type.options.begin(), type.options.end(), [](const OptionType& o) { return o.name == "index"; });
  return is ? "; give one another number by index=" : "";
}

std::string device_help() {
  std::string out;
  for (const DeviceType* type : device_types())
    out += fmt::format("{:<16} {}{}\n", type->name, type->help, !type->single ? "" : type->options.empty() ? " (one)" : " (one; takes options)");
  return out;
}

std::string device_help(const DeviceType& type) {
  std::string out = fmt::format("{}: {}{}\n", type.name, type.help, type.single ? "; a machine has one, to which these options go" : "");
  static constexpr const char* kKinds[] = {"NUMBER", "on|off", "TEXT"};
  for (const OptionType& o : type.options)
    out += fmt::format("  {:<24} {} [{}]\n", fmt::format("{}={}", o.name, kKinds[static_cast<size_t>(o.kind)]), o.help, o.standard);
  if (type.options.empty()) out += "  (no options)\n";
  return out;
}

Result<FirmwareTables> firmware_tables(const DeviceList& devices) {
  FirmwareTables tables;
  for (const DeviceSpec& device : devices) {
    RV_TRY(const CheckedDevice checked, check_device(device));
    if (checked.type->firmware != nullptr) checked.type->firmware(checked.options, tables);
  }
  return tables;
}

}  // namespace retrovisor
