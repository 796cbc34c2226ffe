#include "analysis/linux/modules.h"

#include <fmt/format.h>


namespace retrovisor {
namespace {

constexpr size_t kMostModules = 4096, kMostUsers = 4096;
constexpr uint64_t kUnformed = 3;  // MODULE_STATE_UNFORMED: not yet in /proc/modules
constexpr int64_t kReferenceBase = 1;  // MODULE_REF_BASE

// The parts that m_show() adds up: the kernel's own and that of its initialisation up to 6.3, then an array of kinds of memory.
struct Layout {
  std::vector<Btf::Field> sizes;
  Btf::Field base;
};

Result<Layout> layout(const KernelObjects& o) {
  Layout out;
  if (auto base = o.any_field("module", {"core_layout.base"})) {
    out.base = *base;
    for (const std::string_view part : {"core_layout.size", "init_layout.size", "data_layout.size"})
      if (auto size = o.any_field("module", {part})) out.sizes.push_back(*size);
    return out;
  }
  RV_TRY(out.base, o.field("module", "mem[0].base"));
  const auto kinds = o.btf().enumerator("MOD_MEM_NUM_TYPES").value_or(0);
  if (kinds <= 0 || kinds > 64) return Error{ErrorCode::unsupported, "the kernel's types do not say how a module lies in memory", ""};
  for (int64_t i = 0; i < kinds; ++i) {
    RV_TRY(const auto size, o.field("module", fmt::format("mem[{}].size", i)));
    out.sizes.push_back(size);
  }
  return out;
}

}  // namespace

Result<ModuleAddresses> module_addresses(const KernelObjects& o) {
  RV_TRY(const auto list, o.field("module", "list"));
  RV_TRY([[maybe_unused]] const uint64_t named, o.symbol("modules"));
  // Others may be called so too: the list is one whose first entry leads back to it.
  uint64_t head = 0;
  for (const uint64_t at : o.kernel().addresses_of("modules")) {
    const auto first = o.memory().get<uint64_t>(at);
    if (head == 0 && first && o.memory().get<uint64_t>(*first + 8) == at) head = at;
  }
  if (head == 0) return Error{ErrorCode::bad_image, "the kernel's list of modules is not where its symbols say", ""};
  ListWalk walk = walk_list(o.memory(), head, kMostModules);
  for (uint64_t& node : walk.nodes) node -= list.offset;
  return ModuleAddresses{std::move(walk.nodes), std::move(walk.trouble)};
}

Result<ModuleList> read_modules(const LinuxKernel& kernel, const KernelMemory& memory) {
  RV_TRY(const auto o, KernelObjects::of(kernel, memory));
  RV_TRY(const auto name, o.field("module", "name"));
  RV_TRY(const auto state, o.field("module", "state"));
  RV_TRY(const Layout parts, layout(o));
  // Without CONFIG_MODULE_UNLOAD nothing is counted.
  const auto references = o.any_field("module", {"refcnt.counter"}), users = o.any_field("module", {"source_list"}),
             use_node = o.any_field("module_use", {"source_list"}), use_source = o.any_field("module_use", {"source"}),
             init = o.any_field("module", {"init"}), exit = o.any_field("module", {"exit"});
  RV_TRY(ModuleAddresses found, module_addresses(o));
  ModuleList out;
  out.trouble = std::move(found.trouble);
  size_t users_left = kMostUsers;
  for (const uint64_t at : found.at) {
    LoadedModule m;
    m.at = at;
    const auto now = o.read(at, state);
    if (!now) {
      out.trouble = fmt::format("a module at {:#x} is not in memory", at);
      continue;
    }
    if (*now == kUnformed) continue;
    m.state = *now == 1 ? LoadedModule::State::coming : *now == 2 ? LoadedModule::State::going : LoadedModule::State::live;
    m.name = printable(o.text(at, name));
    m.base = o.read(at, parts.base).value_or(0);
    for (const Btf::Field& part : parts.sizes) m.size += o.read(at, part).value_or(0);
    if (const auto count = o.read(at, references)) m.references = static_cast<int64_t>(*count) - kReferenceBase;
    m.permanent = o.read(at, init).value_or(0) != 0 && o.read(at, exit).value_or(1) == 0;
    if (users && use_node && use_source) {
      ListWalk used_by = walk_list(memory, at + users->offset, users_left);
      if (!used_by.trouble.empty()) out.trouble = std::move(used_by.trouble);
      users_left -= used_by.nodes.size();
      for (const uint64_t use : used_by.nodes) {
        const auto source = o.read(use - use_node->offset, *use_source);
        if (source) m.users.push_back(printable(o.text(*source, name)));
      }
    }
    out.modules.push_back(std::move(m));
  }
  return out;
}

std::string modules_text(const ModuleList& list) {
  std::string out = "Module                  Size  Used by\n";
  for (const LoadedModule& m : list.modules) {
    std::string users;
    for (const std::string& user : m.users) users += (users.empty() ? "" : ",") + user;
    if (m.permanent) users += users.empty() ? "[permanent]" : ",[permanent]";
    out += fmt::format("{:<19} {:>8}  {}{}{}\n", m.name, m.size, m.references, users.empty() ? "" : " ", users);
  }
  return out;
}

}  // namespace retrovisor
