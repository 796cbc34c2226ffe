// ORC tables and stacks made by hand.
#include "analysis/linux/unwind.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <utility>

#include "vmm/cpu/registers.h"

namespace retrovisor {
namespace {

constexpr uint64_t kCode = 0xffffffff81000000, kTable = 0xffffffff82000000;

// An entry as the kernel packs it: the register numbers and types are the kernel's own.
struct Raw {
  uint64_t ip;
  int sp_offset, bp_offset;
  unsigned sp_reg, bp_reg, rest;  // `rest`: from bit 8 on
};

struct Image {
  std::vector<uint8_t> bytes;
  uint64_t entries = 0;
  uint64_t count = 0;
  explicit Image(const std::vector<Raw>& raw) : entries(kTable + raw.size() * 4), count(raw.size()) {
    const auto put = [this](int64_t value, int size) {
      for (int i = 0; i < size; ++i) bytes.push_back(static_cast<uint8_t>(value >> 8 * i));
    };
    for (size_t i = 0; i < raw.size(); ++i) put(static_cast<int64_t>(raw[i].ip - (kTable + 4 * i)), 4);
    for (const Raw& r : raw) {
      put(r.sp_offset, 2);
      put(r.bp_offset, 2);
      put(r.sp_reg | r.bp_reg << 4 | r.rest << 8, 2);
    }
  }
  Result<OrcTable> table() const { return OrcTable::read(ImageMemory(kTable, bytes), kTable, entries, count); }
};

enum : unsigned { kUndefined = 0, kPrevSp = 1, kDi = 3, kBp = 4, kSp = 5, kR10 = 6, kBpIndirect = 8, kSpIndirect = 9 };

TEST(Orc, packings_are_told_apart_by_their_entries) {
  const auto types = [](const Result<OrcTable>& t) {
    std::vector<OrcType> out;
    for (uint64_t ip = kCode; ip < kCode + 0x60; ip += 0x10) out.push_back(t->find(ip)->type);
    return out;
  };
  const std::vector<OrcType> expected{OrcType::call, OrcType::call, OrcType::call, OrcType::regs, OrcType::regs_partial, OrcType::end_of_stack};
  // Up to 6.2: type in two bits, then the end.
  const auto old = Image({{kCode, 8, 0, kSp, 0, 0}, {kCode + 0x10, 16, 0, kSp, 0, 0}, {kCode + 0x20, 8, 0, kSp, 0, 0},
                          {kCode + 0x30, 0, 0, kSp, 0, 1}, {kCode + 0x40, 8, 0, kSp, 0, 2}, {kCode + 0x50, 0, 0, kSp, 0, 4}}).table();
  ASSERT_TRUE(old.ok());
  EXPECT_EQ(old->packing(), OrcPacking::end_bit);
  EXPECT_EQ(types(old), expected);
  // 6.3: a signal bit before the end.
  const auto middle = Image({{kCode, 8, 0, kSp, 0, 0}, {kCode + 0x10, 16, 0, kSp, 0, 0}, {kCode + 0x20, 8, 0, kSp, 0, 0},
                             {kCode + 0x30, 0, 0, kSp, 0, 1 | 4}, {kCode + 0x40, 8, 0, kSp, 0, 2 | 4}, {kCode + 0x50, 0, 0, kSp, 0, 8}}).table();
  ASSERT_TRUE(middle.ok());
  EXPECT_EQ(middle->packing(), OrcPacking::signal_and_end);
  EXPECT_EQ(types(middle), expected);
  // From 6.4 on: five types.
  const auto now = Image({{kCode, 8, 0, kSp, 0, 2}, {kCode + 0x10, 16, 0, kSp, 0, 2}, {kCode + 0x20, 8, 0, kSp, 0, 2},
                          {kCode + 0x30, 0, 0, kSp, 0, 3 | 8}, {kCode + 0x40, 8, 0, kSp, 0, 4 | 8}, {kCode + 0x50, 0, 0, 0, 0, 1}}).table();
  ASSERT_TRUE(now.ok());
  EXPECT_EQ(now->packing(), OrcPacking::wide_type);
  EXPECT_EQ(types(now), expected);
}

TEST(Orc, an_entry_reaches_to_the_next) {
  const auto t = Image({{kCode, 8, 0, kSp, 0, 0}, {kCode + 1, 16, -16, kSp, kPrevSp, 0}, {kCode + 0x40, 0, 0, kUndefined, 0, 0}}).table();
  ASSERT_TRUE(t.ok());
  EXPECT_FALSE(t->find(kCode - 1).has_value());
  EXPECT_EQ(t->find(kCode)->sp_offset, 8);
  EXPECT_EQ(t->find(kCode + 1)->sp_offset, 16);
  EXPECT_EQ(t->find(kCode + 0x3f)->bp_offset, -16);
  EXPECT_EQ(t->find(kCode + 0x40)->type, OrcType::undefined);
}

TEST(Orc, damage_is_an_error) {
  const Image good({{kCode, 8, 0, kSp, 0, 0}, {kCode + 8, 8, 0, kSp, 0, 0}});
  const ImageMemory memory(kTable, good.bytes);
  EXPECT_TRUE(OrcTable::read(memory, kTable, good.entries, 2).ok());
  for (const uint64_t count : {uint64_t{0}, uint64_t{3}, uint64_t{4'000'001}, UINT64_MAX})
    EXPECT_FALSE(OrcTable::read(memory, kTable, good.entries, count).ok()) << count;
  EXPECT_FALSE(OrcTable::read(memory, kTable, kTable - 6, 2).ok());
  const auto unsorted = Image({{kCode + 8, 8, 0, kSp, 0, 0}, {kCode, 8, 0, kSp, 0, 0}}).table();
  ASSERT_FALSE(unsorted.ok());
  EXPECT_NE(unsorted.error().message.find("is not sorted: 0xffffffff81000000 is behind 0xffffffff81000008"), std::string::npos);
}

constexpr uint64_t kStack = 0xffffc90000010000, kStackSize = 0x1000;

class Stack : public ::testing::Test, public KernelMemory {
 protected:
  size_t read(uint64_t at, std::span<uint8_t> out) const override { return ImageMemory(kStack, bytes).read(at, out); }
  void put(uint64_t at, uint64_t value) { std::memcpy(&bytes[at - kStack], &value, 8); }
  // A struct pt_regs.
  void put_regs(uint64_t at, uint64_t ip, uint64_t cs, uint64_t sp) {
    for (uint64_t i = 0; i < 15; ++i) put(at + 8 * i, 0x100 + i);
    put(at + 120, UINT64_MAX);
    put(at + 128, ip);
    put(at + 136, cs);
    put(at + 152, sp);
  }
  static FrameRegisters at(uint64_t ip, uint64_t sp, uint64_t bp = 0) {
    FrameRegisters f;
    f.ip = ip;
    f.gpr[RSP] = sp;
    f.gpr[RBP] = bp;
    return f;
  }
  Unwinder unwinder() const {
    return Unwinder(*this, [this](uint64_t ip) -> std::optional<OrcEntry> {
      const auto found = entries.find(ip);
      if (found == entries.end()) return std::nullopt;
      return found->second;
    });
  }
  std::vector<uint8_t> bytes = std::vector<uint8_t>(kStackSize);
  std::map<uint64_t, OrcEntry> entries;
};

TEST_F(Stack, a_call_is_looked_up_where_it_is_and_an_interrupted_instruction_where_it_stands) {
  // Interrupted at 0x10; its caller's call ends at 0x20, where another function begins.
  entries[kCode + 0x10] = {24, -16, OrcRegister::sp, OrcRegister::prev_sp, OrcType::call};
  entries[kCode + 0x1f] = {8, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::call};
  entries[kCode + 0x20] = {800, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::call};
  entries[kCode + 0x2f] = {0, 0, OrcRegister::undefined, OrcRegister::undefined, OrcType::end_of_stack};
  put(kStack + 0x108, 0xbb);            // RBP, saved
  put(kStack + 0x110, kCode + 0x20);    // back to the caller
  put(kStack + 0x118, kCode + 0x30);
  UnwindEnd end{};
  const auto frames = unwinder().frames(at(kCode + 0x10, kStack + 0x100, 1), 10, &end);
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_EQ(end, UnwindEnd::outermost);
  EXPECT_EQ(frames[1].ip, kCode + 0x20);
  EXPECT_FALSE(frames[1].exact);
  EXPECT_EQ(frames[1].gpr[RSP], kStack + 0x118);
  EXPECT_EQ(frames[1].gpr[RBP], 0xbbu);
  EXPECT_FALSE(frames[1].gpr[RBX].has_value());
  EXPECT_EQ(frames[2].ip, kCode + 0x30);
  EXPECT_EQ(frames[2].gpr[RBP], 0xbbu);  // not touched
}

TEST_F(Stack, an_interrupt_leads_to_the_registers_that_it_saved) {
  entries[kCode] = {0, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::regs};
  entries[kCode + 0x50] = {0, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::regs};
  put_regs(kStack + 0x40, kCode + 0x50, 0x10, kStack + 0x200);
  put_regs(kStack + 0x200, 0x401000, 0x33, 0x7fff1000);
  UnwindEnd end{};
  const auto frames = unwinder().frames(at(kCode, kStack + 0x40), 10, &end);
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_TRUE(frames[1].exact);
  EXPECT_EQ(frames[1].gpr[R15], 0x100u);
  EXPECT_EQ(frames[1].gpr[RDI], 0x10eu);
  EXPECT_EQ(frames[1].gpr[RBP], 0x104u);
  EXPECT_EQ(end, UnwindEnd::user);
  EXPECT_TRUE(frames[2].user);
  EXPECT_EQ(frames[2].ip, 0x401000u);
  EXPECT_EQ(frames[2].gpr[RSP], 0x7fff1000u);
  // A program's caller is not ours to tell.
  EXPECT_EQ(unwinder().step(frames[2]).end, UnwindEnd::unknown);
}

TEST_F(Stack, entry_code_has_the_processor_s_frame_alone) {
  entries[kCode] = {8, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::regs_partial};
  put(kStack + 0x48, kCode + 0x77);
  put(kStack + 0x50, 0x10);
  put(kStack + 0x60, kStack + 0x300);
  const UnwindStep s = unwinder().step(at(kCode, kStack + 0x40, 5));
  EXPECT_EQ(s.end, UnwindEnd::none);
  EXPECT_EQ(s.caller.ip, kCode + 0x77);
  EXPECT_TRUE(s.caller.exact);
  EXPECT_EQ(s.caller.gpr[RSP], kStack + 0x300);
  EXPECT_EQ(s.caller.gpr[RBP], 5u);
}

TEST_F(Stack, stacks_are_switched_through_memory) {
  // *(RSP) + 8, and *(RBP + 16).
  entries[kCode] = {8, 0, OrcRegister::sp_indirect, OrcRegister::undefined, OrcType::call};
  entries[kCode + 1] = {16, 0, OrcRegister::bp_indirect, OrcRegister::undefined, OrcType::call};
  put(kStack + 0x800, kStack + 0x100);
  put(kStack + 0x100, kCode + 0x99);
  UnwindStep s = unwinder().step(at(kCode, kStack + 0x800));
  EXPECT_EQ(s.caller.ip, kCode + 0x99);
  EXPECT_EQ(s.cfa, kStack + 0x108);
  put(kStack + 0x800, kStack + 0x108);
  s = unwinder().step(at(kCode + 1, 0, kStack + 0x7f0));
  EXPECT_EQ(s.caller.ip, kCode + 0x99);
  // Through R10, where it is known.
  entries[kCode + 2] = {0, 0, OrcRegister::r10, OrcRegister::undefined, OrcType::call};
  FrameRegisters f = at(kCode + 2, kStack + 0x800);
  EXPECT_EQ(unwinder().step(f).end, UnwindEnd::unknown);
  f.gpr[R10] = kStack + 0x108;
  EXPECT_EQ(unwinder().step(f).end, UnwindEnd::unreadable);  // not a switch by memory: this leads downwards
  f.gpr[RSP] = kStack + 0x80;
  EXPECT_EQ(unwinder().step(f).caller.ip, kCode + 0x99);
}

TEST_F(Stack, a_call_of_nothing_and_code_without_a_table) {
  put(kStack + 0x10, kCode + 0x12);
  UnwindStep s = unwinder().step(at(0, kStack + 0x10));
  EXPECT_EQ(s.caller.ip, kCode + 0x12);
  EXPECT_EQ(s.cfa, kStack + 0x18);
  put(kStack + 0x20, kStack + 0x80);
  put(kStack + 0x28, kCode + 0x34);
  s = unwinder().step(at(0xffffffffc0000000, kStack + 0x10, kStack + 0x20));
  EXPECT_TRUE(s.by_frame_pointer);
  EXPECT_EQ(s.caller.ip, kCode + 0x34);
  EXPECT_EQ(s.caller.gpr[RBP], kStack + 0x80);
}

TEST_F(Stack, hostile_stacks_end) {
  entries[kCode] = {8, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::call};
  entries[kCode - 1] = {-8, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::call};
  for (uint64_t i = 0; i < kStackSize; i += 8) put(kStack + i, kCode);
  UnwindEnd end{};
  // The second step would lead downwards.
  EXPECT_EQ(unwinder().frames(at(kCode, kStack + 0x800), 1000, &end).size(), 2u);
  EXPECT_EQ(end, UnwindEnd::unreadable);
  // Round and round, by a frame that was interrupted in itself: bounded by what is asked for.
  entries[kCode] = {0, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::regs};
  put_regs(kStack, kCode, 0x10, kStack);
  EXPECT_EQ(unwinder().frames(at(kCode, kStack), 100, &end).size(), 100u);
  EXPECT_EQ(end, UnwindEnd::none);
  // Behind the end.
  EXPECT_EQ(unwinder().step(at(kCode, kStack + kStackSize - 8)).end, UnwindEnd::unreadable);
}

}  // namespace
}  // namespace retrovisor
