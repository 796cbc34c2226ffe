; Writes values that no processor takes to the MSRs that KVM keeps for the guest, and some that every processor takes: each
; of the first is #GP and leaves the register as it was, each of the others is read back (SDM 4; SDM 2B, WRMSR).
%include "common.inc"

GOOD equ 0
BAD  equ 1

; msr_case index, value, GOOD or BAD
%macro msr_case 3
  dq %1, %2, %3
%endmacro

NON_CANONICAL equ 0x0000800000000000
CANONICAL     equ 0xffff800000123456

[section .data]
align 8
cases:
  msr_case 0x174, 0x10, GOOD
  msr_case 0x175, CANONICAL, GOOD
  msr_case 0x175, NON_CANONICAL, BAD
  msr_case 0x175, 0x7fffffffffff, GOOD
  msr_case 0x176, CANONICAL, GOOD
  msr_case 0x176, NON_CANONICAL, BAD
  msr_case 0x176, 0x8000000000000000, BAD
  msr_case 0x277, 0x0007040600070401, GOOD
  msr_case 0x277, 0x0007040600070402, BAD  ; type 2
  msr_case 0x277, 0x0307040600070406, BAD  ; type 3
  msr_case 0x277, 0x0007040600070408, BAD
  msr_case 0x277, 0x0007040600070406, GOOD
  msr_case 0xc0000080, 0x8000000000000500, BAD
  msr_case 0xc0000080, 0x700, BAD          ; reserved
  msr_case 0xc0000080, 0x400, BAD          ; LME, with paging on
  msr_case 0xc0000080, 0x501, GOOD         ; SCE
  msr_case 0xc0000081, 0x0023001000000000, GOOD
  msr_case 0xc0000082, CANONICAL, GOOD
  msr_case 0xc0000082, NON_CANONICAL, BAD
  msr_case 0xc0000083, CANONICAL, GOOD
  msr_case 0xc0000083, 0xff00000000000000, BAD
  msr_case 0xc0000084, 0x47700, GOOD
  msr_case 0xc0000084, 0x100047700, BAD
  msr_case 0xc0000100, 0x7fff12345678, GOOD
  msr_case 0xc0000100, NON_CANONICAL, BAD
  msr_case 0xc0000101, CANONICAL, GOOD
  msr_case 0xc0000101, 0x0001000000000000, BAD
  msr_case 0xc0000102, CANONICAL, GOOD
  msr_case 0xc0000102, NON_CANONICAL, BAD
  msr_case 0xc0000103, 0x12345678, GOOD
  msr_case 0xc0000103, 0x112345678, BAD
  msr_case 0x12345678, 0, BAD              ; there is none
cases_end:
__?SECT?__

GUEST
  start_long
  lapic_enable
  set_handler 13, on_gp
  mov esi, cases
next:
  mov ecx, [rsi]
  xor r15d, r15d          ; #GP taken
  test byte [rsi + 16], BAD
  jz .good
  cmp ecx, 0x12345678
  je .write
  rdmsr
  mov [before], eax
  mov [before + 4], edx
  jmp .write
.good:
  mov rax, [rsi + 8]
  mov [before], rax
.write:
  mov eax, [rsi + 8]
  mov edx, [rsi + 12]
  wrmsr
  mov eax, [rsi + 16]
  expect "#GP of WRMSR", r15, rax
  cmp ecx, 0x12345678
  je .skip
  rdmsr
  shl rdx, 32
  or rax, rdx
  mov rbx, [before]
  cmp ecx, 0xc0000080
  jne .whole
  and eax, 0xbff          ; LMA is the processor's
  and ebx, 0xbff
.whole:
  expect "the register behind it", rax, rbx
  mix_in rax
.skip:
  add rsi, 24
  cmp rsi, cases_end
  jb next
  finish

on_gp:
  mov r15d, 1
  add rsp, 8
  add qword [rsp], 2
  iretq

in_data align 8
in_data before: dq 0
COMMON_ROUTINES
