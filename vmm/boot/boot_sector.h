// Boot sectors: the first 512 bytes of a disk, started by the BIOS in real mode. Source: IBM PC/AT Technical Reference, INT 19h.
#pragma once

#include "vmm/boot/load_plan.h"
#include "vmm/boot/loader.h"

namespace retrovisor {

// Whether the image begins with a sector that ends in 55 AA.
bool is_boot_sector(std::span<const uint8_t> image);

// Loads the first sector to 0:7C00 and starts it with interrupts on and the drive's number in DL. Of an image with more sectors the
// BIOS reads the others out of memory (INT 13h): a floppy if it has the size of one, else a hard disk.
Result<LoadedGuest> load_boot_sector(const BootImages& images, LoadPlan& plan, CpuState& state);

}  // namespace retrovisor
