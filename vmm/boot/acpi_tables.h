// The ACPI tables that describe the machine. Source: ACPI Specification 6.5, chapters 5 and 20.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/board/firmware_tables.h"

namespace retrovisor {

struct AcpiTables {
  uint64_t base = 0;           // physical address of the first byte; the RSDP lies there
  std::vector<uint8_t> bytes;  // RSDP, XSDT, RSDT, FADT, MADT, FACS, DSDT
};

// Tables for `vcpus` processors, to be placed at `base` (64-byte aligned, below 4 GiB), of what the devices say of themselves.
AcpiTables make_acpi_tables(uint64_t base, uint32_t vcpus, const FirmwareTables& board);

// What the DSDT holds: what the operating system cannot find by itself.
std::vector<uint8_t> make_dsdt_aml(const FirmwareTables& board);

}  // namespace retrovisor
