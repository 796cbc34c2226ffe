; IRET and RETF to an outer level take away data segments that it may not use: their selectors and access rights, not the bases of FS
; and GS. Source: SDM 2 "IRET", "RET"; 3A 5.8.6.
%include "lib/guest.inc"
%include "lib/modes.inc"

MSR_FS_BASE equ 0xc0000100
MSR_GS_BASE equ 0xc0000101

%macro set_base 3  ; MSR, high, low
  mov ecx, %1
  mov edx, %2
  mov eax, %3
  wrmsr
%endmacro
%macro expect_base 4  ; "what", MSR, high, low
  mov ecx, %2
  rdmsr
  shl rdx, 32
  or rax, rdx
  mov rdx, ((%3) << 32) | (%4)
  expect %1, rax, rdx
%endmacro
%macro load_all 0
  load_data_segments DATA
  set_base MSR_FS_BASE, 0x1234, 0x56789abc
  set_base MSR_GS_BASE, 0xffff8000, 0x11112222
%endmacro

GUEST
  start_long
  set_handler 0x30, on_30
  mov byte [IDT64 + 0x30 * 16 + 5], 0xee

  load_all
  mov [back_rsp], rsp
  mov qword [back], after_iret
  push USERDATA
  push STACK_USER
  push 0x3002
  push USER64
  push user
  iretq
after_iret:
  call check
  load_all
  mov [back_rsp], rsp
  mov qword [back], after_retf
  push USERDATA
  push STACK_USER
  push USER64
  push user
  o64 retf
after_retf:
  call check
  ; What the outer level may use stays as it is.
  mov ax, USERDATA
  mov ds, ax
  mov es, ax
  mov gs, ax
  set_base MSR_GS_BASE, 1, 2
  mov [back_rsp], rsp
  mov qword [back], after_usable
  push USERDATA
  push STACK_USER
  push 0x3002
  push USER64
  push user
  iretq
after_usable:
  expect "DS stays", [seen_ds], USERDATA
  expect "GS stays", [seen_gs], USERDATA
  expect_base "its base", MSR_GS_BASE, 1, 2
  finish

check:
  expect "DS is null", [seen_ds], 0
  expect "ES is null", [seen_es], 0
  expect "FS is null", [seen_fs], 0
  expect "GS is null", [seen_gs], 0
  expect_base "base of FS", MSR_FS_BASE, 0x1234, 0x56789abc
  expect_base "base of GS", MSR_GS_BASE, 0xffff8000, 0x11112222
  ret

user:
  int 0x30
; Notes the selectors and goes on in ring 0 behind the return.
on_30:
  xor eax, eax
  mov ax, ds
  mov [seen_ds], rax
  mov ax, es
  mov [seen_es], rax
  mov ax, fs
  mov [seen_fs], rax
  mov ax, gs
  mov [seen_gs], rax
  mov ax, DATA
  mov ss, ax
  mov rsp, [back_rsp]
  jmp [back]

in_data align 8
in_data back: dq 0
in_data back_rsp: dq 0
in_data seen_ds: dq 0
in_data seen_es: dq 0
in_data seen_fs: dq 0
in_data seen_gs: dq 0

GUEST_ROUTINES
