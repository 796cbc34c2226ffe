// How much memory of the host this process takes, and how much of it is the guest's RAM.
#pragma once

#include <cstdint>

#include "vmm/memory/guest_memory.h"

namespace retrovisor::cli {

struct HostMemory {
  uint64_t peak_bytes = 0;   // highest resident size of the process so far
  uint64_t guest_bytes = 0;  // guest RAM that is resident: touched by the guest or the loader
  // What the machine costs beside the guest's own memory.
  uint64_t overhead() const { return peak_bytes > guest_bytes ? peak_bytes - guest_bytes : 0; }
};
HostMemory measure_host_memory(const GuestMemory& memory);

}  // namespace retrovisor::cli
