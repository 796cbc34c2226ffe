// A kernel's ELF file, as far as one must know it to tell a debugger where its symbols are in a recorded run.
#pragma once

#include <string>

#include "analysis/linux/kallsyms.h"
#include "vmm/result.h"

namespace retrovisor {

// The arguments for gdb's `add-symbol-file` that put the symbols of the file at `path` where `kernel` has them: a vmlinux as it
// was linked, or what symbols_elf() made with any offset. Per-CPU variables keep their addresses, which are offsets in each
// CPU's area. An error says that the file cannot be read (path in Error::where), is a module, or is another kernel's.
Result<std::string> symbol_file_arguments(const std::string& path, const KernelSymbols& kernel);

// The same without a file to look at: a vmlinux as it was linked.
std::string linked_symbol_arguments(const KernelSymbols& kernel);

}  // namespace retrovisor
