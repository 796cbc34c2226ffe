// What we tell a debugger about the machine in XML: its registers and its memory map.
// Source: Debugging with GDB, appendices G (Target Descriptions) and E.15 (Memory Map Format).
#pragma once

#include <string>

#include "gdbstub/registers.h"

namespace retrovisor::gdb {

// target.xml, whole.
std::string target_xml(Arch arch);
// The memory map. gdb takes what it does not list for absent, and asks for virtual addresses: everything is RAM to it, and
// what is not mapped is an error when it is read.
std::string memory_map_xml();

}  // namespace retrovisor::gdb
