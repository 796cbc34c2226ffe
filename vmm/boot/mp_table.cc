#include "vmm/boot/mp_table.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "vmm/board/interrupt_wiring.h"
#include "vmm/boot/load_plan.h"
#include "vmm/cpu/cpuid.h"

namespace retrovisor {
namespace {

constexpr uint64_t kPointerSize = 16;
constexpr uint8_t kRevision = 4;  // 1.4
constexpr uint8_t kLocalApicVersion = 0x14, kIoApicVersion = 0x11;
constexpr uint8_t kIsaBus = 0;
constexpr unsigned kCascade = 2;

// Types of entries (table 4-3) and of interrupts (4-10); flags of interrupts: polarity, trigger.
enum Entry : uint8_t { processor = 0, bus = 1, io_apic = 2, io_interrupt = 3, local_interrupt = 4 };
enum Kind : uint8_t { INT = 0, NMI = 1, ExtINT = 3 };
constexpr uint16_t kAsTheBus = 0, kActiveHighLevel = 1 | 3 << 2;

uint8_t checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), 0));
}

}  // namespace

std::vector<uint8_t> make_mp_table(uint64_t base, uint32_t vcpus, const FirmwareTables& board) {
  ByteBuilder entries;
  unsigned count = 0;
  for (uint32_t id = 0; id < vcpus; ++id, ++count) {
    constexpr uint8_t EN = 1, BP = 2;
    const CpuidResult cpu = cpuid(1, 0, CpuState::at_reset(VcpuId(id)), VcpuId(id), vcpus);
    entries.u8(processor).u8(id).u8(kLocalApicVersion).u8(id == 0 ? EN | BP : EN).u32(cpu.eax & 0xfff).u32(cpu.edx).zeros(8);
  }
  entries.u8(bus).u8(kIsaBus).text("ISA   ");
  ++count;
  for (const auto& a : board.io_apics) {
    entries.u8(io_apic).u8(a.id).u8(kIoApicVersion).u8(1).u32(a.address);
    ++count;
  }
  const auto interrupt = [&](Entry entry, Kind kind, uint16_t flags, unsigned line, unsigned apic, unsigned input) {
    entries.u8(entry).u8(kind).u16(flags).u8(kIsaBus).u8(line).u8(apic).u8(input);
    ++count;
  };
  // The bus's lines come in at the IO-APIC from global system interrupt 0 on. Line 2 is the second 8259A's; what the two of them ask for
  // comes in at a pin of its own, and at LINT0 of the boot processor.
  for (const auto& a : board.io_apics) {
    for (unsigned line = 0; a.gsi_base == 0 && line < kIsaLines; ++line) {
      if (line == kCascade) continue;
      const auto other = std::find_if(board.overrides.begin(), board.overrides.end(), [&](const auto& o) { return o.line == line; });
      const bool as_usual = other == board.overrides.end();
      interrupt(io_interrupt, INT, as_usual || !other->level ? kAsTheBus : kActiveHighLevel, line, a.id, as_usual ? line : other->gsi);
    }
    if (board.pics && a.pic_pin) interrupt(io_interrupt, ExtINT, kAsTheBus, 0, a.id, *a.pic_pin);
  }
  interrupt(local_interrupt, ExtINT, kAsTheBus, 0, 0, 0);
  interrupt(local_interrupt, NMI, kAsTheBus, 0, 0xff, 1);

  ByteBuilder table;
  constexpr uint64_t kHeaderSize = 44;
  table.text("PCMP").u16(kHeaderSize + entries.size()).u8(kRevision).u8(0).text("RETROVSR").text("MACHINE     ");
  table.u32(0).u16(0).u16(count).u32(board.local_apics.value_or(0)).u32(0).bytes(entries.data());
  table.data()[7] = checksum(table.data());
  ByteBuilder out;
  // Feature bytes: there is a configuration table; the interrupts come through the 8259A pair until they are asked elsewhere
  // (virtual wire mode, no IMCR).
  out.text("_MP_").u32(base + kPointerSize).u8(kPointerSize / 16).u8(kRevision).u8(0).u8(0).u8(0).zeros(3);
  out.data()[10] = checksum(out.data());
  out.bytes(table.data());
  return out.data();
}

}  // namespace retrovisor
