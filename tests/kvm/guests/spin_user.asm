; As spin.asm, in ring 3: a loop with a counter in a register and in memory, SSE registers that change, and in the end a
; loop whose state is the same each time round.
%include "common.inc"

COUNTED_TICKS equ 12
ALL_TICKS     equ 20
PERIOD        equ 358  ; 0.3 ms

GUEST
  start_long
  set_bits cr4, CR4_OSFXSR
  linux_gdt
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_pit
  set_handler 6, on_ud
  pit_start 2, PERIOD
  to_user user, STACK_USER

user:
  xor ebx, ebx
  xor ecx, ecx
  pxor xmm0, xmm0
  mov eax, 0x1234567
  movd xmm1, eax
.counted:
  inc rcx
  lea rax, [rcx + rcx * 4]
  mov edx, eax
  and edx, 0x1fff
  xor [SCRATCH + rdx * 8], rax
  add rbx, [SCRATCH + rdx * 8]
  paddq xmm0, xmm1
  pshufd xmm1, xmm1, 0x93
  inc qword [counter]
  cmp dword [ticks], COUNTED_TICKS
  jb .counted
  movq rax, xmm0
  add rbx, rax
.alike:
  cmp dword [ticks], ALL_TICKS
  jb .alike
  ud2

on_ud:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  cmp qword [rsp + 8], L_USER_CODE
  jne .wrong
  mix_in rbx
  says "spin_user: ticks "
  mov eax, [ticks]
  call serial_number
  end_with_state
.wrong:
  failed "#UD from elsewhere"
  finish

on_pit:
  push rax
  push r10
  mov rax, [counter]
  mix_in rax
  mix_in rcx
  mov rax, [rsp + 16]
  mix_in rax
  inc dword [ticks]
  mov al, 0x20
  out 0x20, al
  pop r10
  pop rax
  iretq

in_data align 8
in_data counter: dq 0
in_data ticks: dd 0
COMMON_ROUTINES
