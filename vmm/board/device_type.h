// Kinds of devices. A device is known to the machine by its registration alone: whatever else tells of devices (the command line, the
// trace's header, ACPI, the fuzz targets) asks here or the board.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vmm/board/device_options.h"
#include "vmm/board/firmware_tables.h"

namespace retrovisor {

class DeviceContext;

struct DeviceType {
  std::string_view name;
  // Of its state and of what the guest sees of it. In traces: another version than the recording's is refused.
  uint32_t version = 1;
  std::string_view help;  // a line, without a full stop
  std::span<const OptionType> options = {};
  // Makes the device: DeviceContext::add() and what it claims. What goes wrong, the context remembers.
  void (*make)(DeviceContext& context) = nullptr;
  void (*firmware)(const DeviceOptions& options, FirmwareTables& tables) = nullptr;  // null: nothing
  bool single = false;    // a machine has one: to name it again is to give options to it (add_device)
  bool shares_irqs = false;  // other devices whose type says so, too, may drive its lines (DeviceContext::irq)
};

// Makes a type known as long as the program runs: an object of static storage duration beside the type.
class DeviceRegistration {
 public:
  explicit DeviceRegistration(const DeviceType& type);
};

// By name.
std::vector<const DeviceType*> device_types();
// An error names those that are nearly that, or all.
Result<const DeviceType*> find_device_type(std::string_view name);

// A device as it is to be made: its type, and the values of all its options.
struct CheckedDevice {
  const DeviceType* type = nullptr;
  DeviceOptions options;
};
Result<CheckedDevice> check_device(const DeviceSpec& device);

// One more device; or, of a single one, options for it. Fails at an unknown type, and at an option that it was given already with
// another value.
Result<void> add_device(DeviceList& list, DeviceSpec device);

// What tells two devices of a type apart where their names clash, for an error: "; give one another number by
// index=". Or nothing.
std::string_view numbered(const DeviceType& type);

// What the command line says to `--device help` and `--device TYPE,help`.
std::string device_help();
std::string device_help(const DeviceType& type);

// What a machine with these devices says of them to the guest.
Result<FirmwareTables> firmware_tables(const DeviceList& devices);

}  // namespace retrovisor
