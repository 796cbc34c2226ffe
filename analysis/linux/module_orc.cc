#include "analysis/linux/module_orc.h"

#include <algorithm>
#include <utility>

#include "analysis/linux/modules.h"
#include "analysis/linux/objects.h"

namespace retrovisor {
namespace {

// Where a module's code lies: one piece each for it and its __init part up to 6.3, and the first and fifth kind of memory since.
constexpr std::pair<const char*, const char*> kCode[] = {{"core_layout.base", "core_layout.size"},
                                                         {"init_layout.base", "init_layout.size"},
                                                         {"mem[0].base", "mem[0].size"},
                                                         {"mem[4].base", "mem[4].size"}};

}  // namespace

ModuleOrc::ModuleOrc(const LinuxKernel& kernel, const KernelMemory& memory, OrcPacking packing) : memory_(memory), packing_(packing) {
  const auto o = KernelObjects::of(kernel, memory);
  if (!o) return;
  const auto addresses = o->any_field("module", {"arch.orc_unwind_ip"}), entries = o->any_field("module", {"arch.orc_unwind"}),
             count = o->any_field("module", {"arch.num_orcs"});
  const auto found = module_addresses(*o);
  if (!addresses || !entries || !count || !found) return;
  std::vector<std::pair<Btf::Field, Btf::Field>> code;
  for (const auto& [base, size] : kCode)
    if (const auto b = o->any_field("module", {base}), s = o->any_field("module", {size}); b && s) code.emplace_back(*b, *s);
  for (const uint64_t at : found->at) {
    const auto number = [&](const Btf::Field& f) { return o->read(at, f).value_or(0); };
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
