// What the builder of blocks says of them: why they end, which flags are live, and which ops they become.
#include "vmm/soft/decoded_block.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

#include "vmm/cpu/registers.h"
#include "vmm/soft/block_ops.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

constexpr uint8_t kFlat64 = block_mode::code64 | block_mode::flat;
constexpr unsigned kPage = 4096;

struct Sample {
  DecodedBlock decoded;
  Block block;
  std::vector<Op> ops;
};

Sample build(std::initializer_list<uint8_t> bytes, uint8_t mode = kFlat64, unsigned most = kMaxBlockInsns, unsigned in_page = kPage,
             const BlockCuts* cuts = nullptr) {
  const std::vector<uint8_t> copy(bytes);
  Sample out;
  decode_block({copy, in_page}, {.mode = mode}, most, cuts, out.decoded);
  if (out.decoded.empty()) return out;
  out.block.phys = kPage - in_page;
  out.block.mode = mode;
  out.ops.resize(kMaxBlockOps);
  out.ops.resize(make_ops(out.decoded, true, out.block, out.ops.data()));
  return out;
}

TEST(DecodedBlock, says_why_it_ends) {
  EXPECT_EQ(build({0x90, 0xeb, 0xfd}).decoded.end(), BlockEnd::branch);
  EXPECT_EQ(build({0x90, 0xe2, 0xfd}).decoded.end(), BlockEnd::branch);
  EXPECT_EQ(build({0x90, 0xc3}).decoded.end(), BlockEnd::indirect);
  EXPECT_EQ(build({0x90, 0xff, 0xe0}).decoded.end(), BlockEnd::indirect);
  EXPECT_EQ(build({0x90, 0xf3, 0xa4}).decoded.end(), BlockEnd::repeat);
  EXPECT_EQ(build({0x90, 0x0f, 0xa2}).decoded.end(), BlockEnd::system);
  EXPECT_EQ(build({0x90, 0x0f, 0x0b}).decoded.end(), BlockEnd::undefined);      // no emitter knows it
  EXPECT_EQ(build({0x90, 0x0f, 0x04}).decoded.end(), BlockEnd::undefined);      // nor the decoder
  EXPECT_EQ(build({0x90, 0xa4, 0x90}).decoded.end(), BlockEnd::bytes_end);      // MOVSB without REP goes on
  EXPECT_EQ(build({0x90, 0x48, 0x01}).decoded.end(), BlockEnd::bytes_end);
  EXPECT_EQ(build({0x90, 0x90, 0x90}, kFlat64, 2).decoded.end(), BlockEnd::most_instructions);
  EXPECT_EQ(build({0x90, 0x90, 0x90, 0x90}, kFlat64, kMaxBlockInsns, 2).decoded.end(), BlockEnd::page_end);
  EXPECT_EQ(build({0x90, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}).decoded.end(),
            BlockEnd::too_long);
}

TEST(DecodedBlock, is_empty_without_a_whole_instruction) {
  EXPECT_TRUE(build({}).decoded.empty());
  EXPECT_EQ(build({0x48}).decoded.end(), BlockEnd::bytes_end);
  EXPECT_EQ(build({0x48, 0x8b, 0x84}).decoded.count(), 0u);
}

TEST(DecodedBlock, ends_behind_an_instruction_that_becomes_undefined) {
  // lock mov [rax], eax: decodes, but no processor takes it
  const Sample s = build({0x01, 0xd8, 0xf0, 0x89, 0x00, 0x90, 0x90, 0xc3});
  EXPECT_EQ(s.decoded.count(), 2u);
  EXPECT_EQ(s.decoded.size(), 5u);
  EXPECT_EQ(s.decoded.end(), BlockEnd::undefined);
  EXPECT_EQ(s.block.count, 2);
  EXPECT_EQ(s.block.size, 5);
  EXPECT_EQ(s.ops.size(), 2u);
  EXPECT_EQ(s.decoded.instructions()[0].live, kBlockFlags);  // #UD pushes them
}

TEST(DecodedBlock, ends_where_its_reader_cuts_it) {
  struct At final : BlockCuts {
    bool cut_behind(unsigned begin, unsigned end) const override {
      asked.push_back({begin, end});
      return end == 3;
    }
    mutable std::vector<std::pair<unsigned, unsigned>> asked;
  } cuts;
  const Sample s = build({0x90, 0x89, 0xd8, 0x90, 0x90}, kFlat64, kMaxBlockInsns, kPage, &cuts);
  EXPECT_EQ(s.decoded.end(), BlockEnd::cut);
  EXPECT_EQ(s.decoded.size(), 3u);
  EXPECT_EQ(cuts.asked, (std::vector<std::pair<unsigned, unsigned>>{{0, 1}, {1, 3}}));
}

TEST(DecodedBlock, keeps_bytes_and_targets) {
  const Sample s = build({0x90, 0x48, 0x83, 0xe9, 0x01, 0x75, 0xf9});
  ASSERT_EQ(s.decoded.count(), 3u);
  const DecodedInsn& sub = s.decoded.instructions()[1];
  EXPECT_EQ(sub.offset, 1);
  EXPECT_EQ(std::vector<uint8_t>(sub.bytes.begin(), sub.bytes.begin() + sub.insn.length), (std::vector<uint8_t>{0x48, 0x83, 0xe9, 0x01}));
  EXPECT_EQ(s.decoded.last().flow, Flow::conditional);
  EXPECT_EQ(s.decoded.last().target(), 0);
  EXPECT_EQ(s.block.target, 0);
}

TEST(DecodedBlock, knows_which_flags_are_live) {
  constexpr auto carry = static_cast<uint16_t>(flag::CF);
  constexpr auto df = static_cast<uint16_t>(flag::DF);
  // add eax, ebx; mov ecx, eax; adc edx, ecx; lea esi, [rdx+1]; xor edi, edi; jmp
  const Sample s = build({0x01, 0xd8, 0x89, 0xc1, 0x11, 0xca, 0x8d, 0x72, 0x01, 0x31, 0xff, 0xeb, 0x00});
  ASSERT_EQ(s.decoded.count(), 6u);
  const auto live = [](const Sample& of, unsigned i) { return of.decoded.instructions()[i].live; };
  EXPECT_EQ(live(s, 0), carry | df);   // ADD: its carry goes into ADC
  EXPECT_EQ(live(s, 1), carry | df);   // MOV passes it on
  EXPECT_EQ(live(s, 2), df);           // XOR replaces what ADC leaves
  EXPECT_EQ(live(s, 3), df);
  EXPECT_EQ(live(s, 4), kBlockFlags);  // the end

  // What can fault shows all of them to a handler: add eax, ebx; mov ecx, [rax]; xor edi, edi; jmp
  EXPECT_EQ(live(build({0x01, 0xd8, 0x8b, 0x08, 0x31, 0xff, 0xeb, 0x00}), 0), kBlockFlags);
  // A shift by CL may leave them as they were: add eax, ebx; shl eax, cl; xor edi, edi; jmp. By five it does not.
  EXPECT_EQ(live(build({0x01, 0xd8, 0xd3, 0xe0, 0x31, 0xff, 0xeb, 0x00}), 0), df);
  EXPECT_EQ(live(build({0x01, 0xd8, 0xd3, 0xe0, 0xeb, 0x00}), 0), kBlockFlags);
  EXPECT_EQ(live(build({0x01, 0xd8, 0xc1, 0xe0, 0x05, 0xeb, 0x00}), 0), df);
  // INC keeps the carry: add eax, ebx; inc eax; jmp
  EXPECT_EQ(live(build({0x01, 0xd8, 0xff, 0xc0, 0xeb, 0x00}), 0), carry | df);
}

TEST(DecodedBlock, a_comparison_and_its_branch_become_one_op) {
  EXPECT_EQ(build({0x48, 0x39, 0xd8, 0x74, 0x00}).ops.size(), 1u);                         // cmp rax, rbx; je
  EXPECT_EQ(build({0x48, 0x39, 0x18, 0x74, 0x00}).ops.size(), 2u);                         // with memory: not
  EXPECT_EQ(build({0x48, 0x39, 0xd8, 0x90, 0x74, 0x00}).ops.size(), 3u);                   // not next to each other
  EXPECT_EQ(build({0x39, 0xd8, 0x74, 0x00}, block_mode::code32 | block_mode::flat).ops.size(), 2u);
  const Sample cut = build({0x48, 0x39, 0xd8, 0x74, 0x00}, kFlat64, 1);
  EXPECT_EQ(cut.decoded.count(), 1u);
  EXPECT_EQ(cut.ops.size(), 2u);  // the comparison, and what goes on behind it
}

TEST(DecodedBlock, checks_of_the_fpu_are_ops_of_their_own_where_they_are_needed) {
  EXPECT_EQ(build({0xd9, 0xe8, 0xeb, 0x00}).ops.size(), 2u);
  EXPECT_EQ(build({0xd9, 0xe8, 0xeb, 0x00}, kFlat64 | block_mode::fpu_trap).ops.size(), 3u);
}

TEST(DecodedBlock, memory_operands_of_stack_and_strings_are_named) {
  const auto operands = [](std::initializer_list<uint8_t> bytes) { return build(bytes).decoded.instructions()[0].memory(); };
  const MemoryOperands push = operands({0x50, 0xc3});
  ASSERT_EQ(push.count, 1);
  EXPECT_EQ(push.list[0].use, MemoryUse::write);
  EXPECT_EQ(push.list[0].base, RSP);
  EXPECT_EQ(push.list[0].displacement, -8);
  EXPECT_EQ(push.list[0].size, 8);
  const MemoryOperands movs = operands({0xf3, 0x65, 0xa5});  // rep movs dword es:[rdi], gs:[rsi]
  ASSERT_EQ(movs.count, 2);
  EXPECT_EQ(movs.list[0].segment, GS);
  EXPECT_EQ(movs.list[0].use, MemoryUse::read);
  EXPECT_EQ(movs.list[1].segment, ES);
  EXPECT_EQ(movs.list[1].use, MemoryUse::write);
  EXPECT_EQ(movs.list[1].size, 4);
  const MemoryOperands push_memory = operands({0xff, 0x70, 0x10, 0xc3});  // push [rax+16]
  ASSERT_EQ(push_memory.count, 2);
  EXPECT_EQ(push_memory.list[0].displacement, 16);
  EXPECT_TRUE(push_memory.list[1].implicit);
}

}  // namespace
}  // namespace retrovisor::soft
