// decoder_vs_capstone ELF: decodes every executable section of an ELF file from start to end with the soft engine's
// decoder and with Capstone, and compares the lengths. Exit code 0: no difference, 1: differences, 2: cannot tell.
//
// Where Capstone knows no instruction (newer than it, or data between functions) the walk goes on behind what our
// decoder read; such places are counted by opcode.
#include <capstone/capstone.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tools/elf_sections.h"
#include "vmm/soft/decode.h"
#include "vmm/soft/soft_cpu.h"

namespace {

using retrovisor::soft::DecodeStatus;
using retrovisor::soft::Insn;
using retrovisor::soft::OpMap;
using retrovisor::tools::Section;

constexpr unsigned kMismatchesShown = 20;

std::string hex(const uint8_t* bytes, size_t size) {
  std::string out;
  char two[4];
  for (size_t i = 0; i < size; ++i) {
    std::snprintf(two, sizeof two, "%02x ", bytes[i]);
    out += two;
  }
  return out;
}

std::string opcode_name(const Insn& insn) {
  static constexpr const char* kMap[] = {"", "0f ", "0f 38 ", "0f 3a "};
  char text[48];
  std::snprintf(text, sizeof text, "%s%02x", kMap[static_cast<unsigned>(insn.map)], insn.opcode);
  std::string out = text;
  if (insn.has_modrm) out += " /" + std::to_string(insn.reg_field()) + (insn.mod() == 3 ? " register" : " memory");
  if (insn.prefix66) out = "66 " + out;
  if (insn.rep != 0) out = (insn.rep == 0xf2 ? "f2 " : "f3 ") + out;
  return out;
}

// UD0 and UD1 have a ModRM operand (SDM 2B, UD), which Capstone 4 leaves out.
bool read_short_by_capstone(const Insn& insn) {
  return insn.map == OpMap::map_0f && (insn.opcode == 0xb9 || insn.opcode == 0xff);
}

struct Totals {
  uint64_t instructions = 0;
  uint64_t read_short_by_capstone = 0;
  uint64_t mismatches = 0;
  std::map<std::string, uint64_t> unknown_to_capstone;
  std::map<std::string, uint64_t> unknown_to_us;  // lengths agree, but the engine will answer #UD
};

void walk(csh capstone, cs_insn* theirs, uint8_t mode, const Section& section, Totals& totals) {
  size_t at = 0;
  while (at < section.size) {
    Insn ours;
    const DecodeStatus status = retrovisor::soft::decode(section.bytes + at, section.size - at, mode, ours);
    const uint8_t* code = section.bytes + at;
    size_t left = section.size - at;
    uint64_t address = section.address + at;
    ++totals.instructions;
    if (!cs_disasm_iter(capstone, &code, &left, &address, theirs)) {
      ++totals.unknown_to_capstone[opcode_name(ours)];
      at += ours.length == 0 ? 1 : ours.length;
      continue;
    }
    if (read_short_by_capstone(ours) && status == DecodeStatus::ok && theirs->size < ours.length) {
      ++totals.read_short_by_capstone;
      at += ours.length;
      continue;
    }
    if (status == DecodeStatus::invalid) ++totals.unknown_to_us[std::string(theirs->mnemonic)];
    if (theirs->size != ours.length || status == DecodeStatus::truncated || status == DecodeStatus::too_long) {
      if (++totals.mismatches <= kMismatchesShown) {
        std::printf("%s+0x%zx: %s: %u bytes, Capstone %u (%s %s)\n", section.name.c_str(), at,
                    hex(section.bytes + at, theirs->size).c_str(), ours.length, theirs->size, theirs->mnemonic,
                    theirs->op_str);
      }
    }
    at += theirs->size;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: decoder_vs_capstone ELF\n");
    return 2;
  }
  const auto elf = retrovisor::tools::read_elf(argv[1]);
  if (!elf) return 2;
  csh capstone = 0;
  if (cs_open(CS_ARCH_X86, elf->wide ? CS_MODE_64 : CS_MODE_32, &capstone) != CS_ERR_OK) return 2;
  cs_insn* theirs = cs_malloc(capstone);
  const uint8_t mode = elf->wide ? retrovisor::soft::block_mode::code64 : retrovisor::soft::block_mode::code32;
  Totals totals;
  for (const Section& section : elf->sections) {
    if (!section.executable) continue;
    const uint64_t before = totals.instructions;
    walk(capstone, theirs, mode, section, totals);
    std::printf("%-24s %10zu bytes %10llu instructions\n", section.name.c_str(), section.size,
                static_cast<unsigned long long>(totals.instructions - before));
  }
  cs_free(theirs, 1);
  cs_close(&capstone);
  for (const auto& [name, count] : totals.unknown_to_capstone) {
    std::printf("unknown to Capstone: %8llu  %s\n", static_cast<unsigned long long>(count), name.c_str());
  }
  for (const auto& [name, count] : totals.unknown_to_us) {
    std::printf("decoded as #UD:      %8llu  %s\n", static_cast<unsigned long long>(count), name.c_str());
  }
  std::printf("UD0, UD1 without ModRM:  %8llu\n", static_cast<unsigned long long>(totals.read_short_by_capstone));
  std::printf("%llu instructions, %llu lengths differ\n", static_cast<unsigned long long>(totals.instructions),
              static_cast<unsigned long long>(totals.mismatches));
  if (totals.instructions == 0) return 2;
  return totals.mismatches == 0 ? 0 : 1;
}
