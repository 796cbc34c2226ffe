// The unwind tables of loaded modules, found through the kernel's list of them. Source: struct module and struct mod_arch_specific of
// Linux 5.x to 6.12, by the kernel's BTF.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/linux/kernel.h"
#include "analysis/linux/kernel_memory.h"
#include "analysis/linux/orc.h"

namespace retrovisor {

class ModuleOrc {
 public:
  // Looks for the modules once; a kernel without types has none that can be found. Both outlive the object.
  ModuleOrc(const LinuxKernel& kernel, const KernelMemory& memory, OrcPacking packing);

  // Nothing: no module's code, or its module has no table.
  std::optional<OrcEntry> find(uint64_t ip);

 private:
  struct Module {
    std::vector<std::pair<uint64_t, uint64_t>> code;  // begin, size
    uint64_t addresses = 0, entries = 0, count = 0;
    std::optional<OrcTable> table;
    bool read = false;
  };
  const KernelMemory& memory_;
  OrcPacking packing_;
  std::vector<Module> modules_;
};

}  // namespace retrovisor
