#include "analysis/linux/kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "analysis/linux/kernel_btf.h"
#include "analysis/linux/module_orc.h"

namespace retrovisor {
namespace {

constexpr size_t kLongestBanner = 512;

}  // namespace

std::unique_ptr<LinuxKernel> LinuxKernel::of(KernelSymbols symbols, const KernelMemory& memory) {
  auto out = std::unique_ptr<LinuxKernel>(new LinuxKernel);
  out->symbols_ = std::move(symbols);
  out->index();
  if (const auto at = out->address_of("linux_banner")) {
    out->banner_at_ = *at;
    out->banner_ = memory.text(*at, kLongestBanner);
  }
  out->read_orc(memory);
  if (auto btf = read_kernel_btf(memory, out->symbols_)) out->btf_ = std::move(*btf);
  else out->btf_error_ = btf.error().message;
  return out;
}

Result<std::unique_ptr<LinuxKernel>> LinuxKernel::find(Machine& machine) {
  RV_TRY(auto symbols, find_kernel_symbols(machine));
  return of(std::move(symbols), MachineMemory(machine.memory(), machine.vcpu(VcpuId(0)).state));
}

bool LinuxKernel::is_in(const KernelMemory& memory) const {
  return !banner_.empty() && memory.text(banner_at_, banner_.size()) == banner_;
}

void LinuxKernel::index() {
  const auto& all = symbols_.symbols;
  by_name_.resize(all.size());
  std::iota(by_name_.begin(), by_name_.end(), 0U);
  by_address_ = by_name_;
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return all[a].name != all[b].name ? all[a].name < all[b].name : a < b; });
  std::sort(by_address_.begin(), by_address_.end(),
            [&](uint32_t a, uint32_t b) { return all[a].address != all[b].address ? all[a].address < all[b].address : a < b; });
  image_begin_ = address_of("_text").value_or(kKernelMap);
  image_end_ = address_of("_end").value_or(UINT64_MAX);
  // The section .text..__x86.indirect_thunk, as far as it is the array of thunks; then comes that for returns.
  thunks_begin_ = address_of("__x86_indirect_thunk_array").value_or(0);
  thunks_end_ = std::max(address_of("__x86_return_thunk").value_or(0), thunks_begin_);
}

std::optional<uint64_t> LinuxKernel::address_of(std::string_view name) const {
  const auto& all = symbols_.symbols;
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name, [&](uint32_t i, std::string_view n) { return all[i].name < n; });
  if (found == by_name_.end() || all[*found].name != name) return std::nullopt;
  return all[*found].address;
}

std::vector<uint64_t> LinuxKernel::addresses_of(std::string_view name) const {
  const auto& all = symbols_.symbols;
  std::vector<uint64_t> out;
  for (auto i = std::lower_bound(by_name_.begin(), by_name_.end(), name, [&](uint32_t n, std::string_view wanted) { return all[n].name < wanted; });
       i != by_name_.end() && all[*i].name == name; ++i)
    out.push_back(all[*i].address);
  return out;
}

std::optional<LinuxKernel::Place> LinuxKernel::place_of(uint64_t address) const {
  if (address < image_begin_ || address >= image_end_) return std::nullopt;
  const auto& all = symbols_.symbols;
  const auto next = std::upper_bound(by_address_.begin(), by_address_.end(), address, [&](uint64_t at, uint32_t i) { return at < all[i].address; });
  if (next == by_address_.begin()) return std::nullopt;
  // Of several names for one place the first in the table, as the kernel does.
  auto first = std::prev(next);
  while (first != by_address_.begin() && all[*std::prev(first)].address == all[*first].address) --first;
  const KernelSymbol& s = all[*first];
  if (s.address < image_begin_) return std::nullopt;
  const uint64_t end = next == by_address_.end() ? image_end_ : std::min(all[*next].address, image_end_);
  return Place{s.name, address - s.address, end - s.address};
}

std::string LinuxKernel::text_of(uint64_t address) const {
  const auto place = place_of(address);
  if (!place) return fmt::format("{:#x}", address);
  return place->offset == 0 ? std::string(place->name) : fmt::format("{}+{:#x}", place->name, place->offset);
}

void LinuxKernel::read_orc(const KernelMemory& memory) {
  const auto ip = address_of("__start_orc_unwind_ip"), ip_end = address_of("__stop_orc_unwind_ip");
  const auto entries = address_of("__start_orc_unwind"), entries_end = address_of("__stop_orc_unwind");
  if (!ip || !ip_end || !entries || !entries_end || *ip_end < *ip) {
    orc_error_ = "the kernel has no ORC table (CONFIG_UNWINDER_ORC), or no symbols of data (CONFIG_KALLSYMS_ALL)";
    return;
  }
  const uint64_t count = (*ip_end - *ip) / 4;
  if ((*entries_end - *entries) / 6 != count) {
    orc_error_ = "the kernel's ORC table has not as many entries as addresses";
    return;
  }
  auto table = OrcTable::read(memory, *ip, *entries, count);
  if (table) {
    orc_ = std::move(*table);
  } else {
    orc_error_ = table.error().text();
  }
}

std::optional<OrcEntry> LinuxKernel::find_orc(uint64_t ip) const {
  // Each section's entries end with one that says "no code", so the table answers for all of the image.
  if (!orc_ || ip < image_begin_ || ip >= image_end_) return std::nullopt;
  auto entry = orc_->find(ip);
  // Thunks for indirect jumps are marked as having no caller, so that objtool does not follow them. They are called as functions are.
  if (entry && entry->type == OrcType::end_of_stack && ip >= thunks_begin_ && ip < thunks_end_)
    entry = OrcEntry{8, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::call};
  return entry;
}

Unwinder LinuxKernel::unwinder(const KernelMemory& memory) const {
  // Modules come and go: they are looked for each time, when the first frame outside of the image asks.
  std::optional<ModuleOrc> modules;
  return Unwinder(memory, [this, &memory, modules](uint64_t ip) mutable -> std::optional<OrcEntry> {
    if (ip >= image_begin_ && ip < image_end_) return find_orc(ip);
    if (!orc_) return std::nullopt;
    if (!modules) modules.emplace(*this, memory, orc_->packing());
    return modules->find(ip);
  });
}

}  // namespace retrovisor
