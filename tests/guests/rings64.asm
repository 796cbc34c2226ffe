; Privilege transitions in 64-bit mode: 64-bit call gates, RETF and IRET to ring 3, RSP0 and IST, null SS, stack alignment,
; the I/O
; permission bitmap, ring 3 in compatibility mode. Source: SDM 3A 5.8, 6.14, 8.7.
%include "lib/guest.inc"
%include "lib/modes.inc"

GATE0 equ SPARE + 3  ; 64-bit call gate, two slots
GATE32 equ SPARE + 16 + 3

GUEST
  start_long
  mov eax, gate_target
  mov [gdt + SPARE], ax
  mov word [gdt + SPARE + 2], CODE64
  mov word [gdt + SPARE + 4], 0xec00
  shr eax, 16
  mov [gdt + SPARE + 6], ax
  mov qword [gdt + SPARE + 8], 0

  ; Call gate: 8-byte frame, SS becomes null with the new RPL.
  run_user user_gate
  expect "back by RETF: vector", [exc_vec], 3
  expect "back by RETF: CS", [exc_cs], USER64
  expect "back by RETF: SS", [exc_ss], USERDATA
  expect "back by RETF: RSP", [exc_rsp], STACK_USER
  expect "CS in the gate's target", [seen_cs], CODE64
  expect "SS in the gate's target is null", [seen_ss], 0
  expect "stack pointer in the target", [seen_rsp], STACK_RSP0 - 32
  expect "saved RSP", [seen_frame + 16], STACK_USER
  expect "saved SS", [seen_frame + 24], USERDATA
  expect "saved CS", [seen_frame + 8], USER64
  ; A far CALL to a 32-bit call gate type (4) is not valid in long mode, nor is one with a broken upper half.
  mov dword [gdt + SPARE + 12], 0x0100
  expect_user "call gate with a type in its upper half", user_gate, 13, GATE0 & ~3
  mov dword [gdt + SPARE + 12], 0
  mov word [gdt + SPARE + 2], CODE32
  expect_user "call gate to a 32-bit segment", user_gate, 13, CODE32
  mov word [gdt + SPARE + 2], CODE64

  ; Interrupt from ring 3: RSP0, SS null in the handler; from ring 0: the same stack, aligned to 16 bytes, SS kept.
  set_handler 0x30, on_30
  mov byte [IDT64 + 0x30 * 16 + 5], 0xee
  run_user user_int30
  expect "handler's stack from ring 3", [seen_rsp], STACK_RSP0 - 40
  expect "SS in the handler from ring 3", [seen_ss], 0
  mov rbx, rsp
  sub rsp, 5
  int 0x30
  mov rcx, rsp
  mov rsp, rbx
  sub rbx, 5
  expect "RSP is restored unaligned", rcx, rbx
  and rbx, ~15
  sub rbx, 40
  expect "handler's stack from ring 0 is aligned", [seen_rsp], rbx
  expect "SS in the handler from ring 0", [seen_ss], DATA
  ; IST from ring 0 and ring 3.
  mov byte [IDT64 + 0x30 * 16 + 4], 2
  int 0x30
  expect "handler's stack with IST2", [seen_rsp], STACK_IST2 - 40
  run_user user_int30
  expect "handler's stack with IST2 from ring 3", [seen_rsp], STACK_IST2 - 40
  mov byte [IDT64 + 0x30 * 16 + 4], 0
  ; An RSP0 that is not canonical: #SS(0), with that stack again: a double fault unless it has a stack of its own.
  mov byte [IDT64 + 12 * 16 + 4], 1
  mov dword [TSS64 + 8], 0x00009000
  run_user user_int30
  expect "RSP0 not canonical: vector", [exc_vec], 12
  mov dword [TSS64 + 8], 0

  ; SS may be null in rings 0 to 2 of 64-bit mode, not in ring 3.
  xor eax, eax
  expect_ok "null into SS in ring 0", mov ss, ax
  mov eax, DATA
  mov ss, ax
  mov eax, 3
  expect_fault "null with RPL 3 into SS in ring 0", 13, 0, mov ss, ax
  expect_user "null into SS in ring 3", user_null_ss, 13, 0

  ; IRET: to ring 0 with a null SS; to ring 3 with a null SS faults; to a non-canonical RIP faults.
  mov rbx, rsp
  push 0
  push rbx
  push 2
  push CODE64
  push .null_ss
  iretq
.null_ss:
  mov eax, ss
  expect "SS after IRET with a null SS", rax, 0
  mov eax, DATA
  mov ss, ax
  mov rbx, rsp
  push 3
  push rbx
  push 2
  push USER64
  push user_int3
  expect_fault "IRET to ring 3 with a null SS", 13, 0, iretq
  mov rsp, rbx
  push DATA
  push rbx
  push 2
  push CODE64
  mov rax, 0x0000800000000000
  push rax
  try iretq
  expect "IRET to a non-canonical RIP", [exc_vec], 13
  mov rsp, rbx
  push DATA
  push rbx
  push 2
  push DATA
  push user_int3
  expect_fault "IRET to a data segment", 13, DATA, iretq
  mov rsp, rbx

  ; Ring 3 in compatibility mode, and an interrupt from there.
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], .compat_done
  push USERDATA
  push STACK_USER
  push 2
  push USER32
  push user_compat
  iretq
.compat_done:
  expect "INT3 from compatibility mode: CS", [exc_cs], USER32
  expect "INT3 from compatibility mode: RSP", [exc_rsp], STACK_USER - 4
  expect "EAX in compatibility mode", rax, 0x12340001

  ; I/O permission bitmap of a 64-bit TSS.
  set_descriptor SEL_TSS64, TSS64, 0x68 + 0x20, 0x89, 0
  mov eax, SEL_TSS64
  ltr ax
  mov edi, TSS64 + 0x68
  mov ecx, 0x20 / 8
  xor eax, eax
  rep stosq
  mov byte [TSS64 + 0x68 + 0x20], 0xff
  mov byte [TSS64 + 0x68 + 0x80 / 8], 0x02
  run_user user_out80, 2
  expect "OUT to a permitted port", [exc_vec], 3
  run_user user_out81, 2
  expect "OUT to a denied port", [exc_vec], 13
  run_user user_outd, 2
  expect "dword OUT that covers a denied port", [exc_vec], 13
  run_user user_cli, 2
  expect "CLI with IOPL 0", [exc_vec], 13
  run_user user_swapgs, 2
  expect "SWAPGS in ring 3", [exc_vec], 13
  run_user user_wrmsr, 2
  expect "WRMSR in ring 3", [exc_vec], 13

  ; Alignment checks: ring 3 with AC and CR0.AM.
  set_bits cr0, CR0_AM
  run_user user_unaligned, 0x40002
  expect "unaligned access with AC: vector", [exc_vec], 17
  expect "unaligned access with AC: error code", [exc_err], 0
  run_user user_unaligned, 2
  expect "unaligned access without AC", [exc_vec], 3
  pushfq
  or dword [rsp], 0x40000
  popfq
  expect_ok "unaligned access with AC in ring 0", mov eax, [abs SCRATCH + 1]
  finish

gate_target:
  mov [seen_rsp], rsp
  mov rsi, rsp
  mov edi, seen_frame
  mov ecx, 4
  rep movsq
  mov eax, cs
  mov [seen_cs], rax
  mov eax, ss
  mov [seen_ss], rax
  o64 retf
on_30:
  mov [seen_rsp], rsp
  push rax
  mov eax, ss
  mov [seen_ss], rax
  pop rax
  iretq
user_gate:
  call far dword [gate_pointer]
  int3
user_int30:
  int 0x30
user_int3:
  int3
user_null_ss:
  xor eax, eax
  mov ss, ax
  int3
user_out80:
  out 0x80, al
  int3
user_out81:
  out 0x81, al
  int3
user_outd:
  mov edx, 0x7e
  out dx, eax
  int3
user_cli:
  cli
  int3
user_swapgs:
  swapgs
  int3
user_wrmsr:
  mov ecx, MSR_EFER
  wrmsr
  int3
user_unaligned:
  mov eax, [abs SCRATCH + 1]
  int3
bits 32
user_compat:
  mov eax, 0x12340000
  inc eax                 ; 0x40: a REX prefix in 64-bit mode
  push eax
  int3
bits 64

in_data align 8
in_data seen_rsp: dq 0
in_data seen_cs: dq 0
in_data seen_ss: dq 0
in_data seen_frame: times 4 dq 0
in_data gate_pointer: dd 0
in_data dw GATE0

GUEST_ROUTINES
