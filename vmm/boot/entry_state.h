// The CPU states in which boot protocols enter a guest.
#pragma once

#include "vmm/boot/load_plan.h"
#include "vmm/cpu/state.h"

namespace retrovisor {

// Selectors of the flat GDT, as Linux's 64-bit boot protocol wants them (__BOOT_CS, __BOOT_DS; PVH and multiboot
// leave them open).
inline constexpr uint16_t kBootCs = 0x10;
inline constexpr uint16_t kBootDs = 0x18;

// All three set control, segment and descriptor table registers and RFLAGS (interrupts off), clear the general
// registers and leave everything else as it is after reset.

// Real mode at `entry`, which must be below 1 MiB: CS:IP is 0:entry below 64 KiB, else the paragraph and an IP of 0-15.
void enter_real_mode(CpuState& state, uint64_t entry);
// 32-bit protected mode without paging, flat segments; places a GDT.
Result<void> enter_protected_mode(LoadPlan& plan, CpuState& state, uint32_t entry);
// 64-bit mode, flat segments, the low 4 GiB identity-mapped with 2 MiB pages; places a GDT and page tables.
Result<void> enter_long_mode(LoadPlan& plan, CpuState& state, uint64_t entry);

}  // namespace retrovisor
