// Linux's boot protocols: by the 64-bit entry, the 32-bit one, or real mode. Source: Documentation/x86/boot.rst and zero-page.rst of Linux.
#pragma once

#include "vmm/boot/load_plan.h"
#include "vmm/boot/loader.h"

namespace retrovisor {

// Whether the image has the magic of a Linux boot sector with a setup header ("HdrS").
bool is_bzimage(std::span<const uint8_t> image);
// Whether such an image is of a 64-bit kernel: since Linux 3.8 each of them says so, and no other does.
bool is_bzimage64(std::span<const uint8_t> image);

// Loads kernel, initrd and command line, writes the boot parameters ("zero page") and sets the entry state.
// `rsdp`: physical address of the ACPI root pointer.
Result<LoadedGuest> load_bzimage(const BootImages& images, LoadPlan& plan, CpuState& state, uint64_t rsdp);

}  // namespace retrovisor
