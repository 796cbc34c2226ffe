#include "analysis/linux/objects.h"

#include <fmt/format.h>

#include <set>

namespace retrovisor {
namespace {

// CONFIG_NR_CPUS of distributions is 8192 at most.
constexpr size_t kMostCpus = 8192;
constexpr size_t kLongestText = 4096;

}  // namespace

Result<KernelObjects> KernelObjects::of(const LinuxKernel& kernel, const KernelMemory& memory) {
  if (kernel.btf() == nullptr) return Error{ErrorCode::unsupported, kernel.btf_error(), ""};
  return KernelObjects(kernel, memory);
}

Result<Btf::Field> KernelObjects::field(std::string_view object, std::string_view path) const {
  auto found = btf_.field(object, path);
  if (!found) return Error{ErrorCode::unsupported, "the kernel's types are not those expected: " + found.error().message, ""};
  return found;
}

std::optional<Btf::Field> KernelObjects::any_field(std::string_view object, std::initializer_list<std::string_view> paths) const {
  for (const std::string_view path : paths)
    if (auto found = btf_.field(object, path)) return *found;
  return std::nullopt;
}

std::string KernelObjects::text(uint64_t object, const Btf::Field& field) const {
  return memory_.text(object + field.offset, std::min<uint64_t>(field.size(), kLongestText));
}

Result<uint64_t> KernelObjects::symbol(std::string_view name) const {
  if (const auto at = kernel_.address_of(name)) return *at;
  return Error{ErrorCode::unsupported, fmt::format("the kernel has no symbol '{}' (CONFIG_KALLSYMS_ALL)", name), ""};
}

std::vector<uint64_t> KernelObjects::per_cpu_offsets() const {
  std::vector<uint64_t> out;
  const auto table = kernel_.address_of("__per_cpu_offset");
  if (!table) return out;
  // Those of CPUs that cannot come all lead to the first one's place, or to what was linked.
  uint64_t count = 1;
  if (const auto ids = kernel_.address_of("nr_cpu_ids")) count = memory_.get<uint32_t>(*ids).value_or(1);
  for (uint64_t i = 0; i < std::min<uint64_t>(count, kMostCpus); ++i) {
    const auto offset = memory_.get<uint64_t>(*table + 8 * i);
    if (!offset) break;
    out.push_back(*offset);
  }
  return out;
}

ListWalk walk_list(const KernelMemory& memory, uint64_t head, size_t most) {
  ListWalk out;
  std::set<uint64_t> seen;
  uint64_t at = head;
  for (;;) {
    const auto next = memory.get<uint64_t>(at);
    if (!next) {
      out.trouble = fmt::format("a list leads to {:#x}, where no memory is", at);
      if (!out.nodes.empty()) out.nodes.pop_back();
      return out;
    }
    if (*next == head) return out;
    if (!seen.insert(*next).second) {
      out.trouble = fmt::format("a list leads back to {:#x}", *next);
      return out;
    }
    if (out.nodes.size() == most) {
      out.trouble = fmt::format("a list has more than {} entries", most);
      return out;
    }
    out.nodes.push_back(*next);
    at = *next;
  }
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if ((byte < 0x20 && c != '\t' && c != '\n') || byte == 0x7f) out += fmt::format("\\x{:02x}", byte);
    else out += c;
  }
  return out;
}

}  // namespace retrovisor
