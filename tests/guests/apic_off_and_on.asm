; IA32_APIC_BASE.EN: CPUID shows an APIC only while it is set, and an APIC that is enabled again is as after power-up, its ID too.
; Source: SDM 3A 10.4.3, 10.4.7.1.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

LAPIC_LDR equ 0xd0
LAPIC_DFR equ 0xe0
EN equ 1 << 11

%macro expect_register 3  ; "what", offset, value
  mov eax, [r15 + %2]
  expect %1, rax, %3
%endmacro
%macro expect_shown 2  ; "what", CPUID.1:EDX[9]
  mov eax, 1
  cpuid
  shr edx, 9
  and edx, 1
  expect %1, rdx, %2
%endmacro

GUEST
  start_long
  lapic_enable
  pic_init 0xff, 0xff
  expect_shown "CPUID with an APIC", 1
  mov dword [r15 + LAPIC_ID], 5 << 24
  expect_register "the ID can be written", LAPIC_ID, 5 << 24
  mov dword [r15 + LAPIC_TPR], 0x40
  mov dword [r15 + LAPIC_LDR], 2 << 24
  mov dword [r15 + LAPIC_DFR], 0x0fffffff
  mov dword [r15 + LAPIC_TIMER], 0x31
  mov dword [r15 + LAPIC_TIMER_DIVIDE], 3

  mov ecx, 0x1b
  rdmsr
  and eax, ~EN
  wrmsr
  expect_shown "CPUID without it", 0
  expect_register "its page is empty", LAPIC_ID, 0xffffffff
  mov ecx, 0x1b
  rdmsr
  or eax, EN
  wrmsr
  expect_shown "CPUID with it again", 1
  expect_register "ID", LAPIC_ID, 0
  expect_register "TPR", LAPIC_TPR, 0
  expect_register "LDR", LAPIC_LDR, 0
  expect_register "DFR", LAPIC_DFR, 0xffffffff
  expect_register "SVR", LAPIC_SVR, 0xff
  expect_register "LVT timer", LAPIC_TIMER, 0x10000
  expect_register "LVT LINT0", LAPIC_LINT0, 0x10000
  expect_register "divide configuration", LAPIC_TIMER_DIVIDE, 0
  finish

GUEST_ROUTINES
