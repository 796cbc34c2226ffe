// Which modules a kernel has loaded. Source: kernel/module/ of Linux 5.0 to 6.12 (print_unload_info(), m_show()).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/linux/kernel.h"
#include "analysis/linux/objects.h"

namespace retrovisor {

struct LoadedModule {
  uint64_t at = 0;      // struct module
  std::string name;
  uint64_t base = 0;    // of its code
  uint64_t size = 0;    // as lsmod counts
  int64_t references = 0;
  std::vector<std::string> users;  // other modules
  bool permanent = false;          // it cannot be unloaded
  enum class State : uint8_t { live, coming, going } state{};
};

struct ModuleList {
  std::vector<LoadedModule> modules;  // the latest first, as the kernel has them
  std::string trouble;                // what could not be read; empty: nothing
};

// Where each loaded module's struct module is, the latest first.
struct ModuleAddresses {
  std::vector<uint64_t> at;
  std::string trouble;  // as ModuleList's
};
Result<ModuleAddresses> module_addresses(const KernelObjects& objects);

Result<ModuleList> read_modules(const LinuxKernel& kernel, const KernelMemory& memory);

// As lsmod shows it.
std::string modules_text(const ModuleList& list);

}  // namespace retrovisor
