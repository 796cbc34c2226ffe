#include "vmm/kvm/instruction_names.h"

#include <capstone/capstone.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "vmm/kvm/linear_memory.h"

namespace retrovisor::kvm {
namespace {

constexpr size_t kShown = 3;  // bytes of an unknown one: prefix, escape, opcode

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
  std::array<uint8_t, kLongestInstruction> bytes{};
  const size_t have = read_code(s, memory, bytes);
  return have != 0 ? name(std::span(bytes).first(have), s.code_bits()) : "?";
}

}  // namespace retrovisor::kvm
