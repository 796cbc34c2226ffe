// What firmware leaves in memory: interrupt vectors, the BIOS data area and its extension, and services for real-mode code
// (bios.asm). Every guest finds them, however it is loaded: kernels and hypervisors read the data area long after the loader is
// gone. Sources: IBM PC/AT Technical Reference; Ralf Brown's MEMORY.LST; Phoenix, "System BIOS for IBM PCs".
#pragma once

#include <cstdint>

#include "vmm/boot/load_plan.h"
#include "vmm/cpu/state.h"

namespace retrovisor {

// Writes all of it; loaders may then write over vectors and data area, as programs do. `serial_ports` from COM1.
void write_bios(LoadPlan& plan, std::span<const uint16_t> serial_ports);

// How many entries the memory map may have.
inline constexpr size_t kMostMemoryEntries = 8;  // MAX_MEMORY in bios.asm

// How real-mode code is started behind the services' own start, which sets up interrupt controllers, timer and serial port.
struct BiosStart {
  uint16_t ip = 0;
  uint16_t cs = 0;
  uint16_t flags = 0;    // interrupts are on with flag::IF
  uint16_t sp = 0;
  uint16_t segment = 0;  // DS, ES, FS, GS, SS
  uint16_t dx = 0;
};
void start_by_bios(LoadPlan& plan, CpuState& state, const BiosStart& start);

// A disk that INT 13h reads out of memory. INT 15h then tells of its memory as reserved.
struct BiosDisk {
  uint64_t begin = 0;
  uint32_t sectors = 0;
  uint16_t sectors_per_track = 63;
  uint16_t heads = 16;
  uint8_t drive = 0x80;
};
void set_bios_disk(LoadPlan& plan, const BiosDisk& disk);

}  // namespace retrovisor
