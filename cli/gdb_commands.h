// Monitor commands that need to know what runs in the machine: symbols of a Linux kernel, disassembly.
#pragma once

#include <vector>

#include "analysis/linux/kallsyms.h"
#include "gdbstub/monitor.h"

namespace retrovisor::cli {

std::vector<gdb::MonitorCommand> kernel_commands();
// The symbols of the kernel where the timeline stands, or, if it has not unpacked itself there, where it first has. The
// timeline does not move.
Result<KernelSymbols> recorded_symbols(Timeline& timeline);

}  // namespace retrovisor::cli
