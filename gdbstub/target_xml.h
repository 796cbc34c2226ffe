// What we tell a debugger about the machine in XML: its registers and its memory map.
// Source: Debugging with GDB, appendices G (Target Descriptions) and E.15 (Memory Map Format).
#pragma once

#include <optional>
#include <span>
#include <string>

#include "gdbstub/registers.h"

namespace retrovisor::gdb {

// target.xml, whole.
std::string target_xml(Arch arch);
// What a kernel image is for, if it is an ELF file.
std::optional<Arch> arch_of_elf(std::span<const uint8_t> image);
// What a debugger expects of the machine as it stands: in long mode x86-64; else what `kernel` says; else i386 where 32-bit
// code runs. Real mode can lead anywhere: x86-64.
Arch arch_of(const CpuState& s, std::optional<Arch> kernel);
// The memory map. gdb takes what it does not list for absent, and asks for virtual addresses: everything is RAM to it, and
// what is not mapped is an error when it is read.
std::string memory_map_xml();

}  // namespace retrovisor::gdb
