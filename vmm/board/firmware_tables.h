// What devices tell the guest through tables of firmware: ACPI, MP, E820, the BIOS data area. Each kind of device writes down its own part
// (DeviceType::firmware), and vmm/boot makes tables of all of it, so that no table names a device that is not there.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "vmm/board/aml.h"
#include "vmm/types.h"

namespace retrovisor {

struct FirmwareTables {
  // ACPI's namespace.
  aml::Aml root;                                         // terms behind the root
  std::map<std::string, aml::Aml, std::less<>> devices;  // \_SB, by name: in its order

  // The ACPI register block (ACPI 6.5, 4.8); none: hardware-reduced ACPI.
  struct FixedHardware {
    uint16_t pm1_event = 0, pm1_control = 0;
    uint16_t pm_timer = 0;
    unsigned pm_timer_bits = 0;
    unsigned sci = 0;
    bool rtc_wakes = false;  // the clock's alarm is told in PM1_STS (not FIX_RTC)
  };
  std::optional<FixedHardware> fixed_hardware;
  struct ResetRegister {
    uint16_t port = 0;
    uint8_t value = 0;
  };
  std::optional<ResetRegister> reset_register;
  bool cmos_clock = false;      // with the century in CMOS register 32h
  bool legacy_devices = false;  // on the ISA bus, that the guest may look for

  // Interrupts. Line n of the ISA bus is global system interrupt n, edge-triggered and active high, where nothing else is said.
  bool pics = false;                      // an 8259A pair
  std::optional<uint64_t> local_apics;    // where each processor sees its own
  struct IoApic {
    uint8_t id = 0;
    uint64_t address = 0;
    uint32_t gsi_base = 0;
    std::optional<unsigned> pic_pin;      // INTR of the 8259A pair
  };
  std::vector<IoApic> io_apics;
  struct Override {
    unsigned line = 0;
    unsigned gsi = 0;
    bool level = false;
  };
  std::vector<Override> overrides;

  // Addresses that are no RAM, in E820.
  std::vector<PhysRange> reserved;
  std::vector<uint16_t> serial_ports;  // as the BIOS counts them, from COM1
};

}  // namespace retrovisor
