// The symbols of a running Linux kernel, decoded from the tables that the kernel carries for itself (kallsyms): no
// System.map, no vmlinux, no debug package is needed.
//
// Source: the layout is what scripts/kallsyms.c of Linux 4.6 to 6.12 writes, with CONFIG_KALLSYMS_BASE_RELATIVE, as every
// x86-64 distribution kernel has it. The tables lie in .rodata, without names or pointers to them that one could follow
// from outside; they are found by what cannot be anything else: the table of 256 tokens, in which the digits stand for
// themselves, and the index of it. Everything is checked against everything: guest memory is hostile.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/machine/machine.h"
#include "vmm/result.h"

namespace retrovisor {

struct KernelSymbol {
  uint64_t address = 0;
  char type = 0;  // as nm gives it: 't', 'T', 'd', 'A', ...
  std::string name;
};

struct KernelSymbols {
  std::vector<KernelSymbol> symbols;  // in the order of the table, which is by address
  const KernelSymbol* find(std::string_view name) const;
  // How far the kernel has been moved from where it was linked to: _text against 0xffffffff81000000 (CONFIG_PHYSICAL_START
  // is 16 MiB in every distribution kernel). 0 without KASLR.
  uint64_t kaslr_offset() const;
};

// __START_KERNEL_map: x86-64 kernels' images lie from here on, and nothing else of theirs that has symbols does.
inline constexpr uint64_t kKernelMap = 0xffffffff80000000;
// Where they are linked to run: CONFIG_PHYSICAL_START behind it.
inline constexpr uint64_t kLinkedText = 0xffffffff81000000;

// From the bytes of a kernel image, as it lies in memory or in a vmlinux file. The addresses are those of the image: in
// memory, where the kernel has moved itself to.
Result<KernelSymbols> decode_kallsyms(std::span<const uint8_t> image);

// From the memory of a machine that runs a kernel (since it has unpacked itself). The kernel's image is found through an
// address in it: the handler of SYSCALL (LSTAR), of an exception (IDT), or the program counter; physically it is one piece.
Result<KernelSymbols> find_kernel_symbols(Machine& machine);

// An ELF file with these symbols and no code, for gdb's `symbol-file` and `add-symbol-file`. `offset` is added to all
// addresses of the kernel's image; `debug` was made with the same one.
struct DebugSections;
std::vector<uint8_t> symbols_elf(const KernelSymbols& symbols, uint64_t offset, const DebugSections* debug = nullptr);

}  // namespace retrovisor
