// What instructions are called, held against what our decoder and the CPU model make of them.
#include "analysis/insn_text.h"

#include <capstone/capstone.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "analysis/block_listing.h"
#include "vmm/soft/decoded_block.h"
#include "vmm/soft/emit.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor {
namespace {

using namespace soft::block_mode;

ListedInsn listed(std::vector<uint8_t> bytes, unsigned bits, uint64_t cs_base = 0) {
  const auto block = list_block(bytes, code_place(0x7c00 + cs_base, bits, cs_base), 1, [](uintptr_t) { return std::string("op"); });
  return block.ok() ? block->instructions.at(0) : ListedInsn{};
}

struct Case {
  unsigned bits;
  std::vector<uint8_t> bytes;
  const char* text;
  const char* note;
};

TEST(InsnText, is_what_is_executed_and_says_where_capstone_takes_it_for_something_else) {
  const Case cases[] = {
      {64, {0x8b, 0x03}, "mov eax, dword ptr [rbx]", ""},
      // Near branches in 64-bit mode have 32-bit displacements whatever the prefixes (SDM 2: not so AMD's).
      {64, {0x66, 0xe8, 0x11, 0x22, 0x33, 0x44, 0x90}, "(unnamed)", "capstone reads 4 bytes: call 0x9e15"},
      {64, {0x66, 0x0f, 0x85, 0x11, 0x22, 0x33, 0x44, 0x90}, "(unnamed)", "capstone reads 5 bytes: jne 0x9e16"},
      {32, {0x66, 0x75, 0x10}, "jne 0x7c13", ""},
      {16, {0x98}, "cbw", "capstone: cwde"},
      {16, {0x66, 0x99}, "cdq", ""},
      {32, {0x66, 0x98}, "cbw", ""},
      {64, {0x48, 0x98}, "cdqe", ""},
      {64, {0x66, 0xf2, 0xa7}, "repne cmpsw", "capstone: repne cmpsd dword ptr [rsi], dword ptr [rdi]"},
      {64, {0xf3, 0x48, 0xa5}, "rep movsq qword ptr [rdi], qword ptr [rsi]", ""},
      {64, {0x63, 0xc1}, "movsxd eax, ecx", "capstone: movsxd rax, ecx"},
      {64, {0x48, 0x63, 0xc1}, "movsxd rax, ecx", ""},
      {64, {0x2e, 0x8b, 0x03}, "mov eax, dword ptr [rbx]", "capstone: mov eax, dword ptr cs:[rbx]"},
      {32, {0x2e, 0x8b, 0x03}, "mov eax, dword ptr cs:[ebx]", ""},
      {64, {0xf2, 0xeb, 0x00}, "jmp 0x7c03", "capstone: bnd jmp 0x7c03"},
      {64, {0x0f, 0x1d, 0xc0}, "(unnamed)", "capstone knows no such instruction"},
      {64, {0xf3, 0x0f, 0xbc, 0xc1}, "bsf eax, ecx", "capstone: tzcnt eax, ecx"},
      {64, {0xf3, 0x0f, 0xbd, 0xc1}, "bsr eax, ecx", "capstone: lzcnt eax, ecx"},
      {64, {0xf3, 0x0f, 0xae, 0xf0}, "(bad)", "capstone reads 4 bytes: mfence"},
      {64, {0x0f, 0x0b}, "ud2", ""},
      {64, {0x66, 0x0f, 0x38, 0xf6, 0xc1}, "(bad)", "capstone reads 5 bytes: adcx eax, ecx"},
  };
  for (const Case& c : cases) {
    const ListedInsn insn = listed(c.bytes, c.bits);
    EXPECT_EQ(insn.text, c.text) << fmt::format("{:02x}", fmt::join(c.bytes, " "));
    EXPECT_EQ(insn.note, c.note) << fmt::format("{:02x}", fmt::join(c.bytes, " "));
  }
}

// Near branches wrap at the size of the instruction pointer, within the segment.
TEST(InsnText, branches_lead_to_instruction_pointers_of_their_size) {
  EXPECT_EQ(listed({0xe9, 0x00, 0x90}, 16).text, "jmp 0xc03");
  EXPECT_EQ(listed({0x66, 0xe9, 0x00, 0x90}, 32).text, "jmp 0xc04");
  EXPECT_EQ(listed({0xeb, 0x10}, 16, 0x10000).text, "jmp 0x7c12");
  const auto block = list_block(std::vector<uint8_t>{0x75, 0x10}, code_place(0x107c10, 32, 0x100000), 1, [](uintptr_t) { return std::string(); });
  ASSERT_TRUE(block.ok());
  EXPECT_EQ(block->address, 0x107c10u);
  EXPECT_EQ(block->instruction_pointer, 0x7c10u);
  EXPECT_EQ(block->instructions[0].address, 0x107c10u);
  EXPECT_EQ(block->instructions[0].instruction_pointer, 0x7c10u);
  EXPECT_EQ(block->successors, (std::vector<uint64_t>{0x7c22, 0x7c12}));
}

// Features of Capstone's that the CPU model has (vmm/cpu/cpuid.cc).
bool is_of_the_model(const std::string& group) {
  for (const char* has : {"sse1", "sse2", "sse3", "ssse3", "sse41", "sse42", "mmx", "cmov", "fpu", "mode64", "not64bitmode", "call", "jump",
                          "ret", "int", "iret", "privilege", "branch_relative", "16bitmode", "32bitmode", "fsgsbase", "smap"})
    if (group == has) return true;
  return false;
}

TEST(InsnText, an_instruction_of_another_extension_is_never_given_as_what_is_executed) {
  unsigned compared = 0;
  std::map<std::string, std::string> wrong;
  for (const auto& [mode, how] : {std::pair{code64, CS_MODE_64}, {code32, CS_MODE_32}}) {
    csh handle = 0;
    ASSERT_EQ(cs_open(CS_ARCH_X86, how, &handle), CS_ERR_OK);
    cs_option(handle, CS_OPT_DETAIL, CS_OPT_ON);
    for (const auto& prefix : std::vector<std::vector<uint8_t>>{{}, {0x66}, {0xf2}, {0xf3}, {0x66, 0xf3}})
      for (const auto& map : std::vector<std::vector<uint8_t>>{{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}})
        for (unsigned opcode = 0; opcode < 256; ++opcode)
          for (unsigned modrm = 0; modrm < 256; ++modrm) {
            if ((modrm & 0xc7) != 1 && modrm < 0xc0) continue;
            std::vector<uint8_t> bytes = prefix;
            bytes.insert(bytes.end(), map.begin(), map.end());
            bytes.push_back(static_cast<uint8_t>(opcode));
            bytes.push_back(static_cast<uint8_t>(modrm));
            bytes.resize(16);
            soft::DecodedBlock block;
            soft::decode_block({bytes, 4096}, {.mode = mode}, 1, nullptr, block);
            if (block.empty() || block.last().status != soft::DecodeStatus::ok) continue;
            soft::Op op;
            soft::prepare_op(block.last().insn, 0, op);
            soft::FpuClass fpu{};
            if (soft::emit(block.last().insn, fpu, op) == soft::Emit::unknown) continue;
            cs_insn* insn = nullptr;
            if (cs_disasm(handle, bytes.data(), bytes.size(), 0x1000, 1, &insn) != 1) continue;
            const InsnText text = insn_text(block.last(), bytes, 0x1000);
            ++compared;
            std::string foreign;
            for (unsigned g = 0; g < insn->detail->groups_count; ++g) {
              const std::string group = cs_group_name(handle, insn->detail->groups[g]);
              if (!is_of_the_model(group)) foreign = group;
            }
            const bool other_length = insn->size != block.last().insn.length;
            if ((other_length || !foreign.empty()) && text.note.empty())
              wrong[fmt::format("{} ({})", insn->mnemonic, foreign)] = fmt::format("{:02x}", fmt::join(bytes, " "));
            cs_free(insn, 1);
          }
    cs_close(&handle);
  }
  EXPECT_GT(compared, 50'000u);
  for (const auto& [what, bytes] : wrong) ADD_FAILURE() << what << " " << bytes;
}

}  // namespace
}  // namespace retrovisor
