#include "vmm/boot/acpi_tables.h"

#include <array>
#include <numeric>

#include "vmm/board/aml.h"
#include "vmm/boot/load_plan.h"

namespace retrovisor {
namespace {

constexpr std::string_view kOemId = "RETROV";
constexpr std::string_view kOemTableId = "RETROVSR";
constexpr uint32_t kOemRevision = 1;
constexpr size_t kHeaderSize = 36;
constexpr size_t kRsdpSize = 36;
constexpr size_t kFacsSize = 64;

uint8_t checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), 0));
}

// A system description table: the 36-byte header (5.2.6) around `body`.
std::vector<uint8_t> table(std::string_view signature, uint8_t revision, std::span<const uint8_t> body) {
  ByteBuilder out;
  out.text(signature).u32(kHeaderSize + body.size()).u8(revision).u8(0).text(kOemId).text(kOemTableId).u32(kOemRevision);
  out.text("RVSR").u32(1).bytes(body);
  out.data()[9] = checksum(out.data());
  return out.data();
}

// Generic address structure (5.2.3.2) of I/O ports. `access` is the size of one access: 1 byte, 2 word, 3 dword.
void io_address(ByteBuilder& out, uint16_t port, uint8_t bits, uint8_t access) {
  if (port == 0) return void(out.zeros(12));
  out.u8(1).u8(bits).u8(0).u8(access).u64(port);
}

std::vector<uint8_t> make_fadt(uint64_t facs, uint64_t dsdt, const FirmwareTables& board) {
  // Flags (table 5.10). PWR_BUTTON, SLP_BUTTON and FIX_RTC mean that the button or the clock's alarm is not in the fixed registers.
  constexpr uint32_t WBINVD = 1 << 0, PROC_C1 = 1 << 2, PWR_BUTTON = 1 << 4, SLP_BUTTON = 1 << 5, FIX_RTC = 1 << 6,
                     TMR_VAL_EXT = 1 << 8, RESET_REG_SUP = 1 << 10, HW_REDUCED_ACPI = 1 << 20;
  // IA-PC boot architecture flags (table 5.11). There is no VGA, no PCI (so no MSI and ASPM) and no keyboard.
  constexpr uint16_t LEGACY_DEVICES = 1 << 0, NO_VGA = 1 << 2, NO_MSI = 1 << 3, NO_ASPM = 1 << 4, CMOS_RTC_NOT_PRESENT = 1 << 5;
  constexpr uint8_t kCentury = 0x32;

  const bool fixed = board.fixed_hardware.has_value();
  const FirmwareTables::FixedHardware pm = board.fixed_hardware.value_or(FirmwareTables::FixedHardware{});
  const FirmwareTables::ResetRegister reset = board.reset_register.value_or(FirmwareTables::ResetRegister{});
  uint32_t flags = WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON;
  if (!pm.rtc_wakes) flags |= FIX_RTC;
  if (pm.pm_timer_bits == 32) flags |= TMR_VAL_EXT;
  if (board.reset_register) flags |= RESET_REG_SUP;
  if (!fixed) flags |= HW_REDUCED_ACPI;
  uint16_t architecture = NO_VGA | NO_MSI | NO_ASPM;
  if (board.legacy_devices) architecture |= LEGACY_DEVICES;
  if (!board.cmos_clock) architecture |= CMOS_RTC_NOT_PRESENT;

  ByteBuilder b;
  b.u32(facs).u32(dsdt).u8(0).u8(0).u16(pm.sci);
  b.u32(0).u8(0).u8(0).u8(0).u8(0);  // SMI_CMD 0: the machine is always in ACPI mode
  b.u32(pm.pm1_event).u32(0).u32(pm.pm1_control).u32(0);
  b.u32(0).u32(pm.pm_timer).u32(0).u32(0);  // PM2_CNT, PM_TMR, GPE0, GPE1
  // Lengths: PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR, GPE0, GPE1; GPE1 base; CST_CNT.
  b.u8(fixed ? 4 : 0).u8(fixed ? 2 : 0).u8(0).u8(fixed ? 4 : 0).u8(0).u8(0).u8(0).u8(0);
  b.u16(0xfff).u16(0xfff);      // P_LVL2_LAT, P_LVL3_LAT: above 100 and 1000 mean no C2, C3
  b.u16(0).u16(0).u8(0).u8(0);  // FLUSH_SIZE, FLUSH_STRIDE, DUTY_OFFSET, DUTY_WIDTH
  b.u8(0).u8(0).u8(board.cmos_clock ? kCentury : 0);  // DAY_ALRM, MON_ALRM: none; CENTURY
  b.u16(architecture).u8(0).u32(flags);
  io_address(b, reset.port, 8, 1);
  b.u8(reset.value).u16(0).u8(0);  // RESET_VALUE, ARM_BOOT_ARCH, minor version
  b.u64(0).u64(0);                 // X_FIRMWARE_CTRL, X_DSDT: the 32-bit fields above are in use
  io_address(b, pm.pm1_event, 32, 2);
  io_address(b, 0, 0, 0);
  io_address(b, pm.pm1_control, 16, 2);
  io_address(b, 0, 0, 0);
  io_address(b, 0, 0, 0);
  io_address(b, pm.pm_timer, 32, 3);
  io_address(b, 0, 0, 0);
  io_address(b, 0, 0, 0);
  io_address(b, 0, 0, 0);             // SLEEP_CONTROL_REG
  io_address(b, 0, 0, 0);             // SLEEP_STATUS_REG
  b.text("RETROVSR");                 // hypervisor vendor identity
  return table("FACP", 6, b.data());  // 276 bytes
}

std::vector<uint8_t> make_madt(uint32_t vcpus, const FirmwareTables& board) {
  constexpr uint32_t PCAT_COMPAT = 1;
  constexpr uint16_t kActiveHigh = 1, kEdge = 1 << 2, kLevel = 3 << 2;  // MPS INTI flags (table 5.26)
  ByteBuilder b;
  b.u32(board.local_apics.value_or(0)).u32(board.pics ? PCAT_COMPAT : 0);
  for (uint32_t id = 0; id < vcpus; ++id) b.u8(0).u8(8).u8(id).u8(id).u32(1);
  for (const auto& io_apic : board.io_apics)
    b.u8(1).u8(12).u8(io_apic.id).u8(0).u32(io_apic.address).u32(io_apic.gsi_base);
  for (const auto& o : board.overrides)
    b.u8(2).u8(10).u8(0).u8(o.line).u32(o.gsi).u16(kActiveHigh | (o.level ? kLevel : kEdge));
  b.u8(4).u8(6).u8(0xff).u16(0).u8(1);  // NMI at LINT1 of every local APIC
  return table("APIC", 5, b.data());
}

std::vector<uint8_t> make_facs() {
  ByteBuilder b;
  b.text("FACS").u32(kFacsSize).zeros(24).u8(2);  // version 2
  b.zeros(kFacsSize - b.size());
  return b.data();
}

std::vector<uint8_t> make_rsdp(uint64_t rsdt, uint64_t xsdt) {
  ByteBuilder b;
  b.text("RSD PTR ").u8(0).text(kOemId).u8(2).u32(rsdt).u32(kRsdpSize).u64(xsdt).u8(0).zeros(3);
  b.data()[8] = checksum(std::span(b.data()).first(20));  // of the ACPI 1.0 part
  b.data()[32] = checksum(b.data());
  return b.data();
}

}  // namespace

std::vector<uint8_t> make_dsdt_aml(const FirmwareTables& board) {
  aml::Aml devices;
  for (const auto& [name, terms] : board.devices) devices = aml::join({devices, aml::device(name, terms)});
  return aml::join({board.root, aml::scope("\\_SB_", devices)});
}

AcpiTables make_acpi_tables(uint64_t base, uint32_t vcpus, const FirmwareTables& board) {
  const std::vector<uint8_t> madt = make_madt(vcpus, board);
  const std::vector<uint8_t> facs = make_facs();
  const std::vector<uint8_t> dsdt = table("DSDT", 2, make_dsdt_aml(board));
  const std::vector<uint8_t> fadt_shape = make_fadt(0, 0, board);

  // Order and addresses: RSDP, then each table on a 64-byte boundary, as the FACS must be.
  uint64_t next = base;
  const auto place = [&next](size_t size) {
    const uint64_t at = next;
    next = (at + size + 63) & ~uint64_t{63};
    return at;
  };
  constexpr size_t kRootEntries = 2;
  place(kRsdpSize);
  const uint64_t xsdt_at = place(kHeaderSize + 8 * kRootEntries);
  const uint64_t rsdt_at = place(kHeaderSize + 4 * kRootEntries);
  const uint64_t fadt_at = place(fadt_shape.size());
  const uint64_t madt_at = place(madt.size());
  const uint64_t facs_at = place(facs.size());
  const uint64_t dsdt_at = place(dsdt.size());

  AcpiTables out{base, std::vector<uint8_t>(next - base, 0)};
  const auto put = [&out](uint64_t at, std::span<const uint8_t> bytes) {
    std::copy(bytes.begin(), bytes.end(), out.bytes.begin() + static_cast<std::ptrdiff_t>(at - out.base));
  };
  ByteBuilder xsdt, rsdt;
  for (const uint64_t at : {fadt_at, madt_at}) {
    xsdt.u64(at);
    rsdt.u32(at);
  }
  put(base, make_rsdp(rsdt_at, xsdt_at));
  put(xsdt_at, table("XSDT", 1, xsdt.data()));
  put(rsdt_at, table("RSDT", 1, rsdt.data()));
  put(fadt_at, make_fadt(facs_at, dsdt_at, board));
  put(madt_at, madt);
  put(facs_at, facs);
  put(dsdt_at, dsdt);
  return out;
}

}  // namespace retrovisor
