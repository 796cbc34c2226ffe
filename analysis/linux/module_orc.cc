#include "analysis/linux/module_orc.h"

#include <algorithm>
#include <utility>

#include "analysis/linux/kernel_btf.h"

namespace retrovisor {
namespace {

constexpr size_t kMostModules = 4096;

// Where a module's code lies: one piece each for it and its __init part up to 6.3, and the first and fifth kind of memory since.
constexpr std::pair<const char*, const char*> kCode[] = {{"core_layout.base", "core_layout.size"},
                                                         {"init_layout.base", "init_layout.size"},
                                                         {"mem[0].base", "mem[0].size"},
                                                         {"mem[4].base", "mem[4].size"}};

}  // namespace

ModuleOrc::ModuleOrc(const Btf& btf, const KernelMemory& memory, uint64_t list, OrcPacking packing) : memory_(memory), packing_(packing) {
  const auto field = [&](const char* path) -> std::optional<Btf::Field> {
    auto found = btf.field("module", path);
    if (!found) return std::nullopt;
    return *found;
  };
  const auto links = field("list"), addresses = field("arch.orc_unwind_ip"), entries = field("arch.orc_unwind"), count = field("arch.num_orcs");
  if (!links || !addresses || !entries || !count) return;
  std::vector<std::pair<Btf::Field, Btf::Field>> code;
  for (const auto& [base, size] : kCode)
    if (const auto b = field(base), s = field(size); b && s) code.emplace_back(*b, *s);
  auto next = memory.get<uint64_t>(list);
  for (size_t i = 0; next && *next != list && i < kMostModules; ++i, next = memory.get<uint64_t>(*next)) {
    const uint64_t at = *next - links->offset;
    const auto number = [&](const Btf::Field& f) { return read_field(memory, btf, at, f).value_or(0); };
    Module m;
    for (const auto& [base, size] : code) m.code.emplace_back(number(base), number(size));
    m.addresses = number(*addresses);
    m.entries = number(*entries);
    m.count = number(*count);
    modules_.push_back(std::move(m));
  }
}

std::optional<OrcEntry> ModuleOrc::find(uint64_t ip) {
  for (Module& m : modules_) {
    if (std::none_of(m.code.begin(), m.code.end(), [&](const auto& c) { return ip - c.first < c.second; })) continue;
    if (!m.read) {
      m.read = true;
      if (auto table = OrcTable::read(memory_, m.addresses, m.entries, m.count, packing_)) m.table = std::move(*table);
    }
    return m.table ? m.table->find(ip) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace retrovisor
