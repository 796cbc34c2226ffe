// A Linux kernel as it is found in a machine's memory: its symbols, unwind tables and types, read once and good as long as it is that kernel.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/linux/btf.h"
#include "analysis/linux/kallsyms.h"
#include "analysis/linux/orc.h"
#include "analysis/linux/unwind.h"
#include "vmm/machine/machine.h"

namespace retrovisor {

class LinuxKernel {
 public:
  // As find_kernel_symbols(); what else the kernel lacks (has_orc()) is no error.
  static Result<std::unique_ptr<LinuxKernel>> find(Machine& machine);
  // The same from symbols that are known, and memory in which the kernel lies.
  static std::unique_ptr<LinuxKernel> of(KernelSymbols symbols, const KernelMemory& memory);

  const KernelSymbols& symbols() const { return symbols_; }
  std::optional<uint64_t> address_of(std::string_view name) const;
  // Each symbol of that name: of static ones there may be many.
  std::vector<uint64_t> addresses_of(std::string_view name) const;
  struct Place {
    std::string_view name;
    uint64_t offset = 0;
    uint64_t size = 0;  // up to the next symbol
  };
  // The symbol that covers `address`: only within the kernel's image.
  std::optional<Place> place_of(uint64_t address) const;
  // "vfs_read+0x1b", or the number in hexadecimal.
  std::string text_of(uint64_t address) const;

  // "Linux version 6.1.0-49-cloud-amd64 ...", as the kernel says it. Empty: it does not.
  const std::string& banner() const { return banner_; }
  // The memory seen through `memory` has this kernel at this place: nothing of what is known of it has to be read again.
  bool is_in(const KernelMemory& memory) const;

  bool has_orc() const { return orc_.has_value(); }
  // Why there are no tables to unwind by; empty if there are.
  const std::string& orc_error() const { return orc_error_; }
  // The kernel's types (of its image, not of modules); nullptr: there are none, and btf_error() says why.
  const Btf* btf() const { return btf_ ? &*btf_ : nullptr; }
  const std::string& btf_error() const { return btf_error_; }
  // Through modules' code too, where the kernel's types are known. The kernel outlives the unwinder, and so does `memory`.
  Unwinder unwinder(const KernelMemory& memory) const;

 private:
  LinuxKernel() = default;
  void index();
  void read_orc(const KernelMemory& memory);
  std::optional<OrcEntry> find_orc(uint64_t ip) const;

  KernelSymbols symbols_;
  std::vector<uint32_t> by_name_, by_address_;  // numbers in symbols_.symbols
  uint64_t image_begin_ = 0, image_end_ = 0;
  uint64_t thunks_begin_ = 0, thunks_end_ = 0;
  std::string banner_;
  uint64_t banner_at_ = 0;
  std::optional<OrcTable> orc_;
  std::string orc_error_;
  std::optional<Btf> btf_;
  std::string btf_error_;
};

}  // namespace retrovisor
