; Virtual-8086 mode: entry by IRET, the frame of an exit, IOPL-sensitive instructions, I/O permissions, segments as
; paragraphs.
; Source: SDM 3B chapter 20.
%include "lib/guest.inc"
%include "lib/modes.inc"

VM equ 1 << 17
V86_SEG equ SCRATCH >> 4
V86_SP equ 0x800

; run_v86 label, flags: enters vm86 at V86_SEG:(label's offset in the copy); comes back with the first exception.
%macro run_v86 2
  mov dword [exc_vec], -1
  mov dword [exc_err], -1
  mov [exc_resume_rsp], esp
  mov dword [exc_resume], %%after
  push dword 0x5555          ; GS
  push dword 0x4444          ; FS
  push dword 0x3000          ; DS
  push dword V86_SEG         ; ES
  push dword V86_SEG         ; SS
  push dword V86_SP
  push dword VM + (%2)
  push dword V86_SEG
  push dword (%1) - v86_code
  iretd
%%after:
  mov ax, DATA
  mov es, ax
%endmacro

GUEST
  start_protected32
  mov esi, v86_code
  mov edi, SCRATCH
  mov ecx, v86_end - v86_code
  rep movsb

  run_v86 v86_ud, 0x3002
  expect "exception from vm86: vector", [exc_vec], 6
  expect "exception from vm86: CS", [exc_cs], V86_SEG
  expect "exception from vm86: EIP", [exc_rip], v86_ud_at - v86_code
  expect "exception from vm86: SS", [exc_ss], V86_SEG
  expect "exception from vm86: ESP", [exc_rsp], V86_SP - 2
  mov eax, [exc_flags]
  and eax, VM + 0x3000
  expect "exception from vm86: VM and IOPL in the saved flags", eax, VM + 0x3000
  expect "saved ES", [STACK_RSP0 - 16], V86_SEG
  expect "saved DS", [STACK_RSP0 - 12], 0x3000
  expect "saved FS", [STACK_RSP0 - 8], 0x4444
  expect "saved GS", [STACK_RSP0 - 4], 0x5555
  mov eax, fs
  expect "FS after the exit", eax, 0
  movzx eax, word [SCRATCH + V86_SP - 2]
  expect "PUSH in vm86 pushes a word", eax, 0xbeef
  expect "the write went to DS * 16", [0x30010], 0x13579bdf
  expect_flags "VM is clear in the handler's world", VM, 0

  ; IOPL < 3: CLI, STI, PUSHF, POPF, INT n and IRET fault; IN and OUT do not care for IOPL but for the bitmap.
  run_v86 v86_cli, 0x0002
  expect "CLI with IOPL 0: vector", [exc_vec], 13
  expect "CLI with IOPL 0: error code", [exc_err], 0
  run_v86 v86_pushf, 0x0002
  expect "PUSHF with IOPL 0", [exc_vec], 13
  run_v86 v86_popf, 0x0002
  expect "POPF with IOPL 0", [exc_vec], 13
  run_v86 v86_int, 0x0002
  expect "INT n with IOPL 0: vector", [exc_vec], 13
  expect "INT n with IOPL 0: error code", [exc_err], 0
  run_v86 v86_iret, 0x0002
  expect "IRET with IOPL 0", [exc_vec], 13
  run_v86 v86_int3, 0x0002
  expect "INT3 with IOPL 0 goes through the IDT", [exc_vec], 3
  run_v86 v86_cli, 0x3202
  expect "CLI with IOPL 3", [exc_vec], 6
  mov eax, [exc_flags]
  and eax, 0x200
  expect "IF after CLI in vm86", eax, 0
  run_v86 v86_int, 0x3002
  expect "INT n with IOPL 3 goes through the IDT", [exc_vec], 0x30
  run_v86 v86_popf, 0x3202
  mov eax, [exc_flags]
  and eax, VM + 0x3000
  expect "POPF in vm86 leaves VM and IOPL", eax, VM + 0x3000
  run_v86 v86_iret, 0x3002
  expect "IRET in vm86 is the one of real mode", [exc_vec], 6
  expect "IRET in vm86: EIP", [exc_rip], v86_iret_target - v86_code
  run_v86 v86_hlt, 0x3002
  expect "HLT in vm86", [exc_vec], 13
  run_v86 v86_lldt, 0x3002
  expect "LLDT in vm86", [exc_vec], 6
  run_v86 v86_cr, 0x3002
  expect "MOV CR0 in vm86", [exc_vec], 13
  run_v86 v86_limit, 0x3002
  expect "word at offset 0xffff in vm86", [exc_vec], 13
  run_v86 v86_stack_limit, 0x3002
  expect "word at SS:0xffff in vm86", [exc_vec], 12
  ; The bitmap counts even with IOPL 3.
  run_v86 v86_out, 0x3002
  expect "OUT in vm86 without a bitmap", [exc_vec], 13
  set_descriptor SEL_TSS32, TSS32, 0x68 + 0x20, 0x89, 0
  mov ax, SEL_TSS32
  ltr ax
  mov byte [TSS32 + 0x68 + 0x20], 0xff
  run_v86 v86_out, 0x0002
  expect "OUT in vm86 to a permitted port", [exc_vec], 6
  mov byte [TSS32 + 0x68 + 0x80 / 8], 1
  run_v86 v86_out, 0x3002
  expect "OUT in vm86 to a denied port", [exc_vec], 13
  ; A gate to a segment that is not ring 0 cannot be used from vm86.
  mov word [IDT32 + 6 * 8 + 2], USER32
  run_v86 v86_ud, 0x3002
  expect "gate to ring 3 from vm86: vector", [exc_vec], 13
  mov eax, [exc_err]
  and eax, 0xfffc
  expect "gate to ring 3 from vm86: error code", eax, USER32 & ~3
  finish

bits 16
v86_code:
v86_ud:
  push word 0xbeef
  mov dword [0x10], 0x13579bdf
v86_ud_at:
  ud2
v86_cli:
  cli
  ud2
v86_pushf:
  pushf
  ud2
v86_popf:
  push word 0
  popf
  ud2
v86_int:
  int 0x30
  ud2
v86_int3:
  int3
  ud2
v86_iret:
  push word 2
  push word V86_SEG
  push word v86_iret_target - v86_code
  iret
  nop
v86_iret_target:
  ud2
v86_hlt:
  hlt
v86_lldt:
  lldt ax
v86_cr:
  mov eax, cr0
v86_limit:
  mov bx, 0xffff
  mov ax, [bx]
  ud2
v86_stack_limit:
  mov bp, 0xffff
  mov ax, [bp]
  ud2
v86_out:
  out 0x80, al
  ud2
v86_end:
bits 32

GUEST_ROUTINES
