// What the views of a kernel share: objects in its memory, their members by name, and its lists. Nothing in memory is trusted: a list
// may lead anywhere, back to where it came from, or nowhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/linux/kernel.h"
#include "analysis/linux/kernel_btf.h"
#include "analysis/linux/kernel_memory.h"

namespace retrovisor {

// A kernel with types, in a memory. Both outlive it.
class KernelObjects {
 public:
  // ErrorCode::unsupported: the kernel has no types.
  static Result<KernelObjects> of(const LinuxKernel& kernel, const KernelMemory& memory);

  const LinuxKernel& kernel() const { return kernel_; }
  const Btf& btf() const { return btf_; }
  const KernelMemory& memory() const { return memory_; }

  Result<Btf::Field> field(std::string_view object, std::string_view path) const;
  // The first of several names, as versions of Linux have it; nothing: none of them.
  std::optional<Btf::Field> any_field(std::string_view object, std::initializer_list<std::string_view> paths) const;
  std::optional<uint64_t> read(uint64_t object, const Btf::Field& field) const { return read_field(memory_, btf_, object, field); }
  std::optional<uint64_t> read(uint64_t object, const std::optional<Btf::Field>& field) const {
    return field ? read(object, *field) : std::nullopt;
  }
  // Of an array of characters: up to NUL.
  std::string text(uint64_t object, const Btf::Field& field) const;
  Result<uint64_t> symbol(std::string_view name) const;
  // Where each CPU's own variables are moved to, by the kernel's number of the CPU; as far as they can be read.
  std::vector<uint64_t> per_cpu_offsets() const;

 private:
  KernelObjects(const LinuxKernel& kernel, const KernelMemory& memory) : kernel_(kernel), btf_(*kernel.btf()), memory_(memory) {}

  const LinuxKernel& kernel_;
  const Btf& btf_;
  const KernelMemory& memory_;
};

struct ListWalk {
  std::vector<uint64_t> nodes;  // without the head
  std::string trouble;          // why there may be more; empty: the list has ended where it began
};
// Of a struct list_head. At most `most` nodes.
ListWalk walk_list(const KernelMemory& memory, uint64_t head, size_t most);

// A text out of hostile memory, for a terminal: control characters as \xNN, as /dev/kmsg shows them.
std::string printable(std::string_view text);

}  // namespace retrovisor
