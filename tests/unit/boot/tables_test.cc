#include <map>

#include "tests/unit/boot/test_images.h"
#include "vmm/board/device_type.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/mp_table.h"
#include "vmm/board/aml.h"
#include "vmm/devices/machine_map.h"
#include "vmm/devices/pc.h"

namespace retrovisor::boot_test {
namespace {

constexpr uint64_t kBase = 0xe0000;

uint8_t sum(const Bytes& b) {
  uint8_t s = 0;
  for (const uint8_t x : b) s = static_cast<uint8_t>(s + x);
  return s;
}

Bytes slice(const AcpiTables& t, uint64_t at, size_t size) {
  EXPECT_GE(at, t.base);
  EXPECT_LE(at - t.base + size, t.bytes.size());
  const auto begin = t.bytes.begin() + static_cast<std::ptrdiff_t>(at - t.base);
  return Bytes(begin, begin + static_cast<std::ptrdiff_t>(size));
}

// The table at `at`, by the length in its header; its checksum must hold.
Bytes table_at(const AcpiTables& t, uint64_t at) {
  const Bytes table = slice(t, at, get(slice(t, at, 36), 4, 4));
  EXPECT_EQ(sum(table), 0) << std::string(table.begin(), table.begin() + 4);
  return table;
}

std::map<std::string, Bytes> tables_by_signature(const AcpiTables& t) {
  const Bytes rsdp = slice(t, t.base, 36);
  std::map<std::string, Bytes> found;
  const Bytes xsdt = table_at(t, get(rsdp, 24, 8));
  for (size_t at = 36; at < xsdt.size(); at += 8) {
    const Bytes table = table_at(t, get(xsdt, at, 8));
    found[std::string(table.begin(), table.begin() + 4)] = table;
  }
  return found;
}

FirmwareTables board() { return firmware_tables(pc_devices()).value(); }

TEST(Acpi, root_pointer_checksums_hold_and_both_root_tables_agree) {
  const AcpiTables t = make_acpi_tables(kBase, 2, board());
  const Bytes rsdp = slice(t, kBase, 36);
  EXPECT_EQ(std::string(rsdp.begin(), rsdp.begin() + 8), "RSD PTR ");
  EXPECT_EQ(sum(Bytes(rsdp.begin(), rsdp.begin() + 20)), 0);
  EXPECT_EQ(sum(rsdp), 0);
  EXPECT_EQ(rsdp[15], 2);
  const Bytes rsdt = table_at(t, get(rsdp, 16, 4));
  const Bytes xsdt = table_at(t, get(rsdp, 24, 8));
  ASSERT_EQ((rsdt.size() - 36) / 4, (xsdt.size() - 36) / 8);
  for (size_t i = 0; i < (rsdt.size() - 36) / 4; ++i) EXPECT_EQ(get(rsdt, 36 + 4 * i, 4), get(xsdt, 36 + 8 * i, 8));
}

TEST(Acpi, fadt_names_the_ports_of_the_machine) {
  const AcpiTables t = make_acpi_tables(kBase, 1, board());
  const Bytes fadt = tables_by_signature(t)["FACP"];
  ASSERT_EQ(fadt.size(), 276U);
  EXPECT_EQ(get(fadt, 46, 2), machine_map::kSciIrq);
  EXPECT_EQ(get(fadt, 56, 4), machine_map::kPm1aEvent);
  EXPECT_EQ(get(fadt, 64, 4), machine_map::kPm1aControl);
  EXPECT_EQ(get(fadt, 76, 4), machine_map::kPmTimer);
  EXPECT_EQ(fadt[88], 4);
  EXPECT_EQ(fadt[89], 2);
  EXPECT_EQ(fadt[91], 4);
  EXPECT_NE(get(fadt, 112, 4) & (1 << 10), 0U);  // RESET_REG_SUP
  EXPECT_EQ(fadt[116], 1);                       // in I/O space
  EXPECT_EQ(get(fadt, 120, 8), machine_map::kResetControl);
  EXPECT_EQ(fadt[128], machine_map::kResetValue);
  EXPECT_EQ(get(fadt, 152, 8), machine_map::kPm1aEvent);
  EXPECT_EQ(get(fadt, 176, 8), machine_map::kPm1aControl);
  EXPECT_EQ(get(fadt, 212, 8), machine_map::kPmTimer);
  const uint64_t facs = get(fadt, 36, 4);
  EXPECT_EQ(facs % 64, 0U);
  const Bytes f = slice(t, facs, 64);
  EXPECT_EQ(std::string(f.begin(), f.begin() + 4), "FACS");
  const Bytes dsdt = table_at(t, get(fadt, 40, 4));
  EXPECT_EQ(std::string(dsdt.begin(), dsdt.begin() + 4), "DSDT");
}

TEST(Acpi, madt_lists_every_processor_and_the_overrides) {
  for (const uint32_t vcpus : {1U, 3U, kMaxVcpus}) {
    const Bytes madt = tables_by_signature(make_acpi_tables(kBase, vcpus, board()))["APIC"];
    EXPECT_EQ(get(madt, 36, 4), machine_map::kLocalApicBase);
    uint32_t processors = 0, io_apics = 0;
    std::map<uint64_t, uint64_t> overrides;
    for (size_t at = 44; at < madt.size(); at += madt[at + 1]) {
      ASSERT_GE(madt[at + 1], 6);
      ASSERT_LE(at + madt[at + 1], madt.size());
      if (madt[at] == 0) {
        EXPECT_EQ(madt[at + 3], processors++);
      }
      if (madt[at] == 1) {
        ++io_apics;
        EXPECT_EQ(get(madt, at + 4, 4), machine_map::kIoApicBase);
        EXPECT_EQ(get(madt, at + 8, 4), 0U);
      }
      if (madt[at] == 2) overrides[madt[at + 3]] = get(madt, at + 4, 4);
    }
    EXPECT_EQ(processors, vcpus);
    EXPECT_EQ(io_apics, 1U);
    EXPECT_EQ(overrides, (std::map<uint64_t, uint64_t>{{0, 2}, {9, 9}}));
  }
}

// A board that lacks what the tables tell of does not tell of it.
TEST(Acpi, tables_name_only_what_is_on_the_board) {
  DeviceList few;
  for (const DeviceSpec& d : pc_devices())
    if (d.type != "acpi-pm" && d.type != "reset-control" && d.type != "rtc" && d.type != "ioapic" && d.type != "uart16550") few.push_back(d);
  const FirmwareTables bare = firmware_tables(few).value();
  const AcpiTables t = make_acpi_tables(kBase, 1, bare);
  auto found = tables_by_signature(t);
  const Bytes fadt = found["FACP"];
  for (const auto& [at, size] : {std::pair{46, 2}, {56, 4}, {64, 4}, {76, 4}, {88, 2}, {91, 1}, {108, 1}, {116, 12}, {128, 1}, {148, 12}, {172, 12}, {208, 12}})
    for (int i = 0; i < size; ++i) EXPECT_EQ(fadt[static_cast<size_t>(at + i)], 0) << at;
  EXPECT_EQ(get(fadt, 112, 4) & (1 << 10 | 1 << 20), 1U << 20);  // RESET_REG_SUP, HW_REDUCED_ACPI
  EXPECT_EQ(get(fadt, 109, 2) & (1 | 1 << 5), 1U << 5);          // LEGACY_DEVICES, CMOS_RTC_NOT_PRESENT
  const Bytes madt = found["APIC"];
  for (size_t at = 44; at < madt.size(); at += madt[at + 1]) {
    ASSERT_GE(madt[at + 1], 6);
    EXPECT_NE(madt[at], 1);
    if (madt[at] == 2) EXPECT_EQ(madt[at + 3], machine_map::kPitIrq);
  }
  const auto memory = GuestMemory::create(16 << 20).value();
  EXPECT_EQ(memory_map(*memory, bare.reserved).size() + 1, memory_map(*memory, board().reserved).size());
  const Bytes mp = make_mp_table(kMpTableBegin, 1, bare);
  EXPECT_LT(mp.size(), make_mp_table(kMpTableBegin, 1, board()).size() - 15 * 8);
}

TEST(Acpi, dsdt_starts_with_the_sleep_type_of_s5) {
  const Bytes expected = {
      0x08, '_', 'S', '5', '_', 0x12, 0x08, 0x04, 0x0a, machine_map::kSleepTypeS5, 0x0a, machine_map::kSleepTypeS5, 0, 0};
  const Bytes dsdt = make_dsdt_aml(board());
  ASSERT_GT(dsdt.size(), expected.size());
  EXPECT_EQ(Bytes(dsdt.begin(), dsdt.begin() + static_cast<std::ptrdiff_t>(expected.size())), expected);
}

TEST(Acpi, tables_fit_below_1_mib_for_the_most_processors) {
  EXPECT_LE(make_acpi_tables(kAcpiBegin, kMaxVcpus, board()).bytes.size(), kAcpiSize);
}

TEST(Aml, package_lengths_count_themselves) {
  const aml::Aml small = aml::scope("\\", aml::Aml(60, 0));
  EXPECT_EQ(small[1], 62);
  const aml::Aml medium = aml::scope("\\", aml::Aml(1000, 0));
  EXPECT_EQ(medium[1] >> 6, 1);
  EXPECT_EQ((medium[1] & 0xf) | medium[2] << 4, 1003);
  EXPECT_EQ(medium.size(), 1004U);
  const aml::Aml large = aml::scope("\\", aml::Aml(5000, 0));
  EXPECT_EQ(large[1] >> 6, 2);
  EXPECT_EQ((large[1] & 0xf) | large[2] << 4 | large[3] << 12, 5004);
}

TEST(Aml, eisa_identifier_is_compressed_as_acpi_says) {
  EXPECT_EQ(aml::eisa_id("PNP0501"), (aml::Aml{0x0c, 0x41, 0xd0, 0x05, 0x01}));
}

TEST(MemoryMap, has_no_overlaps_and_all_ram_outside_of_the_bios_area) {
  for (const uint64_t mib : {uint64_t{16}, uint64_t{512}, uint64_t{3072}, uint64_t{3073}, uint64_t{8192}}) {
    const auto memory = make_memory(mib);
    uint64_t ram = 0, end = 0;
    for (const MemoryMapEntry& e : memory_map(*memory, board().reserved)) {
      EXPECT_GE(e.begin, end);
      EXPECT_GT(e.size, 0U);
      end = e.begin + e.size;
      if (e.type != MemoryType::ram) continue;
      ram += e.size;
      EXPECT_TRUE(memory->is_ram(PhysAddr(e.begin)));
      EXPECT_TRUE(memory->is_ram(PhysAddr(end - 1)));
    }
    EXPECT_EQ(ram, (mib << 20) - (0x100000 - 0x9fc00));
  }
}

TEST(LoadPlan, keeps_ranges_apart) {
  auto memory = make_memory(16);
  LoadPlan plan(*memory, {});
  ASSERT_TRUE(plan.claim(0x200000, 0x1000, "a", "").ok());
  EXPECT_FALSE(plan.claim(0x200fff, 1, "b", "").ok());
  EXPECT_FALSE(plan.claim(0x1ff000, 0x1001, "b", "").ok());
  EXPECT_TRUE(plan.claim(0x201000, 0x1000, "b", "").ok());
  EXPECT_FALSE(plan.claim(UINT64_MAX, 2, "wraps", "").ok());
  const auto high = plan.place_high(0x1000, 0x1000, 0x201800, "c");
  ASSERT_TRUE(high.ok());
  EXPECT_EQ(*high, 0x1ff000U);
  EXPECT_FALSE(plan.place_high(uint64_t{16} << 20, 0x1000, UINT64_MAX, "too big").ok());
  uint64_t last = 0x9f000;  // the last page boundary below the BIOS's data
  while (true) {  // low memory fills downwards, then goes on above
    const auto low = plan.place_low(0x8000, 0x1000, "d");
    ASSERT_TRUE(low.ok());
    if (*low >= 0x100000) break;
    EXPECT_EQ(*low, last - 0x8000);
    last = *low;
  }
  EXPECT_LT(last, 0x9000U);
}

}  // namespace
}  // namespace retrovisor::boot_test
