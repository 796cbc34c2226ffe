#include "vmm/boot/elf_image.h"

#include <algorithm>

namespace retrovisor {
namespace {

constexpr uint32_t kMagic = 0x464c457f;  // "\x7f" "ELF"
constexpr uint8_t kClass32 = 1, kClass64 = 2, kLittleEndian = 1;
constexpr uint16_t kExecutable = 2, kShared = 3;
constexpr uint16_t kMachine386 = 3, kMachineX86_64 = 62;
constexpr uint32_t kPtLoad = 1, kPtNote = 4;
constexpr uint64_t kNoteHeader = 12;

ElfSegment read_segment(const ImageReader& in, uint64_t at, bool is64) {
  ElfSegment s;
  s.type = in.u32(at);
  s.header_offset = at;
  if (is64) {
    s.offset = in.u64(at + 8);
    s.vaddr = in.u64(at + 16);
    s.paddr = in.u64(at + 24);
    s.file_size = in.u64(at + 32);
    s.memory_size = in.u64(at + 40);
    s.align = in.u64(at + 48);
  } else {
    s.offset = in.u32(at + 4);
    s.vaddr = in.u32(at + 8);
    s.paddr = in.u32(at + 12);
    s.file_size = in.u32(at + 16);
    s.memory_size = in.u32(at + 20);
    s.align = in.u32(at + 28);
  }
  return s;
}

}  // namespace

bool is_elf(std::span<const uint8_t> image) { return ImageReader(image).u32(0) == kMagic; }

Result<ElfImage> parse_elf(const ImageReader& in) {
  if (in.u32(0) != kMagic) return image_error("not an ELF file", 0);
  ElfImage elf;
  const uint8_t file_class = in.u8(4);
  if (file_class != kClass32 && file_class != kClass64)
    return image_error(fmt::format("unknown ELF class {}", file_class), 4);
  elf.is64 = file_class == kClass64;
  if (in.u8(5) != kLittleEndian) return image_error("ELF file is not little-endian", 5);
  if (!in.has(0, elf.is64 ? 64 : 52)) return image_error("ELF file header is truncated", in.size());
  const uint16_t type = in.u16(16);
  if (type != kExecutable && type != kShared) return image_error(fmt::format("ELF type {} is not an executable", type), 16);
  const uint16_t machine = in.u16(18);
  if (machine != kMachine386 && machine != kMachineX86_64)
    return image_error(fmt::format("ELF machine {} is not x86", machine), 18);
  elf.entry = elf.is64 ? in.u64(24) : in.u32(24);
  const uint64_t phoff = elf.is64 ? in.u64(32) : in.u32(28);
  const uint64_t size_field = elf.is64 ? 54 : 42;
  const uint16_t phentsize = in.u16(size_field);
  const uint16_t phnum = in.u16(size_field + 2);
  const uint16_t expected = elf.is64 ? 56 : 32;
  if (phnum == 0) return image_error("ELF file has no program headers", size_field + 2);
  if (phentsize != expected)
    return image_error(fmt::format("ELF program headers of {} bytes, expected {}", phentsize, expected), size_field);
  if (!in.has(phoff, uint64_t{phnum} * phentsize)) {
    return image_error(fmt::format("ELF file is truncated: {} program headers at {:#x}", phnum, phoff), elf.is64 ? 32 : 28);
  }
  for (uint64_t i = 0; i < phnum; ++i) {
    const ElfSegment s = read_segment(in, phoff + i * phentsize, elf.is64);
    if (s.type != kPtLoad && s.type != kPtNote) continue;
    if (!in.has(s.offset, s.file_size)) {
      return image_error(fmt::format("ELF file is truncated: segment {} has {} bytes at {:#x}", i, s.file_size, s.offset),
                         s.header_offset);
    }
    if (s.type == kPtLoad && s.file_size > s.memory_size) {
      return image_error(fmt::format("ELF segment {} is larger in the file than in memory", i), s.header_offset);
    }
    elf.segments.push_back(s);
  }
  return elf;
}

Result<std::optional<uint64_t>> find_elf_note(const ImageReader& in, const ElfImage& elf, std::string_view name,
                                              uint32_t type) {
  for (const ElfSegment& s : elf.segments) {
    if (s.type != kPtNote) continue;
    // gABI: 4-byte alignment in both classes in practice; 8 where the segment says so.
    const uint64_t align = s.align == 8 ? 8 : 4;
    const auto padded = [align](uint64_t n) { return (n + align - 1) & ~(align - 1); };
    uint64_t at = s.offset;
    const uint64_t end = s.offset + s.file_size;
    while (at < end) {
      if (end - at < kNoteHeader) return image_error("ELF note is truncated", at);
      const uint64_t name_size = in.u32(at);
      const uint64_t value_size = in.u32(at + 4);
      const uint64_t value_at = at + padded(kNoteHeader + name_size);
      if (value_at > end || value_size > end - value_at) return image_error("ELF note is larger than its segment", at);
      const auto text = in.bytes(at + kNoteHeader, name_size);
      const bool same =
          name_size == name.size() + 1 && std::equal(name.begin(), name.end(), text.begin()) && text.back() == 0;
      if (same && in.u32(at + 8) == type) {
        if (value_size == 4) return std::optional<uint64_t>(in.u32(value_at));
        if (value_size == 8) return std::optional<uint64_t>(in.u64(value_at));
        return image_error(fmt::format("ELF note {}/{} has {} bytes, expected 4 or 8", name, type, value_size), at + 4);
      }
      at = value_at + padded(value_size);
    }
  }
  return std::optional<uint64_t>();
}

Result<void> load_elf_segments(const ImageReader& in, const ElfImage& elf, LoadPlan& plan) {
  // First all the claims, so that nothing is written for an image that does not fit.
  bool any = false;
  for (const ElfSegment& s : elf.segments) {
    if (s.type != kPtLoad || s.memory_size == 0) continue;
    any = true;
    RV_TRY(plan.claim(s.paddr, s.memory_size, "an ELF segment", fmt::format("offset {:#x}", s.header_offset)));
  }
  if (!any) return image_error("ELF file has nothing to load", 0);
  for (const ElfSegment& s : elf.segments) {
    if (s.type != kPtLoad || s.memory_size == 0) continue;
    plan.write(s.paddr, in.bytes(s.offset, s.file_size));
    plan.clear(s.paddr + s.file_size, s.memory_size - s.file_size);
  }
  return {};
}

uint64_t elf_physical(const ElfImage& elf, uint64_t vaddr) {
  for (const ElfSegment& s : elf.segments)
    if (s.type == kPtLoad && vaddr >= s.vaddr && vaddr - s.vaddr < s.memory_size) return s.paddr + (vaddr - s.vaddr);
  return vaddr;
}

bool elf_has_code_at(const ElfImage& elf, uint64_t paddr) {
  for (const ElfSegment& s : elf.segments)
    if (s.type == kPtLoad && paddr >= s.paddr && paddr - s.paddr < s.file_size) return true;
  return false;
}

}  // namespace retrovisor
