// The Linux kernel in the machine: monitor commands about it, and what makes gdb see its stacks.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "gdbstub/session.h"

namespace retrovisor::cli {

struct LinuxView {
  std::vector<gdb::MonitorCommand> commands;
  std::function<std::vector<uint8_t>(gdb::Execution&)> window;  // SessionOptions'
};
LinuxView linux_view();

// For gdb's init file: an unwinder in gdb's Python.
std::string gdb_unwinder_script();

}  // namespace retrovisor::cli
