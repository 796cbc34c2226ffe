// Monitor commands that need to know what runs in the machine: symbols of a Linux kernel, disassembly.
#pragma once

#include <vector>

#include "gdbstub/monitor.h"

namespace retrovisor::cli {

std::vector<gdb::MonitorCommand> kernel_commands();

}  // namespace retrovisor::cli
