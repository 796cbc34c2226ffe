#include "analysis/insn_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "analysis/disassemble.h"
#include "vmm/soft/decoded_block.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor {
namespace {

using soft::DecodedInsn;
using soft::Insn;
using soft::OpMap;

constexpr const char* kRegisters[3][16] = {
    {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"},
    {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"},
    {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"},
};

// Instructions of extensions that the CPU model does not have, whose encodings are others then (SDM 2 under each: a prefix that is
// ignored, a NOP).
constexpr std::pair<std::string_view, std::string_view> kElsewhere[] = {
    {"tzcnt", "bsf"}, {"lzcnt", "bsr"}, {"endbr64", "nop"}, {"endbr32", "nop"},
};

// Mnemonic with its prefixes, and operands.
struct Words {
  std::string mnemonic, operands;
  std::string text() const { return operands.empty() ? mnemonic : mnemonic + " " + operands; }
};

Words split(std::string text) {
  // What a prefix means to MPX, CET and TSX, it does not to the model.
  for (const std::string_view prefix : {"bnd ", "notrack ", "xacquire ", "xrelease "})
    if (text.starts_with(prefix)) text.erase(0, prefix.size());
  size_t at = 0;
  for (const std::string_view prefix : {"lock ", "repne ", "repe ", "rep "})
    if (std::string_view(text).substr(at).starts_with(prefix)) at += prefix.size();
  const size_t end = text.find(' ', at);
  return end == std::string::npos ? Words{text, ""} : Words{text.substr(0, end), text.substr(end + 1)};
}

bool branches(const DecodedInsn& d) {
  return d.flow == soft::Flow::conditional || d.flow == soft::Flow::jump || d.flow == soft::Flow::call;
}

bool is_one_of(uint8_t opcode, std::initializer_list<uint8_t> list) { return std::find(list.begin(), list.end(), opcode) != list.end(); }

// Names that hold the size of an operand that is not written.
void name_sizes(const Insn& insn, Words& words) {
  const unsigned row = insn.operand_size == 8 ? 2 : insn.operand_size == 4 ? 1 : 0;
  if (insn.map != OpMap::one_byte) return;
  if (insn.opcode == 0x98 || insn.opcode == 0x99) {
    constexpr const char* kNames[2][3] = {{"cbw", "cwde", "cdqe"}, {"cwd", "cdq", "cqo"}};
    words = {kNames[insn.opcode - 0x98][row], ""};
  } else if (soft::is_string(insn) && (insn.opcode & 1) != 0) {
    const bool port = insn.opcode < 0x70;
    const char letter = "wdq"[port ? std::min(row, 1u) : row];
    if (words.mnemonic.back() == letter) return;
    words.mnemonic.back() = letter;
    words.operands.clear();  // they name the other size
  } else if (insn.opcode == 0x63 && insn.mode == soft::block_mode::code64) {
    const size_t comma = words.operands.find(',');
    if (comma != std::string::npos) words.operands = register_name(insn.reg, insn.operand_size) + words.operands.substr(comma);
  }
}

// 64-bit mode ignores these (SDM 1 3.3.7.1).
void drop_ignored_segments(Words& words) {
  for (const std::string_view segment : {"cs:[", "ds:[", "es:[", "ss:["})
    if (const size_t at = words.operands.find(segment); at != std::string::npos) words.operands.erase(at, 3);
}

}  // namespace

std::string register_name(uint8_t number, unsigned size) {
  if (number == soft::kRipBase) return size == 8 ? "rip" : "eip";
  return kRegisters[size == 8 ? 2 : size == 2 ? 0 : 1][number & 15];
}

uint64_t branch_target(const DecodedInsn& d, uint64_t instruction_pointer) {
  const uint64_t target = instruction_pointer + d.insn.length + static_cast<uint64_t>(d.insn.imm);
  if (d.insn.mode == soft::block_mode::code64) return target;
  return target & (d.insn.operand_size == 2 ? 0xffff : 0xffffffff);
}

InsnText insn_text(const DecodedInsn& d, std::span<const uint8_t> bytes, uint64_t instruction_pointer) {
  const Insn& insn = d.insn;
  const bool code64 = insn.mode == soft::block_mode::code64;
  const CodeMode mode = code64 ? CodeMode::bits64 : insn.mode == soft::block_mode::code32 ? CodeMode::bits32 : CodeMode::bits16;
  const Instruction other = disassemble(bytes.first(std::min<size_t>(bytes.size(), soft::kMaxInsnLength)), instruction_pointer, mode);
  const std::string reads = fmt::format("capstone reads {} byte{}: {}", other.size, other.size == 1 ? "" : "s", other.text);
  Words words = split(other.text);
  if (d.status != soft::DecodeStatus::ok) {
    if (other.size == 0) return {"(bad)", ""};
    const bool means_it = is_one_of(insn.opcode, {0x0b, 0xb9, 0xff}) && words.mnemonic.starts_with("ud");
    if (means_it && other.size == insn.length) return {other.text, ""};
    return {means_it ? words.mnemonic : "(bad)", reads};
  }
  if (other.size == 0) return {"(unnamed)", "capstone knows no such instruction"};
  if (other.size != insn.length) return {"(unnamed)", reads};

  if (branches(d)) {
    const uint64_t target = branch_target(d, instruction_pointer);
    if (std::strtoull(words.operands.c_str(), nullptr, 0) != target) words.operands = fmt::format("{:#x}", target);
  }
  name_sizes(insn, words);
  if (code64) drop_ignored_segments(words);
  const auto* named =
      std::find_if(std::begin(kElsewhere), std::end(kElsewhere), [&](const auto& n) { return n.first == words.mnemonic; });
  if (named != std::end(kElsewhere)) words.mnemonic = named->second;
  std::string text = words.text();
  if (text == other.text) return {std::move(text), ""};
  return {std::move(text), "capstone: " + other.text};
}

}  // namespace retrovisor
