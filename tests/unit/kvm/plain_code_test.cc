// Which instructions are plain, and in which states they are not.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "vmm/kvm/plain_code.h"

namespace retrovisor::kvm {
namespace {

using Bytes = std::vector<uint8_t>;
constexpr uint64_t kCode = 0x8000, kData = 0x9000, kStack = 0xa800, kAbsent = 0xb000, kReadOnly = 0xc000, kUser = 0xd000;
constexpr uint64_t kTables = 0x1000;

class PlainCodeTest : public ::testing::Test {
 protected:
  PlainCodeTest() : memory(std::move(GuestMemory::create(kMinRam)).value()) {
    for (Segment& g : s.segment) g = {0, 0xffffffff, seg::P | seg::S | seg::DB | seg::G | 3, 0x18};
    s.segment[CS] = {0, 0xffffffff, seg::P | seg::S | seg::DB | seg::G | 11, 0x10};
    s.cr0 = cr0::ET | cr0::NE | cr0::PE;
    s.rip = kCode;
    s.gpr[RSP] = kStack;
    s.gpr[RBX] = kData;
  }
  void put(uint64_t at, uint64_t value) {
    uint8_t bytes[8];
    std::memcpy(bytes, &value, 8);
    memory->write(PhysAddr(at), bytes);
  }
  // 64-bit code; the lowest 64 KiB mapped one to one in small pages, but for kAbsent.
  void long_mode() {
    constexpr uint64_t kPdpt = kTables + 0x1000, kPd = kTables + 0x2000, kPt = kTables + 0x3000;
    put(kTables, kPdpt | 7);
    put(kPdpt, kPd | 7);
    put(kPdpt + 8, 0x83);  // one page of 1 GiB
    put(kPd, kPt | 7);
    for (uint64_t page = 0; page < 0x10000; page += kPageSize)
      put(kPt + page / kPageSize * 8, page == kAbsent ? 0 : page == kReadOnly ? page | 1 : page == kUser ? page | 7 : page | 3);
    s.segment[CS].attributes = (s.segment[CS].attributes & ~seg::DB) | seg::L;
    s.cr0 |= cr0::PG;
    s.cr4 = cr4::PAE;
    s.cr3 = kTables;
    s.efer = efer::LME | efer::LMA;
  }
  bool plain(const Bytes& code) {
    memory->write(PhysAddr(kCode), code);
    return plain_code.is_next(s, *memory);
  }

  std::unique_ptr<GuestMemory> memory;
  CpuState s;
  PlainCode plain_code;
};

TEST_F(PlainCodeTest, arithmetic_moves_and_near_branches_are) {
  for (const Bytes& code : {Bytes{0x01, 0xd8},                // add eax, ebx
                            {0x8b, 0x03},                     // mov eax, [ebx]
                            {0x66, 0x89, 0x43, 0x10},         // mov [ebx + 16], ax
                            {0x8d, 0x04, 0x9d, 0, 0, 0, 0xff},  // lea eax, [ebx * 4 + ff000000h]
                            {0x50}, {0x58}, {0xc3},           // push eax; pop eax; ret
                            {0xe8, 0, 1, 0, 0}, {0x75, 0x10}, {0x0f, 0x84, 0, 1, 0, 0}, {0xff, 0xe3},  // call; jnz; jz; jmp ebx
                            {0xe4, 0x61}, {0xee},             // in al, 61h; out dx, al
                            {0x87, 0x03}, {0xc1, 0xe0, 4}, {0xf7, 0xe3}, {0x0f, 0xb6, 0x03}})  // xchg, shl, mul, movzx
    EXPECT_TRUE(plain(code)) << ::testing::PrintToString(code);
}

TEST_F(PlainCodeTest, whatever_does_more_is_not) {
  for (const Bytes& code : {Bytes{0xf7, 0xf3},                // div ebx
                            {0x0f, 0xa2}, {0x0f, 0x31},       // cpuid; rdtsc
                            {0x8e, 0xd8}, {0x8c, 0xd8},       // mov ds, ax; mov eax, ds
                            {0x0f, 0x20, 0xc0}, {0x0f, 0x22, 0xc0}, {0x0f, 0x21, 0xc0},  // cr0, dr0
                            {0xf0, 0x01, 0x03}, {0xf3, 0xa5}, {0xa5},  // lock add; rep movsd; movsd
                            {0x9c}, {0x9d}, {0xfb}, {0xfa}, {0xf4},    // pushfd; popfd; sti; cli; hlt
                            {0xcf}, {0xcb}, {0xcc}, {0xcd, 0x20},      // iret; retf; int3; int
                            {0xea, 0, 0, 0, 0, 8, 0}, {0xff, 0x23}, {0x8f, 0x03},  // jmp far; jmp [ebx]; pop [ebx]
                            {0x1e}, {0x0f, 0xbc, 0xc3}, {0x0f, 0x58, 0xc1}, {0xd9, 0xe8},  // push ds; bsf; addps; fld1
                            {0x0f, 0x0b}, {0x0f, 0x04}})      // ud2; nobody's
    EXPECT_FALSE(plain(code)) << ::testing::PrintToString(code);
}

TEST_F(PlainCodeTest, an_operand_on_two_pages_is_not) {
  s.gpr[RBX] = kData + kPageSize - 4;
  EXPECT_TRUE(plain({0x8b, 0x03}));
  s.gpr[RBX] += 1;
  EXPECT_FALSE(plain({0x8b, 0x03}));
  s.gpr[RSP] = kData + kPageSize + 8;
  EXPECT_FALSE(plain({0x50}));
}

TEST_F(PlainCodeTest, nor_is_code_on_two_pages) {
  const Bytes add = {0x01, 0xd8};
  s.rip = kCode + kPageSize - 2;
  memory->write(PhysAddr(s.rip), add);
  EXPECT_TRUE(plain_code.is_next(s, *memory));
  s.rip += 1;
  memory->write(PhysAddr(s.rip), add);
  EXPECT_FALSE(plain_code.is_next(s, *memory));
}

TEST_F(PlainCodeTest, segments_must_allow_the_access) {
  const Bytes load = {0x8b, 0x03}, store = {0x89, 0x03}, load_es = {0x26, 0x8b, 0x03};
  s.segment[DS].limit = kData + 3;
  EXPECT_TRUE(plain(load));
  s.segment[DS].limit = kData + 2;
  EXPECT_FALSE(plain(load));
  EXPECT_TRUE(plain(load_es));
  s.segment[DS].limit = 0xffffffff;
  s.segment[DS].attributes &= ~uint32_t{seg::readable_or_writable};
  EXPECT_FALSE(plain(store));
  s.segment[DS].attributes = seg::unusable;
  EXPECT_FALSE(plain(load));
  s.segment[CS].limit = kCode + 1;
  EXPECT_TRUE(plain({0x01, 0xd8}));
  EXPECT_FALSE(plain({0xeb, 0x10}));
}

TEST_F(PlainCodeTest, pages_must_allow_the_access) {
  long_mode();
  const Bytes load = {0x8b, 0x03}, store = {0x89, 0x03};
  EXPECT_TRUE(plain(load));
  EXPECT_TRUE(plain(store));
  s.gpr[RBX] = kAbsent;
  EXPECT_FALSE(plain(load));
  s.gpr[RBX] = kReadOnly;
  EXPECT_TRUE(plain(load));
  EXPECT_FALSE(plain(store));
  EXPECT_TRUE(plain({0x3b, 0x03}));   // cmp eax, [rbx]
  EXPECT_FALSE(plain({0x01, 0x03}));  // add [rbx], eax
  EXPECT_FALSE(plain({0x87, 0x03}));
  s.gpr[RBX] = kUser;
  EXPECT_TRUE(plain(load));
  s.cr4 |= cr4::SMAP;
  EXPECT_FALSE(plain(load));
  s.gpr[RBX] = uint64_t{1} << 30;
  EXPECT_FALSE(plain(load)) << "a page of 1 GiB";
  s.gpr[RBX] = uint64_t{1} << 47;
  EXPECT_FALSE(plain(load)) << "not canonical";
  s.gpr[RSP] = kReadOnly + 0x100;
  EXPECT_FALSE(plain({0x50}));
}

TEST_F(PlainCodeTest, branches_must_lead_somewhere) {
  long_mode();
  put(kStack, kCode);
  EXPECT_TRUE(plain({0xc3}));
  put(kStack, uint64_t{1} << 47);
  EXPECT_FALSE(plain({0xc3}));
  s.gpr[RAX] = kCode;
  EXPECT_TRUE(plain({0xff, 0xe0}));
  s.gpr[RAX] = uint64_t{1} << 47;
  EXPECT_FALSE(plain({0xff, 0xe0}));
}

TEST_F(PlainCodeTest, the_state_decides_too) {
  const Bytes add = {0x01, 0xd8};
  EXPECT_TRUE(plain(add));
  const CpuState before = s;
  s.rflags |= flag::TF;
  EXPECT_FALSE(plain(add));
  s = before;
  s.rflags |= flag::RF;
  EXPECT_FALSE(plain(add));
  s = before;
  s.dr7 |= 2;
  EXPECT_FALSE(plain(add));
  s = before;
  s.segment[SS].attributes |= seg::DPL;
  EXPECT_FALSE(plain(add)) << "a program";
  s = before;
  s.cr0 |= cr0::PG;
  EXPECT_FALSE(plain(add)) << "32-bit paging";
}

}  // namespace
}  // namespace retrovisor::kvm
