; As int3_user, but each run of calls comes behind another exception and then a run of port accesses. Behind those the KVM engine
; asks KVM for less than the whole state (KvmEngine::registers_suffice()), so what it has seen last is the other exception;
; an interruption directly behind INT3 must be known all the same.
%include "common.inc"

ALL_TICKS equ 60
PERIOD    equ 298  ; 0.25 ms
ACCESSES  equ 64   ; before each run of calls
CALLS     equ 64   ; in a run

GUEST
  start_long
  linux_gdt
  allow_port 0x61
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
.run:
  ud2
  mov ecx, ACCESSES
.access:
  in al, 0x61
  dec ecx
  jnz .access
  mov ecx, CALLS
.next:
  inc rbx
  int3
  cmp rbx, [calls]
  jne .lost
  dec ecx
  jnz .next
  cmp dword [ticks], ALL_TICKS
  jb .run
.lost:
  mov byte [over], 1
  ud2

on_bp:
  inc qword [calls]
  iretq

on_ud:
  cmp byte [over], 0
  jne .over
  add qword [rsp], 2
  iretq
.over:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  mix_in rbx
  says "int3_accesses: lost "
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
in_data over: db 0
COMMON_ROUTINES
