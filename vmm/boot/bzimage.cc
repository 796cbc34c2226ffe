#include "vmm/boot/bzimage.h"

#include <fmt/format.h>

#include <algorithm>

#include "vmm/boot/bios.h"
#include "vmm/boot/entry_state.h"
#include "vmm/boot/image_reader.h"

namespace retrovisor {
namespace {

// File offsets of the setup header's fields; the same in the boot parameters (boot.rst, "The Real-Mode Kernel Header").
namespace hdr {
constexpr uint64_t setup_sects = 0x1f1, syssize = 0x1f4, boot_flag = 0x1fe, jump = 0x200, header = 0x202, version = 0x206,
                   kernel_version = 0x20e, type_of_loader = 0x210, loadflags = 0x211, code32_start = 0x214,
                   ramdisk_image = 0x218, ramdisk_size = 0x21c, heap_end_ptr = 0x224, cmd_line_ptr = 0x228, initrd_addr_max = 0x22c,
                   kernel_alignment = 0x230, relocatable_kernel = 0x234, xloadflags = 0x236, cmdline_size = 0x238,
                   payload_offset = 0x248, payload_length = 0x24c, pref_address = 0x258, init_size = 0x260,
                   end_of_2_02 = 0x22c, end_of_2_12 = 0x264;
}  // namespace hdr

// Other fields of the boot parameters (zero-page.rst).
namespace params {
constexpr uint64_t acpi_rsdp_addr = 0x70, e820_entries = 0x1e8, e820_table = 0x2d0, e820_entry_size = 20, size = 0x1000,
                   header_room = 0x290;  // where the area reserved for the setup header ends
}  // namespace params

constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kHdrS = 0x53726448;
constexpr uint64_t kSector = 512;
constexpr uint8_t kLoadedHigh = 1 << 0, kCanUseHeap = 1 << 7;  // loadflags
constexpr uint16_t kXlfKernel64 = 1 << 0;  // xloadflags: has the 64-bit entry point
constexpr uint64_t kEntry64 = 0x200;       // from the start of the protected-mode part
constexpr uint8_t kUndefinedLoader = 0xff;
constexpr uint64_t kMaxVersionString = 256;
constexpr uint32_t kOldInitrdMax = 0x37ffffff, kOldCommandLine = 255;  // what holds where the header does not say
constexpr uint64_t kLoadHigh = 0x100000;   // where the protected-mode part goes that does not say

// Protocol versions that brought fields.
constexpr uint16_t k2_02 = 0x202, k2_03 = 0x203, k2_05 = 0x205, k2_06 = 0x206, k2_08 = 0x208, k2_10 = 0x20a, k2_12 = 0x20c;

// The real-mode part's segment: its code below the heap's and stack's end, the command line behind (boot.rst, "Sample boot
// configuration", moved down to where nothing else is).
constexpr uint64_t kRealBegin = 0x10000, kRealSize = 0x10000, kRealCodeSize = 0x8000, kHeapEnd = 0xfe00, kRealStack = 0xfff0;

enum class Entry : uint8_t { real16, protected32, long64 };

struct Header {
  Entry entry = Entry::long64;
  uint64_t setup_size = 0;   // boot sector and setup, in bytes: where the protected-mode part begins in the file
  uint64_t kernel_size = 0;  // protected-mode part
  uint64_t header_end = 0;   // file offset
  uint32_t code32_start = 0;
  uint32_t initrd_addr_max = 0;
  uint64_t alignment = 0;
  bool relocatable = false;
  uint32_t cmdline_size = 0;
  uint64_t pref_address = 0;
  uint64_t init_size = 0;
  std::string version;
};

Result<std::string> version_string(const ImageReader& in, uint64_t setup_size) {
  const uint16_t pointer = in.u16(hdr::kernel_version);
  if (pointer == 0) return std::string();
  const uint64_t begin = uint64_t{pointer} + 0x200;
  std::string text;
  for (uint64_t at = begin; at < setup_size && text.size() < kMaxVersionString; ++at) {
    const char c = static_cast<char>(in.u8(at));
    if (c == '\0') return text;
    text.push_back(c >= ' ' && c <= '~' ? c : '?');
  }
  return image_error(fmt::format("kernel version string at {:#x} does not end within {} bytes of setup", begin, setup_size),
                     hdr::kernel_version);
}

// By which of its entries a kernel is started: the widest that it has. Images of the protocol that are no kernels (network loaders)
// may have no code32_start: all of them begin in real mode.
Result<Entry> choose_entry(const ImageReader& in) {
  const uint16_t version = in.u16(hdr::version);
  if (version < k2_02) {
    return image_error(fmt::format("boot protocol {}.{:02} is too old: 2.02 or later is needed", version >> 8, version & 0xff),
                       hdr::version);
  }
  if ((in.u8(hdr::loadflags) & kLoadedHigh) == 0)
    return image_error("kernel is a zImage, which cannot be loaded at 1M", hdr::loadflags);
  if (version >= k2_12 && (in.u16(hdr::xloadflags) & kXlfKernel64) != 0) return Entry::long64;
  return in.u32(hdr::code32_start) != 0 ? Entry::protected32 : Entry::real16;
}

// Sizes of the image's parts against the file's.
Result<void> parse_sizes(const ImageReader& in, Header& h) {
  const uint8_t sectors = in.u8(hdr::setup_sects);
  h.setup_size = (uint64_t{sectors == 0 ? uint8_t{4} : sectors} + 1) * kSector;
  if (h.setup_size >= in.size()) {
    return image_error(
        fmt::format("kernel file is truncated: header says {} bytes of setup, file has {} bytes", h.setup_size, in.size()),
        hdr::setup_sects);
  }
  if (h.entry == Entry::real16 && h.setup_size > kRealCodeSize) {
    return image_error(fmt::format("setup has {} bytes, which do not fit into real mode: {} do", h.setup_size, kRealCodeSize),
                       hdr::setup_sects);
  }
  // The jump instruction before the magic skips the header: its displacement is the header's length (boot.rst).
  h.header_end = hdr::header + in.u8(hdr::jump + 1);
  const uint64_t least = in.u16(hdr::version) >= k2_12 ? hdr::end_of_2_12 : hdr::end_of_2_02;
  const uint64_t most = std::min(h.setup_size, params::header_room);
  if (h.header_end < least || h.header_end > most) {
    return image_error(fmt::format("setup header ends at {:#x}, expected {:#x} to {:#x}", h.header_end, least, most),
                       hdr::jump + 1);
  }
  const uint64_t present = in.size() - h.setup_size;
  // Before 2.04, 16 bits of it count (boot.rst, syssize), and there the rest is what the file has.
  const uint64_t declared = uint64_t{in.u32(hdr::syssize)} * 16;
  const uint64_t least_size = h.entry == Entry::long64 ? kEntry64 : 0;
  const std::string_view what =
      h.entry == Entry::long64 ? "kernel is too small for a 64-bit entry point" : "kernel has no protected-mode part";
  if (declared <= least_size) return image_error(std::string(what), hdr::syssize);
  // syssize is rounded up to 16 bytes, the file need not be.
  if (declared > ((present + 15) & ~uint64_t{15})) {
    return image_error(
        fmt::format("kernel file is truncated: header says {} bytes after setup, file has {}", declared, present),
        hdr::syssize);
  }
  h.kernel_size = std::min(declared, present);
  if (h.kernel_size <= least_size) return image_error(std::string(what), hdr::syssize);
  return {};
}

Result<Header> parse_header(const ImageReader& in) {
  if (!in.has(0, hdr::end_of_2_12) || in.u16(hdr::boot_flag) != kBootFlag)
    return image_error("not a Linux kernel: no boot sector signature", hdr::boot_flag);
  if (in.u32(hdr::header) != kHdrS) return image_error("not a Linux kernel: no \"HdrS\" magic", hdr::header);
  Header h;
  RV_TRY(h.entry, choose_entry(in));
  RV_TRY(parse_sizes(in, h));
  // Fields of later protocols than the image's are not there.
  const uint16_t version = in.u16(hdr::version);
  if (version >= k2_08) {
    const uint64_t payload_end = uint64_t{in.u32(hdr::payload_offset)} + in.u32(hdr::payload_length);
    if (payload_end > h.kernel_size) {
      return image_error(fmt::format("compressed payload ends at {}, kernel has {} bytes", payload_end, h.kernel_size),
                         hdr::payload_offset);
    }
  }
  h.code32_start = in.u32(hdr::code32_start);
  h.initrd_addr_max = version >= k2_03 ? in.u32(hdr::initrd_addr_max) : kOldInitrdMax;
  h.relocatable = version >= k2_05 && in.u8(hdr::relocatable_kernel) != 0;
  h.alignment = in.u32(hdr::kernel_alignment);
  if (h.relocatable && (h.alignment == 0 || (h.alignment & (h.alignment - 1)) != 0)) {
    return image_error(fmt::format("kernel alignment {:#x} is not a power of two", h.alignment), hdr::kernel_alignment);
  }
  h.cmdline_size = version >= k2_06 ? in.u32(hdr::cmdline_size) : kOldCommandLine;
  h.pref_address = version >= k2_10 ? in.u64(hdr::pref_address) : kLoadHigh;
  if (h.pref_address >= kLowRamEnd)
    return image_error(fmt::format("preferred load address {:#x} is above 3G", h.pref_address), hdr::pref_address);
  h.init_size = version >= k2_10 ? std::max<uint64_t>(in.u32(hdr::init_size), h.kernel_size) : h.kernel_size;
  RV_TRY(h.version, version_string(in, h.setup_size));
  return h;
}

// Where the protected-mode part goes. It unpacks in place, so init_size bytes from there must be free RAM. A place below
// pref_address is of no use: the kernel would move itself up to it (boot.rst, pref_address).
Result<uint64_t> place_kernel(const Header& h, LoadPlan& plan) {
  uint64_t at = h.pref_address;
  if (!h.relocatable && h.entry != Entry::long64 && at != kLoadHigh) {
    // Entered at its old place, it moves up by itself.
    const uint64_t end = std::max(at, kLoadHigh) + h.init_size;
    RV_TRY(plan.claim(kLoadHigh, end - kLoadHigh, "the kernel", fmt::format("offset {:#x}", hdr::init_size)));
    return kLoadHigh;
  }
  if (h.relocatable && !plan.is_free(at, h.init_size))
    at = (std::max(kBiosAreaEnd, at) + h.alignment - 1) & ~(h.alignment - 1);
  if (!plan.is_free(at, h.init_size)) {
    return image_error(fmt::format("kernel needs {}M of memory from {:#x} on, guest memory below 3G ends at {:#x}",
                                   (h.init_size >> 20) + 1, at, plan.memory().low_end()),
                       hdr::init_size);
  }
  RV_TRY(plan.claim(at, h.init_size, "the kernel", fmt::format("offset {:#x}", hdr::pref_address)));
  return at;
}

void set(std::vector<uint8_t>& page, uint64_t offset, unsigned size, uint64_t value) {
  for (unsigned i = 0; i < size; ++i) page[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}

// What a loader fills in, in the boot parameters or in the real-mode part.
struct BootFields {
  uint64_t ramdisk = 0, ramdisk_size = 0, command_line = 0;
};
void set_fields(std::vector<uint8_t>& page, const BootFields& fields) {
  set(page, hdr::type_of_loader, 1, kUndefinedLoader);
  set(page, hdr::ramdisk_image, 4, fields.ramdisk);
  set(page, hdr::ramdisk_size, 4, fields.ramdisk_size);
  set(page, hdr::cmd_line_ptr, 4, fields.command_line);
}

}  // namespace

bool is_bzimage(std::span<const uint8_t> image) {
  const ImageReader in(image);
  return in.u16(hdr::boot_flag) == kBootFlag && in.u32(hdr::header) == kHdrS;
}

bool is_bzimage64(std::span<const uint8_t> image) {
  const auto entry = choose_entry(ImageReader(image));
  return is_bzimage(image) && entry && *entry == Entry::long64;
}

Result<LoadedGuest> load_bzimage(const BootImages& images, LoadPlan& plan, CpuState& state, uint64_t rsdp) {
  const ImageReader in(images.kernel);
  RV_TRY(const Header h, parse_header(in));
  if (images.command_line.size() > h.cmdline_size) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("command line of {} bytes is too long: this kernel takes {}", images.command_line.size(),
                             h.cmdline_size),
                 fmt::format("offset {:#x}", hdr::cmdline_size)};
  }
  if (!images.modules.empty()) return Error{ErrorCode::bad_argument, "a Linux kernel takes an initrd, not modules", ""};
  // Before anything else is placed: it is bound to its place.
  if (h.entry == Entry::real16) RV_TRY(plan.claim(kRealBegin, kRealSize, "the kernel's real-mode part", ""));

  RV_TRY(const uint64_t kernel, place_kernel(h, plan));
  plan.write(kernel, in.bytes(h.setup_size, h.kernel_size));
  plan.clear(kernel + h.kernel_size, h.init_size - h.kernel_size);  // claimed: place_kernel() did, that much at least

  BootFields fields;
  if (!images.initrd.empty()) {
    // As high as it may be, so that it is out of the way of the unpacked kernel.
    RV_TRY(fields.ramdisk, plan.place_high(images.initrd.size(), kPageSize, uint64_t{h.initrd_addr_max} + 1, "initrd"));
    fields.ramdisk_size = images.initrd.size();
    plan.write(fields.ramdisk, images.initrd);
  }
  RV_TRY(fields.command_line, plan.put_string(images.command_line, "the command line"));

  if (h.entry == Entry::real16) {
    std::vector<uint8_t> setup(in.bytes(0, h.setup_size).begin(), in.bytes(0, h.setup_size).end());
    set_fields(setup, fields);
    setup[hdr::loadflags] |= kCanUseHeap;
    set(setup, hdr::heap_end_ptr, 2, kHeapEnd - kSector);  // counts from the setup code, which is behind the boot sector
    plan.write(kRealBegin, setup);
    constexpr uint16_t kSegment = kRealBegin >> 4, kSetupCode = kSegment + (kSector >> 4);
    start_by_bios(plan, state, {.ip = 0, .cs = kSetupCode, .flags = flag::fixed, .sp = kRealStack, .segment = kSegment, .dx = 0});
    return LoadedGuest{"bzImage (real mode)", h.version};
  }

  std::vector<uint8_t> page(params::size, 0);
  const auto header = in.bytes(hdr::setup_sects, h.header_end - hdr::setup_sects);
  std::copy(header.begin(), header.end(), page.begin() + hdr::setup_sects);
  set_fields(page, fields);
  // The header gives the 32-bit entry for a kernel that is loaded at 1M.
  const uint64_t entry32 = kernel + h.code32_start - kLoadHigh;
  set(page, hdr::code32_start, 4, h.entry == Entry::long64 ? kernel : entry32);
  set(page, params::acpi_rsdp_addr, 8, rsdp);
  const std::vector<MemoryMapEntry>& map = plan.memory_map();
  set(page, params::e820_entries, 1, map.size());
  for (size_t i = 0; i < map.size(); ++i) {
    const uint64_t entry = params::e820_table + i * params::e820_entry_size;
    set(page, entry, 8, map[i].begin);
    set(page, entry + 8, 8, map[i].size);
    set(page, entry + 16, 4, static_cast<uint32_t>(map[i].type));
  }
  RV_TRY(auto boot_params, plan.put_low(page, kPageSize, "the boot parameters"));

  if (h.entry == Entry::long64) {
    RV_TRY(enter_long_mode(plan, state, kernel + kEntry64));
  } else {
    if (entry32 < kernel || entry32 - kernel >= h.kernel_size)
      return image_error(fmt::format("32-bit entry {:#x} is not in the kernel at {:#x}", entry32, kernel), hdr::code32_start);
    RV_TRY(enter_protected_mode(plan, state, static_cast<uint32_t>(entry32)));
  }
  state.gpr[RSI] = boot_params;
  return LoadedGuest{h.entry == Entry::long64 ? "bzImage" : "bzImage (32 bits)", h.version};
}

}  // namespace retrovisor
