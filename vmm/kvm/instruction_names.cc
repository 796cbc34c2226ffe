#include "vmm/kvm/instruction_names.h"

#include <capstone/capstone.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "vmm/cpu/page_walk.h"

namespace retrovisor::kvm {
namespace {

constexpr size_t kLongest = 15;  // bytes of an instruction (SDM 2A 2.3.11)
constexpr size_t kShown = 3;     // of an unknown one: prefix, escape, opcode

}  // namespace

InstructionNames::~InstructionNames() {
  if (disassembler_ != 0) cs_close(&disassembler_);
}

std::string InstructionNames::name(std::span<const uint8_t> bytes, unsigned bits) {
  const cs_mode mode = bits == 64 ? CS_MODE_64 : bits == 32 ? CS_MODE_32 : CS_MODE_16;
  if (disassembler_ == 0 && cs_open(CS_ARCH_X86, CS_MODE_64, &disassembler_) != CS_ERR_OK) disassembler_ = 0;
  if (disassembler_ != 0 && cs_option(disassembler_, CS_OPT_MODE, static_cast<size_t>(mode)) == CS_ERR_OK) {
    cs_insn* insn = nullptr;
    const size_t count = cs_disasm(disassembler_, bytes.data(), bytes.size(), 0, 1, &insn);
    if (count != 0) {
      std::string out = insn->mnemonic;
      cs_free(insn, count);
      return out;
    }
  }
  return fmt::format("{:02x}", fmt::join(bytes.first(std::min(bytes.size(), kShown)), " "));
}

std::string InstructionNames::at_rip(const CpuState& s, GuestMemory& memory) {
  const bool mode64 = s.mode64();
  const uint64_t linear = mode64 ? s.rip : (s.segment[CS].base + s.rip) & 0xffffffff;
  std::array<uint8_t, kLongest> bytes{};
  size_t have = 0;
  while (have < kLongest) {
    const PageWalk walk = walk_page(s, memory, LinearAddr(linear + have), {}, false);
    if (!walk.ok || !memory.is_ram(walk.phys)) break;
    const size_t piece = std::min<size_t>(kLongest - have, kPageSize - (walk.phys.value & (kPageSize - 1)));
    std::copy_n(memory.host(walk.phys), piece, bytes.begin() + static_cast<std::ptrdiff_t>(have));
    have += piece;
  }
  if (have == 0) return "?";
  const bool big = (s.segment[CS].attributes & seg::DB) != 0;
  return name(std::span(bytes).first(have), mode64 ? 64 : big ? 32 : 16);
}

}  // namespace retrovisor::kvm
