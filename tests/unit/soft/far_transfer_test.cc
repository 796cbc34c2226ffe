// Far transfers, fast system calls and hardware task switches, run through the engine.
#include "tests/unit/soft/system_machine.h"

namespace retrovisor::soft {
namespace {

class FarTransferTest : public SystemMachine {
 protected:
  // A second task at kTss2, described by kFree, with its own stack; it runs at `eip`.
  void fill_task(uint32_t eip, uint16_t trap = 0) {
    gdt(kFree, descriptor(kTss2, 0x67, seg::P | 9));
    put<uint32_t>(kTss2 + 0x20, eip);
    put<uint32_t>(kTss2 + 0x24, 2);
    put<uint32_t>(kTss2 + 0x28, 0x1234);  // EAX
    put<uint32_t>(kTss2 + 0x38, kIst);
    for (unsigned i = 0; i < 6; ++i) put<uint16_t>(kTss2 + 0x48 + i * 4, i == CS ? kCode0 : kData0);
    put<uint16_t>(kTss2 + 0x64, trap);
    gdt(kTssSelector, descriptor(kTss, 0x67, seg::P | 11));
  }
  uint8_t type_of(uint16_t selector) { return at<uint8_t>(kGdt + selector + 5) & 15; }
  // jmp or call kFree:0 (opcode EA or 9A), in 32-bit code.
  void far_direct(uint8_t opcode, uint16_t selector, uint32_t offset) {
    code({opcode, static_cast<uint8_t>(offset), static_cast<uint8_t>(offset >> 8), static_cast<uint8_t>(offset >> 16),
          static_cast<uint8_t>(offset >> 24), static_cast<uint8_t>(selector), static_cast<uint8_t>(selector >> 8)});
  }
  static constexpr uint8_t kJump = 0xea, kCall = 0x9a;
};

TEST_F(FarTransferTest, real_mode_jump_loads_the_base_and_keeps_the_limit) {
  enter_real();
  s().segment[CS].limit = 0xfffff;
  code({0xea, 0x34, 0x12, 0x00, 0x40});
  run();
  EXPECT_EQ(s().segment[CS].base, 0x40000u);
  EXPECT_EQ(s().segment[CS].limit, 0xfffffu);
  EXPECT_EQ(s().rip, 0x1234u);
}

TEST_F(FarTransferTest, real_mode_call_and_return) {
  enter_real();
  code({0x9a, 0x00, 0x00, 0x00, 0x40});
  bytes(0x40000, {0xca, 0x04, 0x00});
  run();
  EXPECT_EQ(at<uint16_t>(kStack - 4), 5);
  EXPECT_EQ(at<uint16_t>(kStack - 2), kCode >> 4);
  run();
  EXPECT_EQ(s().segment[CS].base, kCode);
  EXPECT_EQ(s().rip, 5u);
  EXPECT_EQ(s().gpr[RSP], kStack + 4);
}

TEST_F(FarTransferTest, enters_protected_mode_from_real_mode) {
  enter_real();
  fill_gdt(seg::DB);
  // mov cr0, eax; jmp 8:00013000 (operand size 32)
  s().gpr[RAX] = s().cr0 | cr0::PE;
  code({0x0f, 0x22, 0xc0, 0x66, 0xea, 0x00, 0x30, 0x01, 0x00, 0x08, 0x00});
  run(2);
  EXPECT_TRUE(s().protected_mode());
  EXPECT_EQ(s().rip, 0x13000u);
  EXPECT_EQ(s().segment[CS].limit, 0xffffffffu);
  EXPECT_NE(s().segment[CS].attributes & seg::DB, 0u);
}

TEST_F(FarTransferTest, jump_checks_null_table_type_privilege_and_presence) {
  struct Case {
    uint16_t selector;
    uint64_t descriptor;
    unsigned vector;
    uint32_t error;
  };
  const Case cases[] = {
      {0, 0, vec::GP, 0},
      {3, 0, vec::GP, 0},
      {0x200, 0, vec::GP, 0x200},                                                // beyond the table
      {kFree | 4, 0, vec::GP, kFree | 4},                                        // no LDT
      {kFree, flat_data(0), vec::GP, kFree},                                     // data
      {kFree, flat_code(3, seg::DB), vec::GP, kFree},                            // outer level
      {kFree | 3, flat_code(0, seg::DB), vec::GP, kFree},                        // RPL above CPL
      {kFree, flat_code(0, seg::DB) & ~(uint64_t{0x80} << 40), vec::NP, kFree},  // absent
      {kFree, descriptor(0, 0xff, seg::P | seg::S | seg::DB | 11), vec::GP, 0},  // offset beyond the limit
      {kFree, descriptor(0, 0, seg::P | 14), vec::GP, kFree},                    // interrupt gate
  };
  for (const Case& c : cases) {
    enter_protected(0);
    if ((c.selector & 0xfffc) == kFree) gdt(kFree, c.descriptor);
    far_direct(kJump, c.selector, 0x12000);
    run();
    EXPECT_EQ(s().rip, handler(c.vector)) << std::hex << c.selector;
    EXPECT_EQ(error(), c.error) << std::hex << c.selector;
    EXPECT_EQ(at<uint32_t>(s().gpr[RSP] + 4), kCode);
  }
}

TEST_F(FarTransferTest, jump_to_a_conforming_segment_keeps_the_privilege_level) {
  enter_protected(3);
  gdt(kFree, descriptor(0, 0xfffff, seg::P | seg::S | seg::G | seg::DB | 0xe));
  far_direct(kJump, kFree, 0x12000);
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().segment[CS].selector, kFree | 3);
  EXPECT_EQ(s().cpl(), 3u);
  EXPECT_EQ(at<uint8_t>(kGdt + kFree + 5) & 1, 1);  // accessed
}

TEST_F(FarTransferTest, call_gate_copies_parameters_and_return_drops_inner_segments) {
  enter_protected(3);
  gdt(kFree, gate(kCode0, 0x12000, 12, 3, 2));
  put<uint32_t>(kUserStack, 0x11111111);
  put<uint32_t>(kUserStack + 4, 0x22222222);
  far_direct(kCall, kFree | 3, 0xdeadbeef);
  bytes(0x12000, {0xca, 0x08, 0x00});  // retf 8
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().cpl(), 0u);
  EXPECT_EQ(s().segment[CS].selector, kCode0);
  EXPECT_EQ(s().gpr[RSP], kStack0 - 24);
  EXPECT_EQ(at<uint32_t>(kStack0 - 24), kCode + 7);
  EXPECT_EQ(at<uint32_t>(kStack0 - 20), kCode3 | 3u);
  EXPECT_EQ(at<uint32_t>(kStack0 - 16), 0x11111111u);
  EXPECT_EQ(at<uint32_t>(kStack0 - 12), 0x22222222u);
  EXPECT_EQ(at<uint32_t>(kStack0 - 8), kUserStack);
  EXPECT_EQ(at<uint32_t>(kStack0 - 4), kData3 | 3u);

  s().segment[DS] = flat_segment(kData0, 3, 0, seg::DB);
  run();
  EXPECT_EQ(s().rip, kCode + 7);
  EXPECT_EQ(s().cpl(), 3u);
  EXPECT_EQ(s().gpr[RSP], kUserStack + 8);
  EXPECT_EQ(s().segment[DS].selector, 0);  // level 0 data is taken away
  EXPECT_EQ(s().segment[ES].selector, kData3 | 3);
}

TEST_F(FarTransferTest, call_gate_checks_its_own_privilege) {
  enter_protected(3);
  gdt(kFree, gate(kCode0, 0x12000, 12, 0));
  far_direct(kCall, kFree, 0);
  run();
  EXPECT_EQ(s().rip, handler(vec::GP));
  EXPECT_EQ(error(), kFree);
}

TEST_F(FarTransferTest, faulting_call_leaves_everything_as_it_was) {
  enter_protected(0);
  s().segment[SS].limit = kStack - 6;  // room for the first push alone... and none for that
  s().segment[SS].attributes &= ~seg::G;
  put(kIdt + vec::SS * 8, gate(kFree, 0, 5));
  fill_task(static_cast<uint32_t>(handler(vec::SS)));
  far_direct(kCall, kCode0, 0x12000);
  run();
  EXPECT_EQ(s().rip, handler(vec::SS));
  EXPECT_EQ(at<uint32_t>(kTss + 0x20), kCode);
  EXPECT_EQ(at<uint32_t>(kTss + 0x38), kStack);
}

TEST_F(FarTransferTest, long_mode_call_gate_switches_to_rsp0) {
  enter_long(3);
  gdt(kFree, gate(kCode0, 0x12000, 12, 3));
  put<uint64_t>(kGdt + kFree + 8, 0);
  put<uint32_t>(kUserStack, 0);
  put<uint16_t>(kUserStack + 4, kFree | 3);
  code({0xff, 0x1c, 0x24});  // call far [rsp]
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().gpr[RSP], kStack0 - 32);
  EXPECT_EQ(at<uint64_t>(kStack0 - 32), kCode + 3);
  EXPECT_EQ(at<uint64_t>(kStack0 - 16), kUserStack);
  EXPECT_EQ(s().segment[SS].selector, 0);
  bytes(0x12000, {0x48, 0xcb});  // retfq
  run();
  EXPECT_EQ(s().rip, kCode + 3);
  EXPECT_EQ(s().gpr[RSP], kUserStack);
  EXPECT_EQ(s().segment[SS].selector, kData3 | 3);
}

TEST_F(FarTransferTest, far_jump_through_a_rip_relative_pointer_in_the_middle_of_a_block) {
  enter_long(0);
  code({0x90, 0x90, 0xff, 0x2d, 0x02, 0x00, 0x00, 0x00, 0x90, 0x90, 0x00, 0x20, 0x01, 0x00, 0x08, 0x00});
  run(3);
  EXPECT_EQ(s().rip, 0x12000u);
}

TEST_F(FarTransferTest, moves_between_64_bit_and_compatibility_mode) {
  enter_long(0);
  gdt(kFree, flat_code(0, seg::DB));
  put<uint32_t>(0x7000, 0x12000);
  put<uint16_t>(0x7004, kFree);
  s().gpr[RBX] = 0x7000;
  code({0xff, 0x2b});  // jmp far [rbx]
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_FALSE(s().mode64());
  far_direct(kJump, kCode0, 0x13000);
  run();
  EXPECT_TRUE(s().mode64());
  EXPECT_EQ(s().rip, 0x13000u);
}

TEST_F(FarTransferTest, iretq_to_user_mode_restores_flags_and_stack) {
  enter_long(0);
  s().gpr[RSP] = kStack - 40;
  put<uint64_t>(kStack - 40, 0x12000);
  put<uint64_t>(kStack - 32, kCode3 | 3);
  put<uint64_t>(kStack - 24, flag::IF | flag::CF | flag::ID);
  put<uint64_t>(kStack - 16, kUserStack);
  put<uint64_t>(kStack - 8, kData3 | 3);
  s().segment[DS] = null_segment(0);
  code({0x48, 0xcf});
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().cpl(), 3u);
  EXPECT_EQ(s().gpr[RSP], kUserStack);
  EXPECT_EQ(s().rflags, flag::fixed | flag::IF | flag::CF | flag::ID);
}

TEST_F(FarTransferTest, iretq_accepts_a_null_stack_segment_below_level_3_alone) {
  for (const bool user : {false, true}) {
    enter_long(0);
    s().gpr[RSP] = kStack - 40;
    put<uint64_t>(kStack - 40, 0x12000);
    put<uint64_t>(kStack - 32, user ? kCode3 | 3 : kCode0);
    put<uint64_t>(kStack - 24, 2);
    put<uint64_t>(kStack - 16, kUserStack);
    put<uint64_t>(kStack - 8, user ? 3 : 0);
    code({0x48, 0xcf});
    run();
    EXPECT_EQ(s().rip, user ? handler(vec::GP) : 0x12000) << user;
    EXPECT_EQ(s().cpl(), 0u);
  }
}

TEST_F(FarTransferTest, iret_to_a_non_canonical_address_faults_at_the_old_level) {
  enter_long(0);
  s().gpr[RSP] = kStack - 40;
  put<uint64_t>(kStack - 40, uint64_t{1} << 47);
  put<uint64_t>(kStack - 32, kCode3 | 3);
  put<uint64_t>(kStack - 24, 2);
  put<uint64_t>(kStack - 16, kUserStack);
  put<uint64_t>(kStack - 8, kData3 | 3);
  expect_fault({0x48, 0xcf}, vec::GP);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 8), kCode);
}

TEST_F(FarTransferTest, iret_with_nt_faults_in_long_mode) {
  enter_long(0);
  s().rflags |= flag::NT;
  expect_fault({0x48, 0xcf}, vec::GP);
}

TEST_F(FarTransferTest, iret_in_user_mode_cannot_change_iopl_or_if) {
  enter_long(3);
  s().gpr[RSP] = kUserStack - 40;
  put<uint64_t>(kUserStack - 40, 0x12000);
  put<uint64_t>(kUserStack - 32, kCode3 | 3);
  put<uint64_t>(kUserStack - 24, flag::IOPL | flag::ZF);
  put<uint64_t>(kUserStack - 16, kUserStack);
  put<uint64_t>(kUserStack - 8, kData3 | 3);
  code({0x48, 0xcf});
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().rflags, flag::fixed | flag::IF | flag::ZF);
}

TEST_F(FarTransferTest, syscall_and_sysret) {
  enter_long(3);
  s().star = uint64_t{kCode0} << 32 | uint64_t{0x10 | 3} << 48;
  s().lstar = 0x12000;
  s().sfmask = flag::IF | flag::TF;
  s().rflags |= flag::ZF;
  code({0x0f, 0x05});
  bytes(0x12000, {0x48, 0x0f, 0x07});
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().gpr[RCX], kCode + 2);
  EXPECT_EQ(s().gpr[R11], flag::fixed | flag::IF | flag::ZF);
  EXPECT_EQ(s().rflags, flag::fixed | flag::ZF);
  EXPECT_EQ(s().segment[CS].selector, kCode0);
  EXPECT_EQ(s().segment[SS].selector, kData0);
  EXPECT_EQ(s().gpr[RSP], kUserStack);
  run();
  EXPECT_EQ(s().rip, kCode + 2);
  EXPECT_EQ(s().cpl(), 3u);
  EXPECT_EQ(s().segment[CS].selector, 0x23);
  EXPECT_EQ(s().segment[SS].selector, 0x1b);
  EXPECT_TRUE(s().mode64());
  EXPECT_NE(s().rflags & flag::IF, 0u);
}

TEST_F(FarTransferTest, sysret_to_a_non_canonical_address_faults_at_level_0) {
  enter_long(0);
  s().gpr[RCX] = uint64_t{1} << 47;
  expect_fault({0x48, 0x0f, 0x07}, vec::GP);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 16), kCode0);
}

TEST_F(FarTransferTest, syscall_is_undefined_without_sce_and_outside_64_bit_mode) {
  enter_long(3);
  s().efer &= ~efer::SCE;
  expect_fault({0x0f, 0x05}, vec::UD);
  enter_protected(3);
  expect_fault({0x0f, 0x05}, vec::UD);
}

TEST_F(FarTransferTest, sysenter_and_sysexit_in_protected_mode) {
  enter_protected(3);
  s().sysenter_cs = kCode0;
  s().sysenter_esp = kStack0;
  s().sysenter_eip = 0x12000;
  code({0x0f, 0x34});
  bytes(0x12000, {0x0f, 0x35});
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().gpr[RSP], kStack0);
  EXPECT_EQ(s().cpl(), 0u);
  EXPECT_EQ(s().rflags & flag::IF, 0u);
  s().gpr[RDX] = kCode;
  s().gpr[RCX] = kUserStack;
  run();
  EXPECT_EQ(s().rip, kCode);
  EXPECT_EQ(s().gpr[RSP], kUserStack);
  EXPECT_EQ(s().segment[CS].selector, kCode3 | 3);
  s().sysenter_cs = 0;
  expect_fault({0x0f, 0x34}, vec::GP);
}

TEST_F(FarTransferTest, task_switch_by_jump_moves_the_busy_bit) {
  enter_protected(0);
  fill_task(0x12000);
  s().gpr[RAX] = 0x5678;
  far_direct(kJump, kFree, 0);
  run();
  EXPECT_EQ(s().rip, 0x12000u);
  EXPECT_EQ(s().gpr[RAX], 0x1234u);
  EXPECT_EQ(s().gpr[RSP], kIst);
  EXPECT_EQ(type_of(kTssSelector), 9);
  EXPECT_EQ(type_of(kFree), 11);
  EXPECT_EQ(s().tr.selector, kFree);
  EXPECT_EQ(at<uint32_t>(kTss + 0x20), kCode + 7);
  EXPECT_EQ(at<uint32_t>(kTss + 0x28), 0x5678u);
  EXPECT_EQ(s().rflags & flag::NT, 0u);
  EXPECT_NE(s().cr0 & cr0::TS, 0u);
}

TEST_F(FarTransferTest, nested_task_returns_through_its_back_link) {
  enter_protected(0);
  fill_task(0x12000);
  bytes(0x12000, {0xcf});
  far_direct(kCall, kFree, 0);
  run();
  EXPECT_EQ(type_of(kTssSelector), 11);  // still busy: nested
  EXPECT_EQ(at<uint16_t>(kTss2), kTssSelector);
  EXPECT_NE(s().rflags & flag::NT, 0u);
  run();
  EXPECT_EQ(s().rip, kCode + 7);
  EXPECT_EQ(s().gpr[RSP], kStack);
  EXPECT_EQ(s().tr.selector, kTssSelector);
  EXPECT_EQ(type_of(kFree), 9);
  EXPECT_EQ(at<uint32_t>(kTss2 + 0x24) & flag::NT, 0u);
}

TEST_F(FarTransferTest, jump_to_a_busy_task_faults) {
  enter_protected(0);
  fill_task(0x12000);
  gdt(kFree, descriptor(kTss2, 0x67, seg::P | 11));
  far_direct(kJump, kFree, 0);
  run();
  EXPECT_EQ(s().rip, handler(vec::GP));
  EXPECT_EQ(error(), kFree);
}

TEST_F(FarTransferTest, task_with_a_bad_stack_segment_faults_in_the_new_task) {
  enter_protected(0);
  fill_task(0x12000);
  put<uint16_t>(kTss2 + 0x50, kCode0);
  put(kIdt + vec::TS * 8, gate(0x48, 0, 5));
  gdt(0x48, descriptor(0x6000, 0x67, seg::P | 9));
  put<uint32_t>(0x6000 + 0x20, static_cast<uint32_t>(handler(vec::TS)));
  put<uint32_t>(0x6000 + 0x38, kStack0);
  for (unsigned i = 0; i < 6; ++i) put<uint16_t>(0x6000 + 0x48 + i * 4, i == CS ? kCode0 : kData0);
  far_direct(kJump, kFree, 0);
  run();
  EXPECT_EQ(s().rip, handler(vec::TS));
  EXPECT_EQ(error(), kCode0);
  EXPECT_EQ(at<uint16_t>(0x6000), kFree);              // the new task was the one that faulted
  EXPECT_EQ(at<uint32_t>(kTss2 + 0x20), 0x12000u);     // before its first instruction
}

TEST_F(FarTransferTest, trap_flag_of_a_task_raises_debug_before_its_first_instruction) {
  enter_protected(0);
  fill_task(0x12000, 1);
  far_direct(kJump, kFree, 0);
  run();
  EXPECT_EQ(s().rip, handler(vec::DB));
  EXPECT_EQ(at<uint32_t>(s().gpr[RSP]), 0x12000u);
  EXPECT_NE(s().dr6 & dr6::BT, 0u);
}

TEST_F(FarTransferTest, switches_to_a_16_bit_task) {
  enter_protected(0);
  gdt(kFree, descriptor(kTss2, 0x2b, seg::P | 1));
  gdt(0x48, descriptor(kCode, 0xffff, seg::P | seg::S | 11));
  put<uint16_t>(kTss2 + 0x0e, 0x40);
  put<uint16_t>(kTss2 + 0x10, 2);
  put<uint16_t>(kTss2 + 0x12, 0xabcd);
  put<uint16_t>(kTss2 + 0x1a, kIst);
  put<uint16_t>(kTss2 + 0x22, kData0);
  put<uint16_t>(kTss2 + 0x24, 0x48);
  put<uint16_t>(kTss2 + 0x26, kData0);
  put<uint16_t>(kTss2 + 0x28, kData0);
  far_direct(kJump, kFree, 0);
  run();
  EXPECT_EQ(s().rip, 0x40u);
  EXPECT_EQ(s().gpr[RAX] & 0xffff, 0xabcdu);
  EXPECT_EQ(s().segment[FS].selector, 0);
  EXPECT_EQ(s().segment[CS].base, kCode);
}

TEST_F(FarTransferTest, tasks_do_not_exist_in_long_mode) {
  enter_long(0);
  gdt(kFree, descriptor(kTss2, 0x67, seg::P | 9));
  put<uint32_t>(0x7000, 0);
  put<uint16_t>(0x7004, kFree);
  s().gpr[RBX] = 0x7000;
  expect_fault({0xff, 0x2b}, vec::GP);
  EXPECT_EQ(error(), kFree);
}

}  // namespace
}  // namespace retrovisor::soft
