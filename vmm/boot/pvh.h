// PVH direct boot: an ELF kernel with the note XEN_ELFNOTE_PHYS32_ENTRY, entered in 32-bit protected mode.
// Source: Xen's docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h.
#pragma once

#include "vmm/boot/elf_image.h"
#include "vmm/boot/loader.h"

namespace retrovisor {

// The entry point's physical address, if the ELF file has the note.
Result<std::optional<uint64_t>> pvh_entry(const ImageReader& in, const ElfImage& elf);

// The initrd is the first module, `images.modules` follow.
Result<LoadedGuest> load_pvh(const BootImages& images, const ElfImage& elf, uint64_t entry, LoadPlan& plan, CpuState& state,
                             uint64_t rsdp);

// Places initrd, whose string is given, and modules on page boundaries; used by PVH and multiboot.
struct PlacedModule {
  uint64_t begin = 0;
  uint64_t size = 0;
  uint64_t arguments = 0;  // address of a NUL-terminated string
};
Result<std::vector<PlacedModule>> place_modules(const BootImages& images, LoadPlan& plan, std::string_view initrd_string);

}  // namespace retrovisor
