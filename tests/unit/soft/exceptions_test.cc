// Delivery of exceptions and interrupts in every mode, run through the engine.
#include <string>
#include <vector>

#include "tests/unit/soft/system_machine.h"

namespace retrovisor::soft {
namespace {

class ExceptionTest : public SystemMachine {};

TEST_F(ExceptionTest, long_mode_switches_to_rsp0_and_pushes_the_whole_frame) {
  enter_long(3);
  s().rflags |= flag::ZF;
  expect_fault({0x0f, 0x0b}, vec::UD);
  EXPECT_EQ(s().gpr[RSP], kStack0 - 40);
  EXPECT_EQ(at<uint64_t>(kStack0 - 40), kCode);
  EXPECT_EQ(at<uint64_t>(kStack0 - 32), kCode3 | 3u);
  EXPECT_EQ(at<uint64_t>(kStack0 - 24), flag::fixed | flag::IF | flag::ZF | flag::RF);
  EXPECT_EQ(at<uint64_t>(kStack0 - 16), kUserStack);
  EXPECT_EQ(at<uint64_t>(kStack0 - 8), kData3 | 3u);
  EXPECT_EQ(s().segment[SS].selector, 0);
  EXPECT_EQ(s().cpl(), 0u);
  EXPECT_EQ(s().rflags & (flag::IF | flag::RF), 0u);
  ASSERT_EQ(logged.events.size(), 1u);
  EXPECT_EQ(logged.events[0].a, vec::UD);
}

TEST_F(ExceptionTest, long_mode_page_fault_pushes_its_error_code_and_sets_cr2) {
  enter_long(0);
  s().gpr[RBX] = kMissing + 0x123;
  s().gpr[RSP] = kStack - 4;  // the frame is aligned all the same
  expect_fault({0x89, 0x03}, vec::PF);  // mov [rbx], eax
  EXPECT_EQ(s().cr2, kMissing + 0x123);
  EXPECT_EQ(s().gpr[RSP], ((kStack - 4) & ~uint64_t{15}) - 48);
  EXPECT_EQ(error(), pf::W);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 32), kStack - 4);
  EXPECT_EQ(s().segment[SS].selector, kData0);  // no change of level: SS stays
}

TEST_F(ExceptionTest, long_mode_uses_the_interrupt_stack_table_at_the_same_level) {
  enter_long(0);
  long_gate(vec::UD, 14, 0, 1);
  expect_fault({0x0f, 0x0b}, vec::UD);
  EXPECT_EQ(s().gpr[RSP], kIst - 40);
  EXPECT_EQ(at<uint64_t>(kIst - 16), kStack);
}

TEST_F(ExceptionTest, trap_gate_keeps_interrupts_on) {
  enter_long(0);
  long_gate(vec::UD, 15);
  expect_fault({0x0f, 0x0b}, vec::UD);
  EXPECT_NE(s().rflags & flag::IF, 0u);
}

TEST_F(ExceptionTest, breakpoint_pushes_the_address_behind_it_without_rf) {
  enter_long(3);
  long_gate(vec::BP, 14, 3);
  expect_fault({0xcc}, vec::BP);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP]), kCode + 1);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 16) & flag::RF, 0u);
}

TEST_F(ExceptionTest, software_interrupt_checks_the_gate_privilege) {
  enter_long(3);
  expect_fault({0xcd, 0x80}, vec::GP);
  EXPECT_EQ(error(), 0x80u * 8 + 2);  // IDT bit; not EXT: the program asked for it
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 8), kCode);
}

TEST_F(ExceptionTest, int1_does_not_check_the_gate_privilege) {
  enter_long(3);
  expect_fault({0xf1}, vec::DB);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP]), kCode + 1);
}

TEST_F(ExceptionTest, absent_gate_of_an_exception_raises_np_with_ext) {
  enter_long(0);
  put<uint8_t>(kIdt + vec::UD * 16 + 5, 0x0e);
  expect_fault({0x0f, 0x0b}, vec::NP);
  EXPECT_EQ(error(), vec::UD * 8u + 3);
}

TEST_F(ExceptionTest, vector_beyond_the_idt_raises_gp) {
  enter_long(0);
  s().idtr.limit = 0x20 * 16 - 1;
  expect_fault({0xcd, 0x20}, vec::GP);
  EXPECT_EQ(error(), 0x20u * 8 + 2);
}

TEST_F(ExceptionTest, long_mode_refuses_a_handler_that_is_not_64_bit_code) {
  enter_long(0);
  gdt(kFree, flat_code(0, seg::DB));
  put(kIdt + vec::UD * 16, gate(kFree, kHandlers, 14));
  expect_fault({0x0f, 0x0b}, vec::GP);
  EXPECT_EQ(error(), kFree | 1u);
}

TEST_F(ExceptionTest, contributory_pair_makes_a_double_fault) {
  enter_long(0);
  put<uint8_t>(kIdt + vec::GP * 16 + 5, 0x0e);  // #GP cannot be delivered: #NP
  s().gpr[RBX] = uint64_t{1} << 47;
  expect_fault({0x89, 0x03}, vec::DF);
  EXPECT_EQ(error(), 0u);
}

TEST_F(ExceptionTest, fault_while_delivering_a_page_fault_makes_a_double_fault) {
  enter_long(3);
  put<uint64_t>(kTss + 4, kMissing + 0x1000);  // the handler's stack is not mapped
  long_gate(vec::DF, 14, 0, 1);
  s().gpr[RBX] = kMissing;
  expect_fault({0x89, 0x03}, vec::DF);
  EXPECT_EQ(s().gpr[RSP], kIst - 48);
  EXPECT_EQ(s().cr2, kMissing + 0x1000 - 8);  // the second fault's address
  EXPECT_EQ(at<uint64_t>(kIst - 40), kCode);
  EXPECT_EQ(at<uint64_t>(kIst - 16), kUserStack);  // nothing of the failed deliveries stayed
}

TEST_F(ExceptionTest, page_fault_after_a_contributory_fault_is_handled_on_its_own) {
  enter_long(0);
  long_gate(vec::GP, 14, 0, 2);
  put<uint64_t>(kTss + 0x2c, kMissing + 0x1000);  // IST2
  s().gpr[RBX] = uint64_t{1} << 47;
  expect_fault({0x89, 0x03}, vec::PF);
  EXPECT_EQ(s().cr2, kMissing + 0x1000 - 8);
  EXPECT_EQ(error(), pf::W);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 8), kCode);
}

TEST_F(ExceptionTest, triple_fault_shuts_the_processor_down) {
  enter_long(0);
  s().idtr.limit = 0;
  code({0x0f, 0x0b});
  EXPECT_EQ(run(), EngineStop::triple_fault);
  EXPECT_EQ(s().activity, Activity::shutdown);
  EXPECT_EQ(s().rip, kCode);
}

// Vectors and error codes of the chain, as "6 13:32".
std::string chain_text(const Engine& engine) {
  std::string out;
  for (const ChainedFault& f : engine.report().fault_chain) {
    if (!out.empty()) out += ' ';
    if (f.interrupt) out += 'i';
    out += std::to_string(f.vector);
    if (f.has_error) out += ':' + std::to_string(f.error);
  }
  return out;
}

TEST_F(ExceptionTest, triple_fault_tells_its_chain) {
  journal.connect(&logged, mask_of(EventKind::exception) | mask_of(EventKind::exception_lost));
  enter_long(0);
  s().idtr.base = kMissing;
  s().gpr[RBX] = kMissing + 0x1234;
  code({0x89, 0x03});  // mov [rbx], eax
  EXPECT_EQ(run(), EngineStop::triple_fault);
  EXPECT_EQ(chain_text(*engine), "14:2 14:0 8:0 14:0");
  const auto& chain = engine->report().fault_chain;
  EXPECT_EQ(chain[0].rip, kCode);
  EXPECT_EQ(chain[0].address, kMissing + 0x1234);
  EXPECT_EQ(chain[1].address, kMissing + 14 * 16);
  EXPECT_EQ(chain[3].address, kMissing + 8 * 16);
  EXPECT_EQ(s().cr2, kMissing + 8 * 16);
  ASSERT_EQ(logged.events.size(), 4u);
  EXPECT_EQ(logged.events[0].kind, EventKind::exception_lost);
  EXPECT_EQ(logged.events[0].a, vec::PF);
  EXPECT_EQ(logged.events[0].c, kMissing + 0x1234);
  EXPECT_EQ(logged.events[2].a, vec::DF);

  enter_long(0);
  s().idtr.limit = 0;
  vcpu->intr = true;
  code({0x90});
  EXPECT_EQ(run(), EngineStop::triple_fault);
  EXPECT_EQ(chain_text(*engine), "i48 13:387 13:107 8:0 13:67");
}

TEST_F(ExceptionTest, a_double_fault_that_is_handled_leaves_no_chain) {
  journal.connect(&logged, mask_of(EventKind::exception) | mask_of(EventKind::exception_lost));
  enter_long(0);
  put<uint64_t>(kIdt + vec::PF * 16, 0);
  s().gpr[RBX] = kMissing;
  expect_fault({0x89, 0x03}, vec::DF);
  EXPECT_TRUE(engine->report().fault_chain.empty());
  ASSERT_EQ(logged.events.size(), 3u);
  EXPECT_EQ(logged.events[0].kind, EventKind::exception_lost);
  EXPECT_EQ(logged.events[1].a, vec::GP);
  EXPECT_EQ(logged.events[2].kind, EventKind::exception);
  EXPECT_EQ(logged.events[2].a, vec::DF);
}

TEST_F(ExceptionTest, what_raises_ud_everywhere_is_no_unknown_instruction) {
  const std::vector<uint8_t> own[] = {{0x0f, 0x0b}, {0x0f, 0xb9, 0xc0}, {0x0f, 0xff, 0xc0},  // UD2, UD1, UD0
                                      {0x8e, 0xc8}, {0x8e, 0xf0}, {0x8c, 0xf0},              // CS and segment registers 6
                                      {0xf0, 0x90}, {0xf0, 0x01, 0xc0}, {0xf0, 0x89, 0x07},  // LOCK
                                      {0x0f, 0x20, 0xc8}, {0x8d, 0xc0}, {0x06}, {0xff, 0xf8}};
  for (const auto& text : own) {
    enter_long(0);
    memory->write(PhysAddr(kCode), text);
    run();
    EXPECT_EQ(s().rip, handler(vec::UD)) << unsigned{text[0]} << " " << unsigned{text.back()};
  }
  EXPECT_TRUE(engine->report().statistics.unknown_instructions.empty());
  enter_long(0);
  expect_fault({0xc5, 0xf8, 0x77}, vec::UD);  // VZEROUPPER
  ASSERT_EQ(engine->report().statistics.unknown_instructions.size(), 1u);
  EXPECT_TRUE(engine->report().statistics.unknown_instructions.begin()->first.starts_with("c5f877"));
}

TEST_F(ExceptionTest, code_outside_of_memory_is_told_as_that) {
  enter_protected(0);
  s().rip = 0xa0000;
  run();
  EXPECT_EQ(s().rip, handler(vec::UD));
  ASSERT_EQ(engine->report().statistics.unknown_instructions.size(), 1u);
  EXPECT_EQ(engine->report().statistics.unknown_instructions.begin()->first, "no memory at 0xa0000");
}

TEST_F(ExceptionTest, tss_too_short_for_any_stack_ends_in_shutdown) {
  enter_long(3);
  s().tr.limit = 8;
  // #UD cannot find its stack: #TS, which cannot either: double fault, which cannot either.
  code({0x0f, 0x0b});
  EXPECT_EQ(run(), EngineStop::triple_fault);
}

TEST_F(ExceptionTest, interrupt_pushes_rip_and_flags_as_they_are) {
  enter_long(3);
  vcpu->intr = true;
  code({0x90});
  run();
  EXPECT_EQ(s().rip, handler(0x30));
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP]), kCode);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 16), flag::fixed | flag::IF);
}

TEST_F(ExceptionTest, sti_holds_interrupts_back_for_one_instruction) {
  enter_long(0);
  s().rflags = flag::fixed;
  vcpu->intr = true;
  code({0xfb, 0x90, 0x90});
  run(1);
  EXPECT_EQ(s().rip, kCode + 1);
  run(1);
  EXPECT_EQ(s().rip, kCode + 2);
  run(1);
  EXPECT_EQ(s().rip, handler(0x30));
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP]), kCode + 2);
}

TEST_F(ExceptionTest, nmi_is_blocked_until_iret) {
  enter_long(0);
  code({0x90});
  bytes(handler(vec::NMI), {0x48, 0xcf});  // iretq
  s().nmi_pending = true;
  run(1);  // the handler's iretq
  EXPECT_FALSE(s().nmi_blocked);
  EXPECT_EQ(s().rip, kCode);
  EXPECT_EQ(s().gpr[RSP], kStack);
}

TEST_F(ExceptionTest, instruction_breakpoint_leaves_rf_to_its_handler) {
  enter_long(0);
  s().dr[0] = kCode;
  s().dr7 |= 2;
  code({0x90});
  run();
  EXPECT_EQ(s().rip, handler(vec::DB));
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 16) & flag::RF, 0u);
  EXPECT_EQ(s().dr6 & 15, 1u);
}

TEST_F(ExceptionTest, single_step_traps_behind_the_instruction) {
  enter_long(0);
  s().rflags |= flag::TF;
  code({0x90, 0x90});
  run(2);
  EXPECT_EQ(s().rip, handler(vec::DB));
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP]), kCode + 1);
  EXPECT_NE(s().dr6 & dr6::BS, 0u);
  EXPECT_EQ(s().rflags & flag::TF, 0u);
}

TEST_F(ExceptionTest, real_mode_goes_through_the_vector_table) {
  enter_real();
  put<uint16_t>(0x21 * 4, 0x1234);
  put<uint16_t>(0x21 * 4 + 2, 0x5000);
  bytes(0x51234, {0xeb, 0xfe});
  code({0xcd, 0x21});
  run(2);
  EXPECT_EQ(s().segment[CS].selector, 0x5000);
  EXPECT_EQ(s().segment[CS].base, 0x50000u);
  EXPECT_EQ(s().rip, 0x1234u);
  EXPECT_EQ(s().gpr[RSP], kStack - 6);
  EXPECT_EQ(at<uint16_t>(kStack - 6), 2);
  EXPECT_EQ(at<uint16_t>(kStack - 4), kCode >> 4);
  EXPECT_EQ(at<uint16_t>(kStack - 2), flag::fixed | flag::IF);
  EXPECT_EQ(s().rflags & flag::IF, 0u);
}

TEST_F(ExceptionTest, real_mode_vector_beyond_the_table_ends_in_shutdown) {
  enter_real();
  s().idtr.limit = 3;
  code({0xcd, 0x21});
  EXPECT_EQ(run(), EngineStop::triple_fault);
}

TEST_F(ExceptionTest, protected_mode_switches_stacks_and_pushes_an_error_code) {
  enter_protected(3);
  expect_fault({0xf4}, vec::GP);  // hlt
  EXPECT_EQ(s().gpr[RSP], kStack0 - 24);
  EXPECT_EQ(error(), 0u);
  EXPECT_EQ(at<uint32_t>(kStack0 - 20), kCode);
  EXPECT_EQ(at<uint32_t>(kStack0 - 16), kCode3 | 3u);
  EXPECT_EQ(at<uint32_t>(kStack0 - 12), flag::fixed | flag::IF | flag::RF);
  EXPECT_EQ(at<uint32_t>(kStack0 - 8), kUserStack);
  EXPECT_EQ(at<uint32_t>(kStack0 - 4), kData3 | 3u);
  EXPECT_EQ(s().segment[SS].selector, kData0);
}

TEST_F(ExceptionTest, protected_mode_16_bit_gate_pushes_words) {
  enter_protected(0);
  put(kIdt + vec::UD * 8, gate(kCode0, 0x7f00, 6));
  bytes(0x7f00, {0xeb, 0xfe});
  code({0x0f, 0x0b});
  run();
  EXPECT_EQ(s().rip, 0x7f00u);
  EXPECT_EQ(s().gpr[RSP], kStack - 6);
  EXPECT_EQ(at<uint16_t>(kStack - 6), kCode & 0xffff);
}

TEST_F(ExceptionTest, protected_mode_checks_the_inner_stack_segment) {
  enter_protected(3);
  put<uint32_t>(kTss + 8, kData3);  // not of level 0
  put(kIdt + vec::TS * 8, gate(kFree, 0, 5));
  gdt(kFree, descriptor(kTss2, 0x67, seg::P | 9));
  put<uint32_t>(kTss2 + 0x20, static_cast<uint32_t>(handler(vec::TS)));
  put<uint32_t>(kTss2 + 0x24, 2);
  put<uint32_t>(kTss2 + 0x38, kIst);
  for (unsigned i = 0; i < 6; ++i) put<uint16_t>(kTss2 + 0x48 + i * 4, i == CS ? kCode0 : kData0);
  code({0x0f, 0x0b});
  run();
  EXPECT_EQ(s().rip, handler(vec::TS));
  EXPECT_EQ(error(), kData3 | 1u);
  EXPECT_EQ(s().tr.selector, kFree);
  EXPECT_NE(s().rflags & flag::NT, 0u);
  EXPECT_EQ(at<uint16_t>(kTss2), kTssSelector);                // back link
  EXPECT_EQ(at<uint32_t>(kTss + 0x20), kCode);                 // the faulting instruction
  EXPECT_EQ(at<uint8_t>(kGdt + kFree + 5) & 0x0f, 11);         // busy
}

TEST_F(ExceptionTest, vm86_faults_push_the_data_segments_and_iret_returns) {
  enter_protected(0);
  s().rflags = flag::fixed | flag::VM | flag::IF;
  for (unsigned i = 0; i < 6; ++i)
    s().segment[i] = {0x100 * i, 0xffff, seg::P | seg::S | 3 | seg::DPL, static_cast<uint16_t>(0x10 * i)};
  s().segment[CS] = {kCode, 0xffff, seg::P | seg::S | 3 | seg::DPL, kCode >> 4};
  s().segment[SS] = {0, 0xffff, seg::P | seg::S | 3 | seg::DPL, 0};
  s().rip = 0;
  s().gpr[RSP] = kUserStack;
  changed();
  code({0xf4});
  run();
  EXPECT_EQ(s().rip, handler(vec::GP));
  EXPECT_EQ(s().gpr[RSP], kStack0 - 40);
  EXPECT_EQ(at<uint32_t>(kStack0 - 36), 0u);
  EXPECT_EQ(at<uint32_t>(kStack0 - 32), kCode >> 4);
  EXPECT_EQ(at<uint32_t>(kStack0 - 28), flag::fixed | flag::VM | flag::IF | flag::RF);
  EXPECT_EQ(at<uint32_t>(kStack0 - 16), 0x00u);  // ES
  EXPECT_EQ(at<uint32_t>(kStack0 - 12), 0x30u);  // DS
  EXPECT_EQ(at<uint32_t>(kStack0 - 8), 0x40u);
  EXPECT_EQ(at<uint32_t>(kStack0 - 4), 0x50u);
  EXPECT_FALSE(s().vm86());
  EXPECT_NE(s().segment[DS].attributes & seg::unusable, 0u);

  put<uint32_t>(kStack0 - 36, 0x55);  // go on elsewhere
  bytes(kCode + 0x55, {0xeb, 0xfe});
  s().gpr[RSP] = kStack0 - 36;
  code({0xcf});
  run(2);
  EXPECT_TRUE(s().vm86());
  EXPECT_EQ(s().cpl(), 3u);
  EXPECT_EQ(s().rip, 0x55u);
  EXPECT_EQ(s().gpr[RSP], kUserStack);
  EXPECT_EQ(s().segment[GS].base, 0x500u);
}

TEST_F(ExceptionTest, vm86_software_interrupts_obey_iopl_and_the_redirection_bitmap) {
  const auto enter = [&](uint64_t flags, uint64_t cr4) {
    enter_protected(0);
    s().cr4 = cr4;
    s().rflags = flag::fixed | flag::VM | flags;
    for (Segment& g : s().segment) g = {0, 0xffff, seg::P | seg::S | 3 | seg::DPL, 0};
    s().segment[CS] = {kCode, 0xffff, seg::P | seg::S | 3 | seg::DPL, kCode >> 4};
    s().rip = 0;
    s().gpr[RSP] = kUserStack;
    s().tr.limit = 0x200;
    put<uint16_t>(kTss + 0x66, 0x88);
    for (unsigned i = 0; i < 32; ++i) put<uint8_t>(kTss + 0x68 + i, 0);
    put<uint16_t>(0x21 * 4, 0x77);
    put<uint16_t>(0x21 * 4 + 2, kCode >> 4);
    bytes(kCode + 0x77, {0xeb, 0xfe});
    put(kIdt + 0x21 * 8, gate(kCode0, static_cast<uint32_t>(handler(0x21)), 14, 3));
    changed();
    code({0xcd, 0x21});
    run(2);
  };
  enter(0, 0);  // IOPL 0, no VME
  EXPECT_EQ(s().rip, handler(vec::GP));
  enter(flag::IOPL, 0);  // IOPL 3: the monitor's handler
  EXPECT_EQ(s().rip, handler(0x21));
  EXPECT_EQ(s().cpl(), 0u);
  enter(flag::VIF, cr4::VME);  // redirected, with virtual interrupts
  EXPECT_EQ(s().rip, 0x77u);
  EXPECT_TRUE(s().vm86());
  EXPECT_EQ(s().rflags & flag::VIF, 0u);
  EXPECT_EQ(at<uint16_t>(kUserStack - 2) & (flag::IF | flag::IOPL), flag::IF | flag::IOPL);
}

}  // namespace
}  // namespace retrovisor::soft
