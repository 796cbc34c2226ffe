; A program in ring 3 calls its kernel by INT n, through a gate for programs. Not every KVM takes it there; `retrovisor doctor`
; asks for that, and `record` warns.
%include "common.inc"

GUEST
  start_long
  linux_gdt
  set_handler 0x30, on_call
  mov byte [IDT64 + 0x30 * 16 + 5], 0xee
  set_handler 6, on_ud
  to_user user, STACK_USER

user:
  int 0x30
  ud2

on_call:
  mov ebx, 1
  iretq

on_ud:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  says "int_n: calls "
  mov eax, ebx
  call serial_number
  says 10
  end_run
COMMON_ROUTINES
