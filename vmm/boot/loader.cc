#include "vmm/boot/loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "vmm/board/device_type.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/bios.h"
#include "vmm/boot/boot_sector.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf_image.h"
#include "vmm/boot/flat.h"
#include "vmm/boot/gzip.h"
#include "vmm/boot/load_plan.h"
#include "vmm/boot/mp_table.h"
#include "vmm/boot/multiboot.h"
#include "vmm/boot/pvh.h"

namespace retrovisor {
namespace {

// By which protocol a kernel is loaded, and what of it that has already been read.
struct Protocol {
  enum Kind : uint8_t { flat, bzimage, pvh, multiboot, boot_sector } kind = flat;
  ElfImage elf;         // pvh
  uint64_t entry = 0;   // pvh
  uint64_t header = 0;  // multiboot
};

Result<Protocol> recognise(std::span<const uint8_t> kernel, bool flat) {
  Protocol p;
  if (flat) return p;
  if (kernel.empty()) return Error{ErrorCode::bad_image, "kernel file is empty", ""};
  p.kind = Protocol::bzimage;
  if (is_bzimage(kernel)) return p;
  const auto multiboot = find_multiboot_header(kernel);
  if (is_elf(kernel)) {
    const ImageReader in(kernel);
    auto elf = parse_elf(in);
    if (!elf && !multiboot) return std::move(elf).error();
    if (elf) {
      auto entry = pvh_entry(in, *elf);
      if (!entry && !multiboot) return std::move(entry).error();
      if (entry && *entry) {
        p.kind = Protocol::pvh;
        p.entry = **entry;
        p.elf = std::move(*elf);
        return p;
      }
    }
    if (!multiboot) return Error{ErrorCode::bad_image, "ELF file has neither a PVH entry note nor a multiboot header", ""};
  }
  p.kind = Protocol::multiboot;
  p.header = multiboot.value_or(0);
  if (multiboot) return p;
  p.kind = Protocol::boot_sector;
  if (is_boot_sector(kernel)) return p;
  return Error{ErrorCode::bad_image, "kernel is neither a Linux bzImage nor an ELF file, a multiboot kernel or a boot sector", ""};
}

Result<LoadedGuest> load_kernel(const BootImages& images, LoadPlan& plan, CpuState& state, uint64_t rsdp) {
  auto p = recognise(images.kernel, images.flat_address.has_value());
  if (!p) return std::move(p).error();
  switch (p->kind) {
    case Protocol::flat: return load_flat(images, plan, state);
    case Protocol::bzimage: return load_bzimage(images, plan, state, rsdp);
    case Protocol::pvh: return load_pvh(images, p->elf, p->entry, plan, state, rsdp);
    case Protocol::multiboot: return load_multiboot(images, p->header, plan, state);
    case Protocol::boot_sector: break;
  }
  return load_boot_sector(images, plan, state);
}

// A kernel that gzip has packed is unpacked, as GRUB and others do; `limit` bounds what comes of it.
bool is_packed(const BootImages& images) { return !images.flat_address && is_gzip(images.kernel); }
Result<std::vector<uint8_t>> unpack(const BootImages& images, uint64_t limit) {
  return gunzip(images.kernel, std::min(limit, kLowRamEnd));
}

// "xen.gz" of "/boot/xen.gz", and what follows it.
std::string with_name(const std::string& path, const std::string& arguments) {
  const std::string name = path.substr(path.rfind('/') + 1);  // npos + 1 is 0
  return arguments.empty() ? name : name + " " + arguments;
}

}  // namespace

Result<LoadedGuest> load_guest(const BootImages& images, GuestMemory& memory, CpuState& state, uint32_t vcpus,
                               const DeviceList& devices) {
  if (vcpus == 0 || vcpus > kMaxVcpus)
    return Error{ErrorCode::bad_argument, fmt::format("{} processors, expected 1 to {}", vcpus, kMaxVcpus), "vcpus"};
  RV_TRY(const FirmwareTables board, firmware_tables(devices));
  LoadPlan plan(memory, board.reserved);
  // A disk of a BIOS may cut one of them in three.
  if (plan.memory_map().size() + 2 > kMostMemoryEntries)
    return Error{ErrorCode::unsupported, fmt::format("these devices reserve {} ranges of addresses: more than the memory map holds", board.reserved.size()), ""};
  write_bios(plan, board.serial_ports);
  auto loaded = [&]() -> Result<LoadedGuest> {
    if (!is_packed(images)) return load_kernel(images, plan, state, kAcpiBegin);
    auto kernel = unpack(images, memory.size());
    if (!kernel) return std::move(kernel).error();
    BootImages plain = images;
    plain.kernel = std::move(*kernel);
    auto result = load_kernel(plain, plan, state, kAcpiBegin);
    if (!result) return Error{result.error().code, "unpacked by gzip: " + result.error().message, result.error().where};
    return result;
  }();
  if (!loaded) return loaded;
  const AcpiTables acpi = make_acpi_tables(kAcpiBegin, vcpus, board);
  if (acpi.bytes.size() > kAcpiSize)
    return Error{ErrorCode::unsupported, fmt::format("the ACPI tables of these devices take {} bytes, there is room for {}", acpi.bytes.size(), kAcpiSize), ""};
  plan.write(acpi.base, acpi.bytes);
  const std::vector<uint8_t> mp = make_mp_table(kMpTableBegin, vcpus, board);
  RV_ASSERT(mp.size() <= kMpTableSize);
  plan.write(kMpTableBegin, mp);
  state.mtrr_def_type = kFirmwareMtrrDefType;
  return loaded;
}

Result<void> name_images(BootImages& images, const std::string& kernel, const std::vector<std::string>& modules, uint64_t limit) {
  std::vector<uint8_t> plain;
  if (is_packed(images)) {
    auto kernel_file = unpack(images, limit);
    if (!kernel_file) return std::move(kernel_file).error();
    plain = std::move(*kernel_file);
  }
  const auto p = recognise(is_packed(images) ? plain : images.kernel, images.flat_address.has_value());
  if (!p || p->kind != Protocol::multiboot) return {};  // what cannot be loaded, load_guest() tells of
  images.command_line = with_name(kernel, images.command_line);
  images.module_arguments.resize(images.modules.size());
  for (size_t i = 0; i < images.modules.size() && i < modules.size(); ++i)
    images.module_arguments[i] = with_name(modules[i], images.module_arguments[i]);
  return {};
}

}  // namespace retrovisor
