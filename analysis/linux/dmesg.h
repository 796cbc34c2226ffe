// The kernel's log, out of its ring buffer: also that of a guest that hangs, or has crashed before it could print.
//
// Source: kernel/printk/printk_ringbuffer.c and .h of Linux 5.10 to 6.12, which that buffer came with; printk.c for how it is shown.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/linux/kernel.h"

namespace retrovisor {

struct LogRecord {
  uint64_t sequence = 0;
  uint64_t nanoseconds = 0;  // since the kernel's beginning
  uint32_t facility = 0, level = 0;
  uint32_t caller = 0;       // a task's number, or with the highest bit a CPU's
  bool finished = true;      // no: more may come to this line
  std::string text;          // without the last newline
};

struct KernelLog {
  std::vector<LogRecord> records;  // the oldest first
  std::string trouble;             // what could not be read; empty: nothing
};

Result<KernelLog> read_log(const LinuxKernel& kernel, const KernelMemory& memory);

// As dmesg shows it: "[    1.234567] text", each line of a record with the time before it.
std::string log_text(const LogRecord& record);

}  // namespace retrovisor
