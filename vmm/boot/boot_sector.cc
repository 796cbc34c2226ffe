#include "vmm/boot/boot_sector.h"

#include "vmm/boot/bios.h"
#include "vmm/boot/image_reader.h"

namespace retrovisor {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kLoadAddress = 0x7c00;
constexpr uint64_t kSignatureAt = 510;
constexpr uint16_t kSignature = 0xaa55;
constexpr uint8_t kFirstFloppy = 0, kFirstDisk = 0x80;

// Formats of 3.5 and 5.25 inch floppies, by size.
struct Floppy {
  uint32_t sectors;
  uint16_t sectors_per_track;
  uint16_t heads;
};
constexpr Floppy kFloppies[] = {{720, 9, 2}, {1440, 9, 2}, {2400, 15, 2}, {2880, 18, 2}, {5760, 36, 2}};

}  // namespace

bool is_boot_sector(std::span<const uint8_t> image) {
  // A kernel with an EFI stub begins with "MZ" and has the signature, too: cut off before its header it is a damaged kernel.
  constexpr uint16_t kPortableExecutable = 0x5a4d;
  return image.size() >= kSector && ImageReader(image).u16(kSignatureAt) == kSignature &&
         ImageReader(image).u16(0) != kPortableExecutable;
}

Result<LoadedGuest> load_boot_sector(const BootImages& images, LoadPlan& plan, CpuState& state) {
  if (!images.initrd.empty() || !images.modules.empty() || !images.command_line.empty())
    return Error{ErrorCode::bad_argument, "a boot sector takes no initrd, modules or command line", ""};
  RV_TRY(plan.claim(kLoadAddress, kSector, "the boot sector", ""));
  plan.write(kLoadAddress, std::span(images.kernel).first(kSector));
  BiosDisk disk;
  disk.drive = kFirstDisk;
  const uint64_t sectors = (images.kernel.size() + kSector - 1) / kSector;
  if (sectors > 1) {
    const uint64_t size = (sectors * kSector + kPageSize - 1) & ~(kPageSize - 1);
    RV_TRY(auto at, plan.place_high(size, kPageSize, plan.memory().low_end(), "the disk"));
    plan.write(at, images.kernel);
    plan.clear(at + images.kernel.size(), size - images.kernel.size());
    disk.begin = at;
    disk.sectors = static_cast<uint32_t>(sectors);  // it lies below 3 GiB
    if (sectors > 1024U * disk.heads * disk.sectors_per_track) disk.heads = 255;
    for (const Floppy& f : kFloppies) {
      if (f.sectors != sectors) continue;
      disk.drive = kFirstFloppy;
      disk.sectors_per_track = f.sectors_per_track;
      disk.heads = f.heads;
    }
    set_bios_disk(plan, disk);
  }
  start_by_bios(plan, state, {.ip = kLoadAddress, .cs = 0, .flags = flag::fixed | flag::IF, .sp = kLoadAddress, .segment = 0, .dx = disk.drive});
  return LoadedGuest{"boot sector", ""};
}

}  // namespace retrovisor
