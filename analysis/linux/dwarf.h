// DWARF 5 out of a kernel's BTF and symbols: what a debugger needs to print a stock kernel's structures, and to know its functions'
// parameters and results, without the debug package.
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/linux/btf.h"
#include "analysis/linux/kallsyms.h"
#include "analysis/linux/kernel_memory.h"

namespace retrovisor {

struct DebugSections {
  std::vector<uint8_t> info, abbrev, str, loclists;  // .debug_*
  size_t types = 0, functions = 0, variables = 0;    // how many are in them
};

// `offset` is added to all addresses of the kernel's image. `code`: where the kernel's functions can be read.
//
// A function is known to BTF by name alone. Several functions of one name may have prototypes that differ, of which old kernels'
// BTF has one, so those get none. Parameters are said to be in their registers (or on the stack) at the function's first
// instruction only, and before what ftrace has put there: what the compiler does with them later, BTF does not say.
DebugSections make_debug_sections(const Btf& btf, const KernelSymbols& symbols, const KernelMemory& code, uint64_t offset);

}  // namespace retrovisor
