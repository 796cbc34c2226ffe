; SYSCALL and SYSRET, SYSENTER and SYSEXIT, in 64-bit and compatibility mode. Source: SDM 3A 5.8.7, 5.8.8; SDM 2.
%include "lib/guest.inc"
%include "lib/modes.inc"

%macro write_msr 3  ; index, high, low
  mov ecx, %1
  mov edx, %2
  mov eax, %3
  wrmsr
%endmacro
STAR equ 0xc0000081
LSTAR equ 0xc0000082
CSTAR equ 0xc0000083
FMASK equ 0xc0000084

; Returns here with the next exception.
%macro go_user 3  ; label, selector, flags
  mov qword [exc_vec], -1
  mov qword [exc_err], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], %%after
  push USERDATA
  push STACK_USER
  push %3
  push %2
  push %1
  iretq
%%after:
%endmacro

GUEST
  start_long

  ; Without SCE.
  expect_fault "SYSCALL without SCE", 6, 0, syscall
  expect_fault "SYSRET without SCE", 6, 0, o64 sysret
  mov ecx, MSR_EFER
  rdmsr
  or eax, EFER_SCE
  wrmsr
  write_msr STAR, 0x00300010, 0         ; SYSRET from 0x30, SYSCALL to 0x10
  write_msr LSTAR, 0, on_syscall
  write_msr CSTAR, 0, on_syscall_compat
  write_msr FMASK, 0, 0x4700            ; TF, IF, DF, NT

  go_user user_syscall, USER64, 0x3647  ; IF, DF, IOPL 3, ZF, PF, CF
  expect "back by SYSRET", [exc_vec], 3
  expect "place behind SYSCALL", [seen_rcx], user_syscall_next
  mov rax, [seen_r11]
  and eax, 0x3fd7
  expect "R11: the flags", rax, 0x3647 & 0x3fd7
  mov rax, [seen_flags]
  and eax, 0x7d5
  expect "flags under FMASK", rax, 0x45
  expect "CS", [seen_cs], CODE64
  expect "SS", [seen_ss], DATA
  expect "RSP is the user's", [seen_rsp], STACK_USER
  expect "CS after SYSRET", [exc_cs], USER64
  expect "SS after SYSRET", [exc_ss], USERDATA
  mov rax, [exc_flags]
  and eax, 0x3fd7
  expect "flags after SYSRET", rax, 0x3647 & 0x3fd7

  ; SYSRET to compatibility mode, and SYSCALL from there, which uses CSTAR on processors that have it at all.
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], .compat_done
  mov ecx, user_compat
  mov r11d, 0x3002
  o32 sysret
.compat_done:
  expect "32-bit SYSRET: vector", [exc_vec], 3
  expect "32-bit SYSRET: CS", [exc_cs], USER32
  expect "32-bit SYSRET: rip", [exc_rip], user_compat_end

  ; SYSRET to a non-canonical address faults in ring 0. (Elsewhere it faults in ring 3 instead: AMD; then CS tells.)
  mov rcx, 0x0000800000000000
  mov r11d, 2
  try o64 sysret
  expect "SYSRET to a non-canonical address", [exc_vec], 13
  run_user user_sysret
  expect "SYSRET in ring 3", [exc_vec], 13
  ; LSTAR must be canonical.
  mov ecx, LSTAR
  mov edx, 0x8000
  xor eax, eax
  expect_fault "non-canonical LSTAR", 13, 0, wrmsr

  ; SYSENTER.
  write_msr 0x174, 0, 0
  run_user user_sysenter
  expect "SYSENTER with a null CS", [exc_vec], 13
  write_msr 0x174, 0, CODE64
  write_msr 0x175, 0, STACK_IST1
  write_msr 0x176, 0, on_sysenter
  run_user user_sysenter, 0x3202
  expect "SYSENTER: CS", [seen_cs], CODE64
  expect "SYSENTER: SS", [seen_ss], DATA
  expect "SYSENTER: RSP", [seen_rsp], STACK_IST1
  mov rax, [seen_flags]
  and eax, 0x200
  expect "SYSENTER clears IF", rax, 0
  expect "SYSEXIT: INT3", [exc_vec], 3
  expect "SYSEXIT: CS", [exc_cs], CODE64 + 32 + 3
  expect "SYSEXIT: SS", [exc_ss], CODE64 + 40 + 3
  expect "SYSEXIT: RSP", [exc_rsp], STACK_USER - 0x100
  expect "SYSEXIT: rip", [exc_rip], sysexit_target + 1
  run_user user_sysexit
  expect "SYSEXIT in ring 3", [exc_vec], 13
  ; SYSEXIT to compatibility mode.
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], .exit32_done
  mov edx, sysexit32_target
  mov ecx, STACK_USER
  o32 sysexit
.exit32_done:
  expect "32-bit SYSEXIT: vector", [exc_vec], 3
  expect "32-bit SYSEXIT: CS", [exc_cs], CODE64 + 16 + 3
  expect "32-bit SYSEXIT: rip", [exc_rip], sysexit32_end

  ; SWAPGS.
  write_msr 0xc0000101, 0x11, 0x22
  write_msr 0xc0000102, 0x33, 0x44
  swapgs
  mov ecx, 0xc0000101
  rdmsr
  shl rdx, 32
  or rax, rdx
  mov rbx, 0x3300000044
  expect "GS base after SWAPGS", rax, rbx
  mov ecx, 0xc0000102
  rdmsr
  shl rdx, 32
  or rax, rdx
  mov rbx, 0x1100000022
  expect "kernel GS base after SWAPGS", rax, rbx
  ; FS and GS bases beyond 4 GiB, and what a selector load does to them.
  write_msr 0xc0000100, 0, SCRATCH
  mov dword [SCRATCH + 8], 0x600dbeef
  mov eax, [fs:8]
  expect "FS base from its MSR", rax, 0x600dbeef
  mov eax, DATA
  mov fs, ax
  mov ecx, 0xc0000100
  rdmsr
  expect "a selector load replaces the base", rax, 0
  finish

on_syscall:
  mov [seen_rcx], rcx
  mov [seen_r11], r11
  mov [seen_rsp], rsp
  mov eax, cs
  mov [seen_cs], rax
  mov eax, ss
  mov [seen_ss], rax
  mov esp, STACK_RSP0
  pushfq
  pop rax
  mov [seen_flags], rax
  mov rsp, [seen_rsp]
  o64 sysret
on_syscall_compat:
  failed "CSTAR"
  finish
on_sysenter:
  mov [seen_rsp], rsp
  mov eax, cs
  mov [seen_cs], rax
  mov eax, ss
  mov [seen_ss], rax
  pushfq
  pop rax
  mov [seen_flags], rax
  mov edx, sysexit_target
  mov ecx, STACK_USER - 0x100
  o64 sysexit
user_syscall:
  syscall
user_syscall_next:
  int3
user_sysret:
  o64 sysret
user_sysenter:
  sysenter
user_sysexit:
  o64 sysexit
sysexit_target:
  int3
bits 32
user_compat:
  inc eax
  int3
user_compat_end:
sysexit32_target:
  inc eax
  int3
sysexit32_end:
bits 64

in_data align 8
in_data seen_rcx: dq 0
in_data seen_r11: dq 0
in_data seen_rsp: dq 0
in_data seen_cs: dq 0
in_data seen_ss: dq 0
in_data seen_flags: dq 0

GUEST_ROUTINES
