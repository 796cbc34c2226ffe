; A program in ring 3 that calls its kernel by INT3 all the time, so that a timer that comes due interrupts it at or behind one.
; Each call counts, and the program checks that none is lost.
%include "common.inc"

ALL_TICKS equ 60
PERIOD    equ 298  ; 0.25 ms

GUEST
  start_long
  linux_gdt
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_pit
  set_handler 3, on_bp
  mov byte [IDT64 + 3 * 16 + 5], 0xee
  set_handler 6, on_ud
  pit_start 2, PERIOD
  to_user user, STACK_USER

user:
  xor ebx, ebx
.next:
  inc rbx
  int3
  cmp rbx, [calls]
  jne .lost
  cmp dword [ticks], ALL_TICKS
  jb .next
.lost:
  ud2

on_bp:
  inc qword [calls]
  iretq

on_ud:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  mix_in rbx
  says "int3_user: lost "
  mov rax, rbx
  sub rax, [calls]
  call serial_number
  says " state "
  says_number [mixed]
  says 10
  cmp rbx, [calls]
  je .fine
  failed "a call was lost"
.fine:
  end_run

on_pit:
  push rax
  push r10
  mov rax, [calls]
  mix_in rax
  mov rax, [rsp + 16]
  mix_in rax
  inc dword [ticks]
  mov al, 0x20
  out 0x20, al
  pop r10
  pop rax
  iretq

in_data align 8
in_data calls: dq 0
in_data ticks: dd 0
COMMON_ROUTINES
