// ELF executables, as boot protocols that take one need them: loadable segments and notes. Source: System V gABI 4.1,
// chapters 4 and 5.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "vmm/boot/image_reader.h"
#include "vmm/boot/load_plan.h"

namespace retrovisor {

struct ElfSegment {
  uint32_t type = 0;
  uint64_t offset = 0;  // in the file; offset + file_size is within it for PT_LOAD and PT_NOTE
  uint64_t vaddr = 0;
  uint64_t paddr = 0;
  uint64_t file_size = 0;
  uint64_t memory_size = 0;
  uint64_t align = 0;
  uint64_t header_offset = 0;  // of the program header, for error messages
};

struct ElfImage {
  bool is64 = false;
  uint64_t entry = 0;  // virtual
  std::vector<ElfSegment> segments;
};

bool is_elf(std::span<const uint8_t> image);
// Checks the file header and every program header against the file's size.
Result<ElfImage> parse_elf(const ImageReader& in);
// The value of the note `name`/`type` (4 or 8 bytes), if there is one. Malformed notes are errors.
Result<std::optional<uint64_t>> find_elf_note(const ImageReader& in, const ElfImage& elf, std::string_view name,
                                              uint32_t type);
// Copies the PT_LOAD segments to their physical addresses.
Result<void> load_elf_segments(const ImageReader& in, const ElfImage& elf, LoadPlan& plan);
// The physical address of a virtual one, by the segment that contains it; itself if none does.
uint64_t elf_physical(const ElfImage& elf, uint64_t vaddr);
// Whether a loaded segment holds file contents at `paddr`.
bool elf_has_code_at(const ElfImage& elf, uint64_t paddr);

}  // namespace retrovisor
