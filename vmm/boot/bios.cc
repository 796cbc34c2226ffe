#include "vmm/boot/bios.h"

#include <algorithm>
#include <array>

#include "vmm/boot/bios_bytes.h"
#include "vmm/boot/entry_state.h"
#include "vmm/boot/image_reader.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

constexpr uint64_t kDataArea = 0x400, kDataAreaSize = 0x100;
constexpr uint16_t kSegment = kBiosServices >> 4 & 0xf000;  // F000: offsets in bios.asm count from there
constexpr uint64_t kSegmentBase = uint64_t{kSegment} << 4;
constexpr uint64_t kFirstProgramVector = 0x80;              // the vectors below are in the table

// Offsets in segment F000 that the services' header tells.
struct BiosHeader {
  uint16_t start, vectors, memory_count, memory_map, extended, start_at, disk;
};

BiosHeader header() {
  const ImageReader in(kBiosBytes);
  return {in.u16(0), in.u16(2), in.u16(4), in.u16(6), in.u16(8), in.u16(10), in.u16(12)};
}

void write_memory_map(LoadPlan& plan, const std::vector<MemoryMapEntry>& map) {
  RV_ASSERT(map.size() <= kMostMemoryEntries);
  const BiosHeader h = header();
  ByteBuilder entries;
  uint64_t extended = 0;
  for (const MemoryMapEntry& e : map) {
    entries.u64(e.begin).u64(e.size).u32(static_cast<uint32_t>(e.type));
    if (e.begin == kBiosAreaEnd && e.type == MemoryType::ram) extended = e.size >> 10;
  }
  plan.write(kSegmentBase + h.memory_map, entries.data());
  plan.write(kSegmentBase + h.memory_count, ByteBuilder().u16(map.size()).data());
  plan.write(kSegmentBase + h.extended, ByteBuilder().u32(extended).data());
}

void write_vectors(LoadPlan& plan) {
  const ImageReader in(kBiosBytes);
  const uint64_t table = header().vectors - (kBiosServices - kSegmentBase);
  ByteBuilder out;
  for (uint64_t vector = 0; vector < kFirstProgramVector; ++vector) {
    const uint16_t offset = in.u16(table + 2 * vector);
    out.u16(offset).u16(offset == 0 ? 0 : kSegment);
  }
  plan.write(0, out.data());
}

void write_data_area(LoadPlan& plan, std::span<const uint16_t> serial_ports) {
  constexpr uint16_t kCoprocessor = 1 << 1, kColour80 = 2 << 4;
  constexpr unsigned kSerialPortsShift = 9, kMostSerialPorts = 4;
  constexpr uint16_t kKeysBegin = 0x1e, kKeysEnd = 0x3e;
  std::array<uint8_t, kDataAreaSize> area{};
  const auto set = [&area](uint64_t at, unsigned size, uint64_t value) {
    for (unsigned i = 0; i < size; ++i) area[at - kDataArea + i] = static_cast<uint8_t>(value >> 8 * i);
  };
  const size_t ports = std::min<size_t>(serial_ports.size(), kMostSerialPorts);
  for (size_t i = 0; i < ports; ++i) set(0x400 + 2 * i, 2, serial_ports[i]);
  set(0x40e, 2, kEbdaBegin >> 4);
  set(0x410, 2, kCoprocessor | kColour80 | ports << kSerialPortsShift);
  set(0x413, 2, kEbdaBegin >> 10);
  set(0x41a, 2, kKeysBegin);  // the keyboard's buffer is empty
  set(0x41c, 2, kKeysBegin);
  set(0x449, 1, 3);           // text mode of 80 columns
  set(0x44a, 2, 80);
  set(0x44c, 2, 0x1000);
  set(0x460, 2, 0x0607);      // the cursor's shape
  set(0x463, 2, 0x3d4);
  set(0x47c, 1, 10);          // COM1's time limit
  set(0x480, 2, kKeysBegin);
  set(0x482, 2, kKeysEnd);
  set(0x484, 1, 24);          // rows, less one
  set(0x485, 2, 16);          // lines a character
  set(0x496, 1, 1 << 4);      // a keyboard of 101 keys
  plan.write(kDataArea, area);
  plan.write(kEbdaBegin, ByteBuilder().u8(kEbdaSize >> 10).data());
}

}  // namespace

void write_bios(LoadPlan& plan, std::span<const uint16_t> serial_ports) {
  static_assert(sizeof kBiosBytes == kBiosAreaEnd - kBiosServices);
  static_assert(machine_map::kRestartCode >= kMpTableBegin + kMpTableSize && machine_map::kRestartCode + kPageSize <= kBiosServices);
  static_assert(machine_map::kRsdp == kAcpiBegin);
  plan.write(kBiosServices, kBiosBytes);
  write_memory_map(plan, plan.memory_map());
  write_vectors(plan);
  write_data_area(plan, serial_ports);
}

void start_by_bios(LoadPlan& plan, CpuState& state, const BiosStart& start) {
  const BiosHeader h = header();
  plan.write(kSegmentBase + h.start_at,
             ByteBuilder().u16(start.ip).u16(start.cs).u16(start.flags).u16(start.sp).u16(start.segment).u16(start.dx).data());
  enter_real_mode(state, kSegmentBase + h.start);
}

void set_bios_disk(LoadPlan& plan, const BiosDisk& disk) {
  std::vector<MemoryMapEntry> map;
  const uint64_t end = disk.begin + uint64_t{disk.sectors} * 512;
  for (const MemoryMapEntry& e : plan.memory_map()) {
    const uint64_t entry_end = e.begin + e.size;
    if (disk.begin < e.begin || end > entry_end || disk.sectors == 0) {
      map.push_back(e);
      continue;
    }
    if (disk.begin > e.begin) map.push_back({e.begin, disk.begin - e.begin, e.type});
    map.push_back({disk.begin, end - disk.begin, MemoryType::reserved});
    if (end < entry_end) map.push_back({end, entry_end - end, e.type});
  }
  write_memory_map(plan, map);
  plan.write(kSegmentBase + header().disk, ByteBuilder()
                                               .u32(disk.begin)
                                               .u32(disk.sectors)
                                               .u16(disk.sectors_per_track)
                                               .u16(disk.heads)
                                               .u16(disk.drive)
                                               .data());
  if (disk.drive >= 0x80) plan.write(0x475, ByteBuilder().u8(1).data());
}

}  // namespace retrovisor
