// Where things go in guest memory at boot: which ranges are taken, and the memory map that the guest is told.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/byte_builder.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/result.h"

namespace retrovisor {

// The BIOS area: the extended BIOS data area at the end of base memory (the data area at 0x400 points at it), the video hole, the
// ACPI tables where operating systems look for the RSDP (ACPI 6.5, 5.2.5.1), the MP tables, and the services (bios.asm).
inline constexpr uint64_t kEbdaBegin = 0x9fc00;
inline constexpr uint64_t kEbdaSize = 0x400;
inline constexpr uint64_t kAcpiBegin = 0xe0000;
inline constexpr uint64_t kAcpiSize = 0x10000;
inline constexpr uint64_t kMpTableBegin = 0xf0000;
inline constexpr uint64_t kMpTableSize = 0x1000;
inline constexpr uint64_t kBiosServices = 0xfe000;
inline constexpr uint64_t kBiosAreaEnd = 0x100000;

// Types of memory as INT 15h, E820h numbers them (ACPI 6.5, table 15.4); PVH and multiboot use the same numbers.
enum class MemoryType : uint32_t { ram = 1, reserved = 2 };

struct MemoryMapEntry {
  uint64_t begin = 0;
  uint64_t size = 0;
  MemoryType type = MemoryType::ram;
};

// Ascending, without overlaps: base memory; the BIOS area with the video hole; RAM up to 3 GiB; what devices have reserved
// (FirmwareTables::reserved, outside of RAM); RAM above 4 GiB.
std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory, std::span<const PhysRange> reserved);

// Keeps what is loaded apart, and writes it. Every range handed out or claimed is RAM and outside of the BIOS area.
class LoadPlan {
 public:
  LoadPlan(GuestMemory& memory, std::span<const PhysRange> reserved);

  // Takes a fixed range. `what` and `where` describe it for the error message.
  Result<void> claim(uint64_t begin, uint64_t size, std::string_view what, std::string where);
  // Whether claim() would succeed.
  bool is_free(uint64_t begin, uint64_t size) const;
  // Takes the highest free range that ends at or below `end` (and below 3 GiB). `align` is a power of two.
  Result<uint64_t> place_high(uint64_t size, uint64_t align, uint64_t end, std::string_view what);
  // Takes a range below 640 KiB if there is room, else any below 3 GiB: for the small structures of boot protocols.
  Result<uint64_t> place_low(uint64_t size, uint64_t align, std::string_view what);
  // place_low() and write.
  Result<uint64_t> put_low(std::span<const uint8_t> bytes, uint64_t align, std::string_view what);
  // A string and its NUL.
  Result<uint64_t> put_string(std::string_view text, std::string_view what);

  // The range must have been claimed or placed.
  void write(uint64_t begin, std::span<const uint8_t> bytes);
  // Zeroes a claimed range; leaves pages that are zero already untouched.
  void clear(uint64_t begin, uint64_t size);

  GuestMemory& memory() { return memory_; }
  const std::vector<MemoryMapEntry>& memory_map() const { return map_; }  // that the guest is told

 private:
  struct Range {
    uint64_t begin;
    uint64_t end;
    std::string what;
  };
  bool is_ram(uint64_t begin, uint64_t size) const;
  const Range* overlap(uint64_t begin, uint64_t end) const;
  bool find_below(uint64_t size, uint64_t align, uint64_t end, uint64_t& begin) const;

  GuestMemory& memory_;
  const std::vector<MemoryMapEntry> map_;
  std::vector<Range> taken_;
};

}  // namespace retrovisor
