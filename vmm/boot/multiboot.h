// Multiboot 1. Source: Multiboot Specification version 0.6.96.
#pragma once

#include <optional>

#include "vmm/boot/load_plan.h"
#include "vmm/boot/loader.h"

namespace retrovisor {

// File offset of the multiboot header, if the first 8 KiB hold one (magic and checksum match).
std::optional<uint64_t> find_multiboot_header(std::span<const uint8_t> image);

// Loads the kernel (by the addresses in its header if flag 16 is set, else as ELF), modules and command line.
// The initrd, if any, is the first module.
Result<LoadedGuest> load_multiboot(const BootImages& images, uint64_t header, LoadPlan& plan, CpuState& state);

}  // namespace retrovisor
