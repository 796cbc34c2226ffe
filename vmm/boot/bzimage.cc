#include "vmm/boot/bzimage.h"

#include <fmt/format.h>

#include <algorithm>

#include "vmm/boot/entry_state.h"
#include "vmm/boot/image_reader.h"

namespace retrovisor {
namespace {

// File offsets of the setup header's fields; the same in the boot parameters (boot.rst, "The Real-Mode Kernel Header").
namespace hdr {
constexpr uint64_t setup_sects = 0x1f1, syssize = 0x1f4, boot_flag = 0x1fe, jump = 0x200, header = 0x202, version = 0x206,
                   kernel_version = 0x20e, type_of_loader = 0x210, loadflags = 0x211, code32_start = 0x214,
                   ramdisk_image = 0x218, ramdisk_size = 0x21c, cmd_line_ptr = 0x228, initrd_addr_max = 0x22c,
                   kernel_alignment = 0x230, relocatable_kernel = 0x234, xloadflags = 0x236, cmdline_size = 0x238,
                   payload_offset = 0x248, payload_length = 0x24c, pref_address = 0x258, init_size = 0x260,
                   end_of_2_12 = 0x264;
}  // namespace hdr

// Other fields of the boot parameters (zero-page.rst).
namespace params {
constexpr uint64_t acpi_rsdp_addr = 0x70, e820_entries = 0x1e8, e820_table = 0x2d0, e820_entry_size = 20, size = 0x1000,
                   header_room = 0x290;  // where the area reserved for the setup header ends
}  // namespace params

constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kHdrS = 0x53726448;
constexpr uint64_t kSector = 512;
constexpr uint8_t kLoadedHigh = 1 << 0;    // loadflags
constexpr uint16_t kXlfKernel64 = 1 << 0;  // xloadflags: has the 64-bit entry point
constexpr uint64_t kEntry64 = 0x200;       // from the start of the protected-mode part
constexpr uint8_t kUndefinedLoader = 0xff;
constexpr uint64_t kMaxVersionString = 256;

struct Header {
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

Result<Header> parse_header(const ImageReader& in) {
  if (!in.has(0, hdr::end_of_2_12) || in.u16(hdr::boot_flag) != kBootFlag)
    return image_error("not a Linux kernel: no boot sector signature", hdr::boot_flag);
  if (in.u32(hdr::header) != kHdrS) return image_error("not a Linux kernel: no \"HdrS\" magic", hdr::header);
  const uint16_t version = in.u16(hdr::version);
  if (version < 0x20c) {
    return image_error(
        fmt::format("boot protocol {}.{:02} is too old: the 64-bit entry needs 2.12", version >> 8, version & 0xff),
        hdr::version);
  }
  if ((in.u8(hdr::loadflags) & kLoadedHigh) == 0)
    return image_error("kernel is a zImage, which cannot be loaded at 1M", hdr::loadflags);
  if ((in.u16(hdr::xloadflags) & kXlfKernel64) == 0) return image_error("kernel has no 64-bit entry point", hdr::xloadflags);

  Header h;
  const uint8_t sectors = in.u8(hdr::setup_sects);
  h.setup_size = (uint64_t{sectors == 0 ? uint8_t{4} : sectors} + 1) * kSector;
  if (h.setup_size >= in.size()) {
    return image_error(
        fmt::format("kernel file is truncated: header says {} bytes of setup, file has {} bytes", h.setup_size, in.size()),
        hdr::setup_sects);
  }
  // The jump instruction before the magic skips the header: its displacement is the header's length (boot.rst).
  h.header_end = hdr::header + in.u8(hdr::jump + 1);
  if (h.header_end < hdr::end_of_2_12 || h.header_end > std::min(h.setup_size, params::header_room)) {
    return image_error(fmt::format("setup header ends at {:#x}, expected {:#x} to {:#x}", h.header_end, hdr::end_of_2_12,
                                   std::min(h.setup_size, params::header_room)),
                       hdr::jump + 1);
  }
  const uint64_t present = in.size() - h.setup_size;
  const uint64_t declared = uint64_t{in.u32(hdr::syssize)} * 16;
  if (declared <= kEntry64) return image_error("kernel is too small for a 64-bit entry point", hdr::syssize);
  // syssize is rounded up to 16 bytes, the file need not be.
  if (declared > ((present + 15) & ~uint64_t{15})) {
    return image_error(
        fmt::format("kernel file is truncated: header says {} bytes after setup, file has {}", declared, present),
        hdr::syssize);
  }
  h.kernel_size = std::min(declared, present);
  if (h.kernel_size <= kEntry64) return image_error("kernel is too small for a 64-bit entry point", hdr::syssize);
  const uint64_t payload_end = uint64_t{in.u32(hdr::payload_offset)} + in.u32(hdr::payload_length);
  if (payload_end > h.kernel_size) {
    return image_error(fmt::format("compressed payload ends at {}, kernel has {} bytes", payload_end, h.kernel_size),
                       hdr::payload_offset);
  }

  h.code32_start = in.u32(hdr::code32_start);
  h.initrd_addr_max = in.u32(hdr::initrd_addr_max);
  h.relocatable = in.u8(hdr::relocatable_kernel) != 0;
  h.alignment = in.u32(hdr::kernel_alignment);
  if (h.relocatable && (h.alignment == 0 || (h.alignment & (h.alignment - 1)) != 0)) {
    return image_error(fmt::format("kernel alignment {:#x} is not a power of two", h.alignment), hdr::kernel_alignment);
  }
  h.cmdline_size = in.u32(hdr::cmdline_size);
  h.pref_address = in.u64(hdr::pref_address);
  if (h.pref_address >= kLowRamEnd)
    return image_error(fmt::format("preferred load address {:#x} is above 3G", h.pref_address), hdr::pref_address);
  h.init_size = std::max<uint64_t>(in.u32(hdr::init_size), h.kernel_size);
  auto text = version_string(in, h.setup_size);
  if (!text) return std::move(text).error();
  h.version = *text;
  return h;
}

// Where the protected-mode part goes. It unpacks in place, so init_size bytes from there must be free RAM. A place below
// pref_address is of no use: the kernel would move itself up to it (boot.rst, pref_address).
Result<uint64_t> place_kernel(const Header& h, LoadPlan& plan) {
  uint64_t at = h.pref_address;
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

}  // namespace

bool is_bzimage(std::span<const uint8_t> image) {
  const ImageReader in(image);
  return in.u16(hdr::boot_flag) == kBootFlag && in.u32(hdr::header) == kHdrS;
}

Result<LoadedGuest> load_bzimage(const BootImages& images, LoadPlan& plan, CpuState& state, uint64_t rsdp) {
  const ImageReader in(images.kernel);
  auto parsed = parse_header(in);
  if (!parsed) return std::move(parsed).error();
  const Header& h = *parsed;
  if (images.command_line.size() > h.cmdline_size) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("command line of {} bytes is too long: this kernel takes {}", images.command_line.size(),
                             h.cmdline_size),
                 fmt::format("offset {:#x}", hdr::cmdline_size)};
  }
  if (!images.modules.empty()) return Error{ErrorCode::bad_argument, "a Linux kernel takes an initrd, not modules", ""};

  auto kernel = place_kernel(h, plan);
  if (!kernel) return std::move(kernel).error();
  plan.write(*kernel, in.bytes(h.setup_size, h.kernel_size));
  plan.clear(*kernel + h.kernel_size, h.init_size - h.kernel_size);

  uint64_t ramdisk = 0;
  if (!images.initrd.empty()) {
    // As high as it may be, so that it is out of the way of the unpacked kernel.
    auto at = plan.place_high(images.initrd.size(), kPageSize, uint64_t{h.initrd_addr_max} + 1, "initrd");
    if (!at) return std::move(at).error();
    ramdisk = *at;
    plan.write(ramdisk, images.initrd);
  }
  auto command_line = plan.put_string(images.command_line, "the command line");
  if (!command_line) return std::move(command_line).error();

  std::vector<uint8_t> page(params::size, 0);
  const auto header = in.bytes(hdr::setup_sects, h.header_end - hdr::setup_sects);
  std::copy(header.begin(), header.end(), page.begin() + hdr::setup_sects);
  set(page, hdr::type_of_loader, 1, kUndefinedLoader);
  set(page, hdr::code32_start, 4, *kernel);
  set(page, hdr::ramdisk_image, 4, ramdisk);
  set(page, hdr::ramdisk_size, 4, images.initrd.size());
  set(page, hdr::cmd_line_ptr, 4, *command_line);
  set(page, params::acpi_rsdp_addr, 8, rsdp);
  const std::vector<MemoryMapEntry> map = memory_map(plan.memory());
  set(page, params::e820_entries, 1, map.size());
  for (size_t i = 0; i < map.size(); ++i) {
    const uint64_t entry = params::e820_table + i * params::e820_entry_size;
    set(page, entry, 8, map[i].begin);
    set(page, entry + 8, 8, map[i].size);
    set(page, entry + 16, 4, static_cast<uint32_t>(map[i].type));
  }
  auto boot_params = plan.put_low(page, kPageSize, "the boot parameters");
  if (!boot_params) return std::move(boot_params).error();

  RV_TRY(enter_long_mode(plan, state, *kernel + kEntry64));
  state.gpr[RSI] = *boot_params;
  return LoadedGuest{"bzImage", h.version};
}

}  // namespace retrovisor
