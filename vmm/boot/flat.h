// Flat binaries: copied to an address; the CPU starts at their first byte.
#pragma once

#include "vmm/boot/load_plan.h"
#include "vmm/boot/loader.h"

namespace retrovisor {

// Entered with interrupts off, general registers 0 and a stack pointer of 0x7c00 (the memory below is free).
Result<LoadedGuest> load_flat(const BootImages& images, LoadPlan& plan, CpuState& state);

}  // namespace retrovisor
