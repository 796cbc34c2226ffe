// The tables of the MultiProcessor Specification 1.4 (Intel 242016), for guests that read no ACPI.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/board/firmware_tables.h"

namespace retrovisor {

// The floating pointer, which must lie in the first KiB of the EBDA or from F0000 to FFFFF on a 16-byte boundary, and behind it
// the configuration table. They say what the ACPI tables say (acpi_tables.h).
std::vector<uint8_t> make_mp_table(uint64_t base, uint32_t vcpus, const FirmwareTables& board);

}  // namespace retrovisor
