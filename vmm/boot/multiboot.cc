#include "vmm/boot/multiboot.h"

#include <algorithm>

#include "vmm/boot/elf_image.h"
#include "vmm/boot/entry_state.h"
#include "vmm/boot/pvh.h"

namespace retrovisor {
namespace {

constexpr uint32_t kHeaderMagic = 0x1badb002;
constexpr uint32_t kLoaderMagic = 0x2badb002;
constexpr uint64_t kSearchEnd = 8192;
constexpr uint32_t kRequired = 0xffff;        // flags a loader must understand or refuse
constexpr uint32_t kUnderstood = 0x7;         // page-aligned modules, memory information, video mode (none is offered)
constexpr uint32_t kAddressFields = 1 << 16;  // header says where to load: the "a.out kludge"
constexpr uint64_t kInfoSize = 116;
constexpr uint64_t kEnd32 = uint64_t{1} << 32;

// Bits of the information structure's flags.
constexpr uint32_t kInfoMemory = 1 << 0, kInfoCommandLine = 1 << 2, kInfoModules = 1 << 3, kInfoMemoryMap = 1 << 6,
                   kInfoLoaderName = 1 << 9;

// Loads by the header's address fields (3.1.3); returns the entry point.
Result<uint32_t> load_by_addresses(const ImageReader& in, uint64_t header, LoadPlan& plan) {
  if (!in.has(header, 32)) return image_error("multiboot header is truncated", header);
  const uint32_t header_addr = in.u32(header + 12);
  const uint32_t load_addr = in.u32(header + 16);
  const uint32_t load_end = in.u32(header + 20);
  const uint32_t bss_end = in.u32(header + 24);
  const uint32_t entry = in.u32(header + 28);
  if (header_addr < load_addr || header_addr - load_addr > header) {
    return image_error(fmt::format("multiboot load address {:#x} lies before the start of the file", load_addr),
                       header + 16);
  }
  const uint64_t file_begin = header - (header_addr - load_addr);
  uint64_t size = in.size() - file_begin;
  if (load_end != 0) {
    if (load_end < load_addr || load_end - load_addr > size) {
      return image_error(fmt::format("kernel file is truncated: multiboot header says {:#x}..{:#x}, file has {} bytes",
                                     load_addr, load_end, size),
                         header + 20);
    }
    size = load_end - load_addr;
  }
  uint64_t memory_size = size;
  if (bss_end != 0) {
    if (bss_end < load_addr + size) return image_error("multiboot bss ends before the loaded data", header + 24);
    memory_size = bss_end - load_addr;
  }
  if (entry < load_addr || entry - load_addr >= size) {
    return image_error(fmt::format("multiboot entry point {:#x} is not in the loaded data", entry), header + 28);
  }
  RV_TRY(plan.claim(load_addr, memory_size, "the multiboot kernel", fmt::format("offset {:#x}", header + 16)));
  plan.write(load_addr, in.bytes(file_begin, size));
  plan.clear(load_addr + size, memory_size - size);
  return entry;
}

Result<uint32_t> load_as_elf(const ImageReader& in, LoadPlan& plan) {
  RV_TRY(auto elf, parse_elf(in));
  RV_TRY(load_elf_segments(in, elf, plan));
  const uint64_t entry = elf_physical(elf, elf.entry);
  if (entry >= kEnd32 || !elf_has_code_at(elf, entry))
    return image_error(fmt::format("ELF entry point {:#x} is not in a loaded segment", elf.entry), 24);
  return static_cast<uint32_t>(entry);
}

}  // namespace

std::optional<uint64_t> find_multiboot_header(std::span<const uint8_t> image) {
  const ImageReader in(image);
  for (uint64_t at = 0; at + 12 <= std::min(kSearchEnd, in.size()); at += 4) {
    if (in.u32(at) != kHeaderMagic) continue;
    if (static_cast<uint32_t>(kHeaderMagic + in.u32(at + 4) + in.u32(at + 8)) == 0) return at;
  }
  return std::nullopt;
}

Result<LoadedGuest> load_multiboot(const BootImages& images, uint64_t header, LoadPlan& plan, CpuState& state) {
  const ImageReader in(images.kernel);
  const uint32_t flags = in.u32(header + 4);
  if ((flags & kRequired & ~kUnderstood) != 0)
    return image_error(fmt::format("multiboot header requires unknown features {:#x}", flags & kRequired & ~kUnderstood),
                       header + 4);
  RV_TRY(const uint32_t entry,
         (flags & kAddressFields) != 0 ? load_by_addresses(in, header, plan) : load_as_elf(in, plan));

  RV_TRY(auto modules, place_modules(images, plan, "initrd"));
  ByteBuilder list;
  for (const PlacedModule& m : modules) list.u32(m.begin).u32(m.begin + m.size).u32(m.arguments).u32(0);
  RV_TRY(auto list_at, plan.put_low(list.data(), 16, "the module list"));
  RV_TRY(auto command_line, plan.put_string(images.command_line, "the command line"));
  RV_TRY(auto loader_name, plan.put_string("retrovisor", "the loader name"));
  ByteBuilder map;  // the size field of each entry does not count itself
  for (const MemoryMapEntry& e : plan.memory_map())
    map.u32(20).u64(e.begin).u64(e.size).u32(static_cast<uint32_t>(e.type));
  RV_TRY(auto map_at, plan.put_low(map.data(), 16, "the memory map"));

  ByteBuilder info;
  info.u32(kInfoMemory | kInfoCommandLine | kInfoModules | kInfoMemoryMap | kInfoLoaderName);
  info.u32(kEbdaBegin >> 10).u32((plan.memory().low_end() - kBiosAreaEnd) >> 10);  // mem_lower, mem_upper in KiB
  info.u32(0).u32(command_line);                                                        // boot_device, cmdline
  info.u32(modules.size()).u32(list_at).zeros(16);                                    // mods_count, mods_addr, syms
  info.u32(map.size()).u32(map_at).zeros(12).u32(loader_name);  // mmap_*; drives and config table: none; boot_loader_name
  info.zeros(kInfoSize - info.size());
  RV_TRY(auto info_at, plan.put_low(info.data(), 16, "the multiboot information"));

  RV_TRY(enter_protected_mode(plan, state, entry));
  state.gpr[RAX] = kLoaderMagic;
  state.gpr[RBX] = info_at;
  return LoadedGuest{"multiboot", ""};
}

}  // namespace retrovisor
