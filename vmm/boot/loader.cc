#include "vmm/boot/loader.h"

#include <fmt/format.h>

#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/bios.h"
#include "vmm/boot/boot_sector.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf_image.h"
#include "vmm/boot/flat.h"
#include "vmm/boot/load_plan.h"
#include "vmm/boot/mp_table.h"
#include "vmm/boot/multiboot.h"
#include "vmm/boot/pvh.h"

namespace retrovisor {
namespace {

Result<LoadedGuest> load_kernel(const BootImages& images, LoadPlan& plan, CpuState& state, uint64_t rsdp) {
  if (images.flat_address) return load_flat(images, plan, state);
  if (images.kernel.empty()) return Error{ErrorCode::bad_image, "kernel file is empty", ""};
  if (is_bzimage(images.kernel)) return load_bzimage(images, plan, state, rsdp);
  const auto multiboot = find_multiboot_header(images.kernel);
  if (is_elf(images.kernel)) {
    const ImageReader in(images.kernel);
    auto elf = parse_elf(in);
    if (!elf && !multiboot) return std::move(elf).error();
    if (elf) {
      auto entry = pvh_entry(in, *elf);
      if (!entry && !multiboot) return std::move(entry).error();
      if (entry && *entry) return load_pvh(images, *elf, **entry, plan, state, rsdp);
    }
    if (!multiboot) return Error{ErrorCode::bad_image, "ELF file has neither a PVH entry note nor a multiboot header", ""};
  }
  if (multiboot) return load_multiboot(images, *multiboot, plan, state);
  if (is_boot_sector(images.kernel)) return load_boot_sector(images, plan, state);
  return Error{ErrorCode::bad_image, "kernel is neither a Linux bzImage nor an ELF file, a multiboot kernel or a boot sector", ""};
}

}  // namespace

Result<LoadedGuest> load_guest(const BootImages& images, GuestMemory& memory, CpuState& state, uint32_t vcpus) {
  if (vcpus == 0 || vcpus > kMaxVcpus)
    return Error{ErrorCode::bad_argument, fmt::format("{} processors, expected 1 to {}", vcpus, kMaxVcpus), "--vcpus"};
  LoadPlan plan(memory);
  write_bios(plan);
  auto loaded = load_kernel(images, plan, state, kAcpiBegin);
  if (!loaded) return loaded;
  const AcpiTables acpi = make_acpi_tables(kAcpiBegin, vcpus);
  RV_ASSERT(acpi.bytes.size() <= kAcpiSize);
  plan.write(acpi.base, acpi.bytes);
  const std::vector<uint8_t> mp = make_mp_table(kMpTableBegin, vcpus);
  RV_ASSERT(mp.size() <= kMpTableSize);
  plan.write(kMpTableBegin, mp);
  state.mtrr_def_type = kFirmwareMtrrDefType;
  return loaded;
}

}  // namespace retrovisor
