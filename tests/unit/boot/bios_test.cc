// What firmware leaves in memory: the BIOS data area and vectors, the MP tables, and what is started by it.
#include <map>
#include <set>

#include "tests/unit/boot/test_images.h"
#include "vmm/board/device_type.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/boot_sector.h"
#include "vmm/boot/mp_table.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor::boot_test {
namespace {

std::vector<std::pair<std::string, BootImages>> one_of_each_kind() {
  std::vector<std::pair<std::string, BootImages>> all;
  for (const auto& [name, kernel] : std::map<std::string, Bytes>{{"bzImage", make_bzimage()},
                                                                 {"PVH", make_elf(true)},
                                                                 {"multiboot", make_multiboot()},
                                                                 {"boot sector", make_boot_sector(512)},
                                                                 {"flat", Bytes(16, 0xf4)}}) {
    BootImages images;
    images.kernel = kernel;
    if (name == "flat") images.flat_address = 0x7c00;
    all.emplace_back(name, images);
  }
  return all;
}

TEST(Bios, data_area_agrees_with_the_memory_map_however_a_guest_is_loaded) {
  for (const auto& [name, images] : one_of_each_kind()) {
    auto memory = make_memory(64);
    CpuState state;
    const auto loaded = load(images, *memory, state);
    ASSERT_TRUE(loaded.ok()) << name << ": " << loaded.error().text();
    EXPECT_EQ(loaded->format, name);
    const Bytes area = read_memory(*memory, 0x400, 0x100);
    const MemoryMapEntry base = memory_map(*memory, firmware_tables(pc_devices()).value().reserved)[0];
    EXPECT_EQ(get(area, 0x13, 2) << 10, base.begin + base.size) << name;
    EXPECT_EQ(get(area, 0x0e, 2) << 4, base.begin + base.size) << name;
    EXPECT_EQ(read_memory(*memory, get(area, 0x0e, 2) << 4, 1)[0], kEbdaSize >> 10) << name;
    EXPECT_EQ(get(area, 0x00, 2), machine_map::kSerialPort) << name;
    EXPECT_EQ(get(area, 0x10, 2), 0x222U) << name;
    EXPECT_EQ(area[0x75], 0) << name;
    EXPECT_EQ(get(area, 0x6c, 4), 0U) << name;
  }
}

TEST(Bios, every_vector_that_is_not_a_programs_own_has_a_handler) {
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(one_of_each_kind()[0].second, *memory, state).ok());
  const Bytes vectors = read_memory(*memory, 0, 0x400);
  for (size_t v = 0; v < 0x80; ++v) {
    const uint64_t segment = get(vectors, 4 * v + 2, 2), offset = get(vectors, 4 * v, 2);
    if ((v >= 0x60 && v < 0x68) || (v >= 0x1d && v < 0x20)) {
      EXPECT_EQ(segment + offset, 0U) << v;
      continue;
    }
    EXPECT_EQ(segment, 0xf000U) << v;
    EXPECT_GE((segment << 4) + offset, kBiosServices) << v;
  }
  // Where processors start after a reset, and what machine this is.
  EXPECT_EQ(read_memory(*memory, 0xffff0, 1)[0], 0xea);
  EXPECT_EQ(read_memory(*memory, 0xffffe, 1)[0], 0xfc);
}

TEST(Bios, an_image_may_be_loaded_over_the_vectors_and_the_data_area) {
  BootImages images;
  images.kernel = Bytes(0x600, 0xcc);
  images.flat_address = 0;
  images.flat_mode = FlatMode::protected32;
  auto memory = make_memory(16);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_EQ(read_memory(*memory, 0, 0x600), images.kernel);
}

uint8_t sum(const Bytes& b) {
  uint8_t s = 0;
  for (const uint8_t x : b) s = static_cast<uint8_t>(s + x);
  return s;
}

// Reads the tables as an operating system does, from the floating pointer on.
TEST(MpTable, says_what_the_acpi_tables_say) {
  for (const uint32_t vcpus : {1U, 3U, kMaxVcpus}) {
    BootImages images;
    images.kernel = make_bzimage();
    auto memory = make_memory(64);
    CpuState state;
    ASSERT_TRUE(load_guest(images, *memory, state, vcpus, pc_devices()).ok());
    std::vector<uint64_t> found;
    for (uint64_t at = 0xf0000; at < 0x100000; at += 16) {
      const Bytes p = read_memory(*memory, at, 16);
      if (std::string(p.begin(), p.begin() + 4) == "_MP_") found.push_back(at);
    }
    ASSERT_EQ(found.size(), 1U);
    const Bytes pointer = read_memory(*memory, found[0], 16);
    EXPECT_EQ(pointer[8], 1);
    EXPECT_EQ(pointer[9], 4);
    EXPECT_EQ(pointer[11], 0);
    EXPECT_EQ(sum(pointer), 0);
    const uint64_t at = get(pointer, 4, 4);
    const Bytes table = read_memory(*memory, at, get(read_memory(*memory, at, 6), 4, 2));
    EXPECT_EQ(std::string(table.begin(), table.begin() + 4), "PCMP");
    EXPECT_EQ(sum(table), 0);
    EXPECT_EQ(get(table, 36, 4), machine_map::kLocalApicBase);
    EXPECT_EQ(make_mp_table(found[0], vcpus, firmware_tables(pc_devices()).value()).size(), 16 + table.size());
    EXPECT_LE(found[0] + 16 + table.size(), kMpTableBegin + kMpTableSize);

    uint32_t processors = 0, boot_processors = 0, buses = 0, io_apics = 0;
    std::map<uint64_t, uint64_t> pins;  // ISA line: input of the IO-APIC
    std::set<std::pair<unsigned, unsigned>> local;
    size_t entries = 0;
    for (size_t e = 44; e < table.size(); ++entries) {
      ASSERT_LE(e + 8, table.size());
      switch (table[e]) {
        case 0:
          EXPECT_EQ(table[e + 1], processors++);
          EXPECT_EQ(table[e + 3] & 1, 1);
          boot_processors += table[e + 3] >> 1 & 1;
          EXPECT_NE(get(table, e + 8, 4) & (1 << 9), 0U);  // an APIC on the chip
          e += 20;
          break;
        case 1:
          ++buses;
          EXPECT_EQ(std::string(table.begin() + static_cast<ptrdiff_t>(e) + 2, table.begin() + static_cast<ptrdiff_t>(e) + 8), "ISA   ");
          e += 8;
          break;
        case 2:
          ++io_apics;
          EXPECT_EQ(table[e + 1], machine_map::kIoApicId);
          EXPECT_EQ(table[e + 3], 1);
          EXPECT_EQ(get(table, e + 4, 4), machine_map::kIoApicBase);
          e += 8;
          break;
        case 3:
          if (table[e + 1] == 0) {
            pins[table[e + 5]] = table[e + 7];
            EXPECT_EQ(get(table, e + 2, 2), table[e + 5] == machine_map::kSciIrq ? 0xdU : 0U);
          } else {
            EXPECT_EQ(table[e + 1], 3);
            EXPECT_EQ(table[e + 7], machine_map::kPicGsi);
          }
          EXPECT_EQ(table[e + 6], machine_map::kIoApicId);
          e += 8;
          break;
        case 4:
          local.insert({table[e + 1], table[e + 7]});
          e += 8;
          break;
        default: FAIL() << "entry of type " << int{table[e]};
      }
    }
    EXPECT_EQ(entries, get(table, 34, 2));
    EXPECT_EQ(processors, vcpus);
    EXPECT_EQ(boot_processors, 1U);
    EXPECT_EQ(buses, 1U);
    EXPECT_EQ(io_apics, 1U);
    std::map<uint64_t, uint64_t> expected{{0, machine_map::kPitGsi}};
    for (uint64_t line = 1; line < 16; ++line)
      if (line != 2) expected[line] = line;
    EXPECT_EQ(pins, expected);
    EXPECT_EQ(local, (std::set<std::pair<unsigned, unsigned>>{{3, 0}, {1, 1}}));  // ExtINT and NMI
  }
}

TEST(BootSector, starts_behind_the_services_own_start) {
  BootImages images;
  images.kernel = make_boot_sector(512);
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_FALSE(state.protected_mode());
  EXPECT_GE(state.segment[CS].base + state.rip, kBiosServices);
  EXPECT_EQ(read_memory(*memory, 0x7c00, 512), images.kernel);
}

TEST(BootSector, of_a_larger_image_lies_in_reserved_memory_with_the_rest) {
  for (const auto& [size, disks] : {std::pair<size_t, int>{512 * 5 + 1, 1}, {1474560, 0}}) {
    BootImages images;
    images.kernel = make_boot_sector(size);
    images.kernel.back() = 0x77;
    auto memory = make_memory(64);
    CpuState state;
    ASSERT_TRUE(load(images, *memory, state).ok());
    const uint64_t at = (uint64_t{64} << 20) - ((size + 4095) & ~size_t{4095});
    EXPECT_EQ(read_memory(*memory, at, size), images.kernel);
    EXPECT_EQ(read_memory(*memory, 0x475, 1)[0], disks);  // fixed ones
  }
}

TEST(BootSector, takes_nothing_else_and_needs_its_signature) {
  BootImages images;
  images.kernel = make_boot_sector(512);
  images.command_line = "x";
  EXPECT_EQ(error_of(images), "a boot sector takes no initrd, modules or command line");
  images.command_line.clear();
  images.kernel[511] = 0;
  EXPECT_EQ(error_of(images), "kernel is neither a Linux bzImage nor an ELF file, a multiboot kernel or a boot sector");
  images.kernel = make_boot_sector(size_t{70} << 20);
  EXPECT_EQ(error_of(images), "the disk does not fit into guest memory: 73400320 bytes");
}

}  // namespace
}  // namespace retrovisor::boot_test
