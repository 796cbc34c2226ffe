// Segment, control register, flag, port and model instructions, run through the engine.
#include "tests/unit/soft/system_machine.h"
#include "vmm/cpu/cpuid.h"

namespace retrovisor::soft {
namespace {

class SystemOpsTest : public SystemMachine {
 protected:
  bool zf() { return (s().rflags & flag::ZF) != 0; }
};

// --- segments -------------------------------------------------------------------------------------------------------

TEST_F(SystemOpsTest, mov_ss_holds_interrupts_back_for_one_instruction) {
  enter_long(0);
  s().gpr[RAX] = kData0;
  apic.vector = 0x31;
  code({0x8e, 0xd0, 0x90, 0x90});
  run(1);
  vcpu->intr = true;
  run(1);
  EXPECT_EQ(s().rip, kCode + 3);
  run(1);
  EXPECT_EQ(s().rip, handler(0x31));
}

TEST_F(SystemOpsTest, null_selectors_make_segments_unusable) {
  enter_protected(0);
  s().gpr[RAX] = 3;
  code({0x8e, 0xd8, 0xa1, 0x00, 0x70, 0x00, 0x00});  // mov ds, eax; mov eax, [7000h]
  run(2);
  EXPECT_EQ(s().rip, handler(vec::GP));
  EXPECT_EQ(s().segment[DS].selector, 3);
  enter_protected(0);
  s().gpr[RAX] = 0;
  expect_fault({0x8e, 0xd0}, vec::GP);  // mov ss, eax
}

TEST_F(SystemOpsTest, data_segment_loads_check_privilege_and_presence) {
  struct Case {
    unsigned cpl;
    uint16_t selector;
    uint64_t descriptor;
    unsigned vector;  // 0: none
  };
  const uint64_t absent = uint64_t{0x80} << 40;
  const Case cases[] = {
      {3, kFree | 3, flat_data(3), 0},
      {3, kFree | 3, flat_data(0), vec::GP},
      {0, kFree | 3, flat_data(0), vec::GP},
      {0, kFree, flat_data(0) & ~absent, vec::NP},
      {3, kFree, descriptor(0, 0xfffff, seg::P | seg::S | seg::G | 0xf), 0},     // conforming readable code of level 0
      {0, kFree, descriptor(0, 0xfffff, seg::P | seg::S | seg::G | 9), vec::GP},  // execute-only
      {0, kFree, descriptor(0, 0x67, seg::P | 9), vec::GP},                       // TSS
  };
  for (const Case& c : cases) {
    enter_protected(c.cpl);
    gdt(kFree, c.descriptor);
    s().gpr[RAX] = c.selector;
    code({0x8e, 0xd8});
    run();
    EXPECT_EQ(s().rip, c.vector == 0 ? kCode + 2 : handler(c.vector)) << std::hex << c.descriptor;
    if (c.vector != 0) {
      EXPECT_EQ(error(), kFree);
    }
  }
}

TEST_F(SystemOpsTest, loading_fs_with_null_clears_its_base_in_64_bit_mode) {
  enter_long(0);
  s().segment[FS].base = 0x123456789000;
  s().gpr[RAX] = 0;
  code({0x8e, 0xe0});
  run();
  EXPECT_EQ(s().segment[FS].base, 0u);
}

TEST_F(SystemOpsTest, pop_of_a_segment_leaves_the_stack_alone_if_the_load_faults) {
  enter_protected(0);
  put<uint32_t>(kStack, 0x200);
  expect_fault({0x1f}, vec::GP);  // pop ds
  EXPECT_EQ(s().gpr[RSP], kStack - 16);
}

TEST_F(SystemOpsTest, push_of_a_segment_writes_16_bits_at_operand_size_32) {
  enter_protected(0);
  put<uint32_t>(kStack - 4, 0xaaaaaaaa);
  code({0x1e});
  run();
  EXPECT_EQ(s().gpr[RSP], kStack - 4);
  EXPECT_EQ(at<uint32_t>(kStack - 4), 0xaaaa0000u | kData0);
}

TEST_F(SystemOpsTest, lss_loads_stack_segment_and_pointer) {
  enter_protected(0);
  put<uint32_t>(0x7000, kIst);
  put<uint16_t>(0x7004, kData0);
  code({0x0f, 0xb2, 0x25, 0x00, 0x70, 0x00, 0x00});
  run();
  EXPECT_EQ(s().gpr[RSP], kIst);
}

TEST_F(SystemOpsTest, ltr_marks_the_task_busy_and_refuses_a_busy_one) {
  enter_long(0);
  gdt(kFree, descriptor(kTss2, 0x67, seg::P | 9));
  put<uint64_t>(kGdt + kFree + 8, 0xffff8880);
  s().gpr[RAX] = kFree;
  code({0x0f, 0x00, 0xd8});
  run();
  EXPECT_EQ(s().tr.base, 0xffff888000000000 | kTss2);
  EXPECT_EQ(at<uint8_t>(kGdt + kFree + 5) & 15, 11);
  enter_long(0);
  s().gpr[RAX] = kFree;
  gdt(kFree, descriptor(kTss2, 0x67, seg::P | 11));
  expect_fault({0x0f, 0x00, 0xd8}, vec::GP);
  EXPECT_EQ(error(), kFree);
}

TEST_F(SystemOpsTest, lldt_makes_local_descriptors_reachable) {
  enter_protected(0);
  gdt(kFree, descriptor(kLdt, 0xf, seg::P | 2));
  put(kLdt + 8, flat_data(0));
  s().gpr[RAX] = kFree;
  s().gpr[RBX] = 8 | 4;
  code({0x0f, 0x00, 0xd0, 0x8e, 0xdb});  // lldt ax; mov ds, ebx
  run(2);
  EXPECT_EQ(s().rip, kCode + 5);
  EXPECT_EQ(s().segment[DS].selector, 12);
}

TEST_F(SystemOpsTest, lar_and_lsl_answer_for_visible_descriptors_alone) {
  enter_protected(3);
  s().gpr[RAX] = kData3;
  code({0x0f, 0x02, 0xc8, 0x0f, 0x03, 0xd0});  // lar ecx, ax; lsl edx, ax
  run(2);
  EXPECT_TRUE(zf());
  EXPECT_EQ(s().gpr[RCX], 0x00cff300u);
  EXPECT_EQ(s().gpr[RDX], 0xffffffffu);
  for (const uint16_t hidden : {uint16_t{0}, uint16_t{0x200}, kData0}) {
    enter_protected(3);
    s().gpr[RAX] = hidden;
    s().gpr[RCX] = 7;
    s().rflags |= flag::ZF;
    changed();
    code({0x0f, 0x02, 0xc8});
    run();
    EXPECT_FALSE(zf());
    EXPECT_EQ(s().gpr[RCX], 7u);
  }
}

TEST_F(SystemOpsTest, verr_and_verw_tell_readable_from_writable) {
  enter_protected(3);
  s().gpr[RAX] = kCode3;
  code({0x0f, 0x00, 0xe0, 0x0f, 0x00, 0xe8});
  run();
  EXPECT_TRUE(zf());
  run();
  EXPECT_FALSE(zf());
}

TEST_F(SystemOpsTest, arpl_raises_the_requested_level) {
  enter_protected(0);
  s().gpr[RAX] = 0x40;
  s().gpr[RBX] = 3;
  code({0x63, 0xd8});
  run();
  EXPECT_EQ(s().gpr[RAX], 0x43u);
  EXPECT_TRUE(zf());
}

TEST_F(SystemOpsTest, umip_takes_table_registers_away_from_user_mode) {
  enter_long(3);
  s().gpr[RBX] = 0x7000;
  code({0x0f, 0x01, 0x03});
  run();
  EXPECT_EQ(at<uint64_t>(0x7002), kGdt);
  enter_long(3);
  s().cr4 |= cr4::UMIP;
  s().gpr[RBX] = 0x7000;
  expect_fault({0x0f, 0x01, 0x03}, vec::GP);
}

TEST_F(SystemOpsTest, lgdt_loads_24_bits_at_operand_size_16_and_refuses_non_canonical_bases) {
  enter_real();
  put<uint16_t>(0x7000, 0x1ff);
  put<uint32_t>(0x7002, 0xff123456);
  code({0x0f, 0x01, 0x16, 0x00, 0x70});
  run();
  EXPECT_EQ(s().gdtr.base, 0x123456u);
  EXPECT_EQ(s().gdtr.limit, 0x1ff);
  enter_long(0);
  put<uint64_t>(0x7002, uint64_t{1} << 47);
  s().gpr[RBX] = 0x7000;
  expect_fault({0x0f, 0x01, 0x13}, vec::GP);
}

// --- control and debug registers ------------------------------------------------------------------------------------

TEST_F(SystemOpsTest, control_registers_refuse_inconsistent_values) {
  struct Case {
    uint8_t reg;
    uint64_t value;
  };
  const uint64_t cr0 = cr0::PE | cr0::PG | cr0::ET;
  const Case cases[] = {
      {0, cr0::PG},                   // paging without protection
      {0, cr0 | cr0::NW},             // NW without CD
      {0, cr0 | uint64_t{1} << 32},   // reserved
      {0, cr0::PE},                   // out of paging, in 64-bit mode
      {3, uint64_t{1} << 40},         // beyond physical memory
      {4, cr4::PSE},                  // without PAE, in long mode
      {4, cr4::PAE | cr4::PCIDE},     // not supported
      {4, cr4::PAE | 1 << 13},        // VMXE
  };
  for (const Case& c : cases) {
    enter_long(0);
    s().gpr[RAX] = c.value;
    expect_fault({0x0f, 0x22, static_cast<uint8_t>(0xc0 | c.reg << 3)}, vec::GP);
    EXPECT_EQ(error(), 0u);
  }
  enter_long(3);
  expect_fault({0x0f, 0x20, 0xc0}, vec::GP);
  enter_long(0);
  expect_fault({0x0f, 0x20, 0xc8}, vec::UD);  // CR1
}

TEST_F(SystemOpsTest, cr8_is_the_task_priority) {
  enter_long(0);
  s().gpr[RAX] = 9;
  code({0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3});
  run(2);
  EXPECT_EQ(apic.tpr, 9);
  EXPECT_EQ(s().gpr[RBX], 9u);
  enter_long(0);
  s().gpr[RAX] = 16;
  expect_fault({0x44, 0x0f, 0x22, 0xc0}, vec::GP);
}

TEST_F(SystemOpsTest, enters_long_mode_when_paging_is_switched_on) {
  enter_long(0);  // fills the tables
  enter_protected(0);
  s().cr4 = cr4::PAE;
  s().cr3 = kTables;
  s().gpr[RCX] = msr::EFER;
  s().gpr[RAX] = efer::LME;
  code({0x0f, 0x30, 0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0});  // wrmsr; or cr0, PG
  run(4);
  EXPECT_EQ(s().rip, kCode + 13);
  EXPECT_TRUE(s().long_mode());
  EXPECT_FALSE(s().mode64());
  // Without PAE it is refused.
  enter_protected(0);
  s().efer = efer::LME;
  s().gpr[RAX] = s().cr0 | cr0::PG;
  expect_fault({0x0f, 0x22, 0xc0}, vec::GP);
}

TEST_F(SystemOpsTest, pae_paging_loads_and_checks_the_directory_pointers) {
  enter_protected(0);
  put<uint64_t>(kTables, 0x30000 | pte::P);
  for (uint64_t i = 1; i < 4; ++i) put<uint64_t>(kTables + i * 8, 0);
  for (uint64_t i = 0; i < 8; ++i) put<uint64_t>(0x30000 + i * 8, i << 21 | 3 | pte::PS);
  s().cr4 = cr4::PAE;
  s().cr3 = kTables;
  s().gpr[RAX] = s().cr0 | cr0::PG;
  code({0x0f, 0x22, 0xc0});
  run();
  EXPECT_EQ(s().rip, kCode + 3);
  EXPECT_EQ(s().pdpte[0], 0x30000 | pte::P);
  put<uint64_t>(kTables, 0x30000 | pte::P | pte::RW);  // reserved here
  s().gpr[RAX] = kTables;
  expect_fault({0x0f, 0x22, 0xd8}, vec::GP);
}

TEST_F(SystemOpsTest, lmsw_sets_pe_and_cannot_clear_it) {
  enter_protected(0);
  s().gpr[RAX] = cr0::TS;
  code({0x0f, 0x01, 0xf0});
  run();
  EXPECT_EQ(s().cr0 & 15, cr0::PE | cr0::TS);
  code({0x0f, 0x06});
  run();
  EXPECT_EQ(s().cr0 & cr0::TS, 0u);
}

TEST_F(SystemOpsTest, debug_registers_have_aliases_reserved_bits_and_general_detect) {
  enter_long(0);
  s().gpr[RAX] = 0xffffffff;
  code({0x0f, 0x23, 0xf0, 0x0f, 0x21, 0xe3});  // mov dr6, rax; mov rbx, dr4
  run(2);
  EXPECT_EQ(s().gpr[RBX], dr6::fixed | 0xe00fu);
  enter_long(0);
  s().cr4 |= cr4::DE;
  expect_fault({0x0f, 0x21, 0xe3}, vec::UD);
  enter_long(0);
  s().gpr[RAX] = uint64_t{1} << 32;
  expect_fault({0x0f, 0x23, 0xf8}, vec::GP);
  enter_long(0);
  s().dr7 |= dr7::GD;
  expect_fault({0x0f, 0x21, 0xc3}, vec::DB);
  EXPECT_NE(s().dr6 & dr6::BD, 0u);
  EXPECT_EQ(s().dr7 & dr7::GD, 0u);
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP]), kCode);  // a fault
  EXPECT_NE(at<uint64_t>(s().gpr[RSP] + 16) & flag::RF, 0u);
}

TEST_F(SystemOpsTest, xsetbv_accepts_x87_and_sse_alone) {
  enter_long(0);
  expect_fault({0x0f, 0x01, 0xd0}, vec::UD);  // no OSXSAVE
  for (const uint64_t value : {1u, 3u, 0u, 2u, 7u}) {
    enter_long(0);
    s().cr4 |= cr4::OSXSAVE;
    s().gpr[RAX] = value;
    code({0x0f, 0x01, 0xd1});
    run();
    const bool valid = value == 1 || value == 3;
    EXPECT_EQ(s().rip, valid ? kCode + 3 : handler(vec::GP)) << value;
    EXPECT_EQ(s().xcr0, valid ? value : 1u);
  }
}

// --- flags ----------------------------------------------------------------------------------------------------------

TEST_F(SystemOpsTest, cli_obeys_iopl_and_protected_mode_virtual_interrupts) {
  enter_protected(3);
  expect_fault({0xfa}, vec::GP);
  enter_protected(3);
  s().rflags |= flag::IOPL;
  code({0xfa});
  run();
  EXPECT_EQ(s().rflags & flag::IF, 0u);
  enter_protected(3);
  s().cr4 |= cr4::PVI;
  s().rflags |= flag::VIF;
  code({0xfa, 0xfb});
  run();
  EXPECT_EQ(s().rflags & (flag::IF | flag::VIF), flag::IF);
  s().rflags |= flag::VIP;
  expect_fault({0xfb}, vec::GP);
}

TEST_F(SystemOpsTest, popf_in_user_mode_leaves_if_and_iopl) {
  enter_long(3);
  s().gpr[RSP] = kUserStack - 8;
  put<uint64_t>(kUserStack - 8, flag::IOPL | flag::CF | flag::VM | flag::VIF);
  code({0x9d});
  run();
  EXPECT_EQ(s().rflags, flag::fixed | flag::IF | flag::CF);
  EXPECT_EQ(s().gpr[RSP], kUserStack);
}

TEST_F(SystemOpsTest, pushf_hides_rf_and_vm) {
  enter_long(0);
  s().rflags |= flag::OF;
  changed();
  code({0x9c});
  run();
  EXPECT_EQ(at<uint64_t>(kStack - 8), flag::fixed | flag::IF | flag::OF);
}

TEST_F(SystemOpsTest, clac_and_stac_are_undefined_in_user_mode) {
  enter_long(0);
  code({0x0f, 0x01, 0xcb});
  run();
  EXPECT_NE(s().rflags & flag::AC, 0u);
  enter_long(3);
  expect_fault({0x0f, 0x01, 0xca}, vec::UD);
}

TEST_F(SystemOpsTest, lock_prefix_is_undefined) {
  enter_long(0);
  expect_fault({0xf0, 0x0f, 0x22, 0xc0}, vec::UD);
}

// --- FS, GS ---------------------------------------------------------------------------------------------------------

TEST_F(SystemOpsTest, swapgs_and_base_instructions) {
  enter_long(0);
  s().segment[GS].base = 1;
  s().kernel_gs_base = 2;
  code({0x0f, 0x01, 0xf8});
  run();
  EXPECT_EQ(s().segment[GS].base, 2u);
  EXPECT_EQ(s().kernel_gs_base, 1u);
  expect_fault({0xf3, 0x48, 0x0f, 0xae, 0xd0}, vec::UD);  // no FSGSBASE
  enter_long(3);
  s().cr4 |= cr4::FSGSBASE;
  s().gpr[RAX] = 0x7fff12345678;
  code({0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xf3, 0x0f, 0xae, 0xc3});  // wrfsbase rax; rdfsbase ebx
  run(2);
  EXPECT_EQ(s().segment[FS].base, 0x7fff12345678u);
  EXPECT_EQ(s().gpr[RBX], 0x12345678u);
  s().gpr[RAX] = uint64_t{1} << 47;
  expect_fault({0xf3, 0x48, 0x0f, 0xae, 0xd0}, vec::GP);
}

// --- ports ----------------------------------------------------------------------------------------------------------

TEST_F(SystemOpsTest, in_and_out_move_their_operand_size) {
  enter_protected(0);
  s().gpr[RAX] = 0xaabbccdd;
  s().gpr[RDX] = 0x104;
  code({0xef, 0x66, 0xef, 0xee, 0xec, 0xed});  // out dx,eax; out dx,ax; out dx,al; in al,dx; in eax,dx
  run(4);
  EXPECT_EQ(device.written, (std::vector<uint32_t>{0xaabbccdd, 0xccdd, 0xdd}));
  EXPECT_EQ(device.sizes, (std::vector<unsigned>{4, 2, 1}));
  EXPECT_EQ(s().gpr[RAX], 0xaabbcc41u);
  run(1);
  EXPECT_EQ(s().gpr[RAX], 0x01040042u);
}

TEST_F(SystemOpsTest, user_ports_need_iopl_or_the_permission_bitmap) {
  enter_long(3);
  s().gpr[RDX] = 0x104;
  expect_fault({0xec}, vec::GP);
  enter_long(3);
  s().rflags |= flag::IOPL;
  s().gpr[RDX] = 0x104;
  code({0xec});
  run();
  EXPECT_EQ(s().rip, kCode + 1);
  enter_long(3);
  s().tr.limit = 0x67 + 0x40;
  for (unsigned i = 0; i < 0x40; ++i) put<uint8_t>(kTss + 0x68 + i, 0xff);
  put<uint8_t>(kTss + 0x68 + 0x104 / 8, 0xef);  // port 104h alone
  s().gpr[RDX] = 0x104;
  code({0xec, 0x66, 0xed});
  run(1);
  EXPECT_EQ(s().rip, kCode + 1);
  run(1);
  EXPECT_EQ(s().rip, handler(vec::GP));  // a word needs 105h, too
}

TEST_F(SystemOpsTest, rep_ins_is_one_iteration_per_position) {
  enter_protected(0);
  s().gpr[RDX] = 0x100;
  s().gpr[RCX] = 3;
  s().gpr[RDI] = 0x7000;
  code({0xf3, 0x6c, 0x90});
  run(2);
  EXPECT_EQ(s().rip, kCode);
  EXPECT_EQ(s().gpr[RCX], 1u);
  EXPECT_EQ(s().gpr[RDI], 0x7002u);
  run(1);
  EXPECT_EQ(s().rip, kCode + 2);
  EXPECT_EQ(at<uint8_t>(0x7002), 0x43);
}

TEST_F(SystemOpsTest, ins_checks_its_destination_before_it_reads_the_port) {
  enter_long(0);
  s().gpr[RDX] = 0x100;
  s().gpr[RDI] = kMissing;
  expect_fault({0x6c}, vec::PF);
  EXPECT_EQ(device.next, 0x41u);
}

TEST_F(SystemOpsTest, outs_goes_down_with_the_direction_flag_and_uses_the_override) {
  enter_protected(0);
  s().rflags |= flag::DF;
  s().segment[FS].base = 0x7000;
  s().gpr[RDX] = 0x100;
  s().gpr[RSI] = 0x10;
  put<uint16_t>(0x7010, 0xbeef);
  changed();
  code({0x64, 0x66, 0x6f});
  run();
  EXPECT_EQ(device.written, (std::vector<uint32_t>{0xbeef}));
  EXPECT_EQ(s().gpr[RSI], 0xeu);
}

// --- model ----------------------------------------------------------------------------------------------------------

TEST_F(SystemOpsTest, rdtsc_tells_guest_time_exactly) {
  enter_long(3);
  s().tsc_offset = uint64_t{1} << 40;
  code({0x90, 0x90, 0x0f, 0x31});
  run(3);
  EXPECT_EQ(s().gpr[RAX], 2u);
  EXPECT_EQ(s().gpr[RDX], 0x100u);
  enter_long(3);
  s().cr4 |= cr4::TSD;
  expect_fault({0x0f, 0x31}, vec::GP);
}

TEST_F(SystemOpsTest, rdtscp_loads_the_auxiliary_register) {
  enter_long(0);
  s().tsc_aux = 77;
  code({0x0f, 0x01, 0xf9});
  run();
  EXPECT_EQ(s().gpr[RCX], 77u);
}

TEST_F(SystemOpsTest, rdrand_comes_from_the_machines_generator_and_is_journalled) {
  entropy.seed({5, 6, 7, 8});
  Entropy same;
  same.seed({5, 6, 7, 8});
  enter_long(3);
  s().rflags |= flag::ZF | flag::OF;
  changed();
  code({0x48, 0x0f, 0xc7, 0xf0, 0x66, 0x0f, 0xc7, 0xfb});  // rdrand rax; rdseed bx
  run(2);
  EXPECT_EQ(s().gpr[RAX], same.next());
  EXPECT_EQ(s().gpr[RBX], same.next() & 0xffff);
  EXPECT_EQ(s().rflags & flag::arithmetic, flag::CF);
  ASSERT_EQ(logged.events.size(), 2u);
  EXPECT_EQ(logged.events[0].kind, EventKind::rdrand);
  EXPECT_EQ(logged.events[0].a, s().gpr[RAX]);
}

TEST_F(SystemOpsTest, cpuid_answers_for_the_model) {
  enter_long(3);
  s().gpr[RAX] = 1;
  s().gpr[RBX] = ~uint64_t{0};
  code({0x0f, 0xa2});
  run();
  EXPECT_EQ(s().gpr[RAX], 0x106cau);
  EXPECT_EQ(s().gpr[RBX] >> 32, 0u);
}

TEST_F(SystemOpsTest, unknown_msrs_fault) {
  enter_long(0);
  s().gpr[RCX] = 0x12345;
  expect_fault({0x0f, 0x32}, vec::GP);
  enter_long(3);
  s().gpr[RCX] = msr::EFER;
  expect_fault({0x0f, 0x32}, vec::GP);
}

TEST_F(SystemOpsTest, hlt_waits_for_an_interrupt) {
  enter_long(0);
  code({0xf4, 0x90});
  EXPECT_EQ(run(5), EngineStop::halted);
  EXPECT_EQ(s().rip, kCode + 1);
  EXPECT_EQ(clock.position().value, 1u);
  vcpu->intr = true;
  run();
  EXPECT_EQ(s().rip, handler(0x30));
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP]), kCode + 1);
}

}  // namespace
}  // namespace retrovisor::soft
