// Code that writes itself: what runs next is what is in memory, however the run is cut.
#include "tests/unit/soft/system_machine.h"

namespace retrovisor::soft {
namespace {

class SelfModifying : public SystemMachine {
 protected:
  // Runs `count` instructions in one piece and, after `prepare` once more, one by one; the registers must agree.
  template <class Prepare>
  void expect_same_in_steps(Prepare prepare, unsigned count) {
    prepare();
    run(count);
    const auto gpr = s().gpr;
    const uint64_t rip = s().rip, rflags = s().rflags;
    prepare();
    for (unsigned i = 0; i < count; ++i) run(1);
    EXPECT_EQ(s().gpr, gpr);
    EXPECT_EQ(s().rip, rip);
    EXPECT_EQ(s().rflags, rflags);
  }
  void put_code(uint64_t at, std::initializer_list<uint8_t> text) {
    memory->write(PhysAddr(at), std::span<const uint8_t>(text.begin(), text.size()));
  }
};

TEST_F(SelfModifying, rep_stos_that_overwrites_itself_is_fetched_again) {
  const auto prepare = [this] {
    enter_long(0);
    put_code(kCode, {0x90, 0x90, 0x90, 0xf3, 0xaa, 0x90, 0x90, 0x90});  // rep stosb at kCode + 3
    s().rip = kCode + 3;
    s().gpr[RAX] = 0x90;
    s().gpr[RDI] = kCode;
    s().gpr[RCX] = 100;
  };
  prepare();
  // The fourth iteration makes F3 AA into 90 AA: NOP, then STOSB without REP.
  run(4);
  EXPECT_EQ(s().rip, kCode + 3);
  EXPECT_EQ(s().gpr[RCX], 96u);
  run(1);
  EXPECT_EQ(s().rip, kCode + 4);
  EXPECT_EQ(s().gpr[RCX], 96u);
  expect_same_in_steps(prepare, 8);
}

TEST_F(SelfModifying, rep_movs_that_overwrites_itself_is_fetched_again) {
  const auto prepare = [this] {
    enter_protected(0);
    put_code(kCode, {0xf3, 0xa4, 0x90, 0x90, 0x90});
    put_code(0x30000, {0x90, 0x40, 0x40, 0x40});  // nop; inc eax ...
    s().gpr[RSI] = 0x30000;
    s().gpr[RDI] = kCode;
    s().gpr[RCX] = 4;
  };
  expect_same_in_steps(prepare, 3);
  EXPECT_EQ(s().gpr[RCX], 3u);  // one iteration, then NOP MOVSB
  EXPECT_EQ(s().gpr[RDI], kCode + 2);
}

TEST_F(SelfModifying, rep_movs_down_into_itself_is_fetched_again) {
  const auto prepare = [this] {
    enter_protected(0);
    put_code(kCode, {0x90, 0xf3, 0xa5, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90});
    for (unsigned i = 0; i < 8; ++i) put<uint32_t>(0x30000 + i * 4, 0x90909090);
    s().rflags |= flag::DF;
    s().rip = kCode + 1;
    s().gpr[RSI] = 0x30000 + 28;
    s().gpr[RDI] = kCode + 9;
    s().gpr[RCX] = 8;
  };
  expect_same_in_steps(prepare, 6);
  EXPECT_EQ(s().gpr[RCX], 5u);
}

TEST_F(SelfModifying, rep_stos_over_other_code_goes_on) {
  enter_long(0);
  put_code(kCode, {0xeb, 0x10});
  put_code(kCode + 0x12, {0xf3, 0xaa, 0xeb, 0xfe});
  s().gpr[RAX] = 0x90;
  s().gpr[RDI] = kCode;
  s().gpr[RCX] = 16;
  run(1 + 16 + 5);
  EXPECT_EQ(s().rip, kCode + 0x14);
  EXPECT_EQ(s().gpr[RCX], 0u);
  EXPECT_EQ(at<uint64_t>(kCode + 8), 0x9090909090909090u);
}

TEST_F(SelfModifying, read_modify_write_across_a_page_end_into_code_happens_once) {
  enter_long(0);
  put<uint16_t>(kCode - 2, 0);                       // in the page before; what follows is the operand's upper half:
  put_code(kCode, {0x90, 0x90, 0xeb, 0x0c});         // nop; nop; jmp kCode + 0x10
  put_code(kCode + 0x10, {0xff, 0x0f, 0xeb, 0xfc});  // dec dword [rdi]; jmp back to it
  s().gpr[RDI] = kCode - 2;
  changed();
  run(5);
  EXPECT_EQ(at<uint32_t>(kCode - 2), 0x908fffffu);
  run(2);
  EXPECT_EQ(at<uint32_t>(kCode - 2), 0x908ffffeu);
}

TEST_F(SelfModifying, read_modify_write_across_the_end_of_ram_happens_once) {
  // The second page is nobody's: reads as ones, and what is written to it vanishes.
  enter_protected(0);
  put<uint16_t>(kVideoHoleBegin - 2, 0);
  put_code(kCode, {0x90, 0xff, 0x0f, 0x90});  // nop; dec dword [edi]; nop
  s().gpr[RDI] = kVideoHoleBegin - 2;
  changed();
  run(3);
  EXPECT_EQ(at<uint16_t>(kVideoHoleBegin - 2), 0xffffu);
}

}  // namespace
}  // namespace retrovisor::soft
