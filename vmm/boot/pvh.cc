#include "vmm/boot/pvh.h"

#include <algorithm>

#include "vmm/boot/entry_state.h"

namespace retrovisor {
namespace {

constexpr uint32_t kXenElfnotePhys32Entry = 18;
constexpr uint32_t kStartMagic = 0x336ec578;
constexpr uint32_t kStartVersion = 1;  // with a memory map
constexpr uint64_t kEnd32 = uint64_t{1} << 32;

// "Linux version 6.1.0 ..." as the kernel prints it lies in its read-only data; the third word is the version.
std::string linux_version(std::span<const uint8_t> image) {
  static constexpr std::string_view kBanner = "Linux version ";
  const auto found = std::search(image.begin(), image.end(), kBanner.begin(), kBanner.end());
  std::string version;
  if (found == image.end()) return version;
  for (auto c = found + kBanner.size(); c != image.end() && *c > ' ' && *c <= '~' && version.size() < 64; ++c)
    version.push_back(static_cast<char>(*c));
  return !version.empty() && version[0] >= '0' && version[0] <= '9' ? version : std::string();
}

}  // namespace

Result<std::optional<uint64_t>> pvh_entry(const ImageReader& in, const ElfImage& elf) {
  return find_elf_note(in, elf, "Xen", kXenElfnotePhys32Entry);
}

Result<std::vector<PlacedModule>> place_modules(const BootImages& images, LoadPlan& plan, std::string_view initrd_string) {
  std::vector<PlacedModule> placed;
  const auto place = [&](const std::vector<uint8_t>& bytes, std::string_view arguments,
                         std::string_view what) -> Result<void> {
    RV_TRY(auto at, plan.place_high(bytes.size(), kPageSize, plan.memory().low_end(), what));
    plan.write(at, bytes);
    RV_TRY(auto text, plan.put_string(arguments, "module arguments"));
    placed.push_back({at, bytes.size(), text});
    return {};
  };
  if (!images.initrd.empty()) RV_TRY(place(images.initrd, initrd_string, "initrd"));
  for (size_t i = 0; i < images.modules.size(); ++i) {
    const std::string_view arguments =
        i < images.module_arguments.size() ? std::string_view(images.module_arguments[i]) : "";
    RV_TRY(place(images.modules[i], arguments, fmt::format("module {}", i)));
  }
  return placed;
}

Result<LoadedGuest> load_pvh(const BootImages& images, const ElfImage& elf, uint64_t entry, LoadPlan& plan, CpuState& state,
                             uint64_t rsdp) {
  const ImageReader in(images.kernel);
  RV_TRY(load_elf_segments(in, elf, plan));
  if (entry >= kEnd32 || !elf_has_code_at(elf, entry)) {
    return Error{ErrorCode::bad_image, fmt::format("PVH entry point {:#x} is not in a loaded segment", entry),
                 "XEN_ELFNOTE_PHYS32_ENTRY"};
  }
  RV_TRY(auto modules, place_modules(images, plan, ""));
  RV_TRY(auto command_line, plan.put_string(images.command_line, "the command line"));

  ByteBuilder list;
  for (const PlacedModule& m : modules) list.u64(m.begin).u64(m.size).u64(m.arguments).u64(0);
  uint64_t list_at = 0;
  if (!modules.empty()) {
    RV_TRY(list_at, plan.put_low(list.data(), 16, "the module list"));
  }
  const std::vector<MemoryMapEntry>& map = plan.memory_map();
  ByteBuilder table;
  for (const MemoryMapEntry& e : map) table.u64(e.begin).u64(e.size).u32(static_cast<uint32_t>(e.type)).u32(0);
  RV_TRY(auto table_at, plan.put_low(table.data(), 16, "the memory map"));

  ByteBuilder info;  // struct hvm_start_info
  info.u32(kStartMagic).u32(kStartVersion).u32(0).u32(modules.size());
  info.u64(list_at).u64(command_line).u64(rsdp);
  info.u64(table_at).u32(map.size()).u32(0);
  RV_TRY(auto info_at, plan.put_low(info.data(), 16, "the start info"));

  RV_TRY(enter_protected_mode(plan, state, static_cast<uint32_t>(entry)));
  state.gpr[RBX] = info_at;
  return LoadedGuest{"PVH", linux_version(images.kernel)};
}

}  // namespace retrovisor
