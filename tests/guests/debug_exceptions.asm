; Single step, breakpoints of every kind, RF, GD, INT1, and what MOV SS does to them. Source: SDM 3B 17.2, 17.3; 3A 6.8.3.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/dr.inc"

TF equ 0x100
RF equ 0x10000
DATA_AT equ SCRATCH + 0x100

; Runs up to three instructions (in braces) with TF set before the first; comes back after the trap.
%macro step 1-3 nop, nop
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], %%after
  mov rax, DR6_FIXED
  mov dr6, rax
  pushfq
  or dword [rsp], TF
  popfq
  %1
  %2
  %3
%%after:
  mov qword [exc_resume], 0
%endmacro
; Clears DR6 and sets DR7.
%macro arm 1
  mov eax, DR6_FIXED
  mov dr6, rax
  mov eax, %1
  mov dr7, rax
%endmacro
%macro disarm 0
  mov eax, DR7_FIXED
  mov dr7, rax
%endmacro
%macro expect_db 3  ; "what", rip, DR6 without the fixed bits
  expect {%1, ": vector"}, [exc_vec], 1
  expect {%1, ": rip"}, [exc_rip], %2
  expect {%1, ": DR6"}, [exc_dr6], DR6_FIXED + (%3)
%endmacro

GUEST
  start_long

  ; Single step: the trap comes after the instruction behind POPF.
  xor ebx, ebx
  step {nop}, {step_target: nop}
  expect_db "step over NOP", step_target, DR6_BS
  xor ebx, ebx
  step {inc ebx}, {inc ebx}
  expect "one instruction is executed", rbx, 1
  mov rax, [exc_flags]
  and eax, TF
  expect "TF is in the saved flags", rax, TF
  pushfq
  pop rax
  and eax, TF
  expect "TF is off in the handler", rax, 0

  ; A step over a taken jump, over a repeated string instruction (every iteration traps), over INT (the handler is not
  ; stepped).
  step {jmp s1}, {nop}, {s1: nop}
  expect_db "step over JMP", s1, DR6_BS
  mov ecx, 3
  mov edi, SCRATCH
  step {rep stosb}
  expect "REP STOSB traps after one iteration", rcx, 2
  expect "RDI after one iteration", rdi, SCRATCH + 1
  set_handler 0x31, on_int
  mov qword [saved_flags], 0
  step {int 0x31}
  mov rax, [saved_flags]
  and eax, TF
  expect "TF in the flags that INT saved", rax, TF
  expect "the handler of INT was not stepped", rbx, 0x77
  ; IRET that sets TF: the trap comes after the instruction returned to.
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], iret_done
  mov rax, rsp
  push DATA
  push rax
  push 2 + TF
  push CODE64
  push iret_target
  xor ebx, ebx
  iretq
iret_target:
  inc ebx
iret_target2:
  inc ebx
iret_done:
  expect "IRET to TF = 1: one instruction", rbx, 1
  expect "IRET to TF = 1: rip", [exc_rip], iret_target2

  ; Execution breakpoint: a fault before the instruction; RF in the flags lets it pass.
  mov eax, bp0
  mov dr0, rax
  xor ebx, ebx
  arm dr7_bits(0, RW_EXECUTE, 0)
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], bp_done
bp0:
  inc ebx
  failed "instruction with a breakpoint"
bp_done:
  expect_db "execution breakpoint", bp0, 1
  expect "the instruction was not executed", rbx, 0
  set_handler 1, on_db_set_rf
  mov dword [db_count], 0
  jmp bp1
  align 16
bp1:
  mov eax, bp1_insn
  mov dr0, rax
  mov ecx, 3
bp1_loop:
bp1_insn:
  inc ebx
  loop bp1_loop
  expect "breakpoint in a loop, handler sets RF: hits", [db_count], 3
  expect "breakpoint in a loop: executed", rbx, 3
  expect_flags "RF reads as zero after it", RF, 0
  disarm
  inc ebx
  set_handler 1, stubs64 + 16

  ; A fault pushes RF = 1 (so that its restart passes the breakpoint); traps and interrupts push 0.
  try ud2
  mov rax, [exc_flags]
  and eax, RF
  expect "RF in the flags that #UD saved", rax, RF
  try int3
  mov rax, [exc_flags]
  and eax, RF
  expect "RF in the flags that #BP saved", rax, 0

  ; Data breakpoints: traps, after the access.
  mov eax, DATA_AT
  mov dr1, rax
  arm dr7_bits(1, RW_WRITE, 3)
  mov ebx, DATA_AT
  expect_ok "read of a write breakpoint", mov eax, [rbx]
  try mov dword [rbx], 0x1234
  expect "write breakpoint: vector", [exc_vec], 1
  expect "write breakpoint: DR6", [exc_dr6], DR6_FIXED + 2
  mov rax, [try_rip]
  add rax, 6
  expect "write breakpoint: rip behind the instruction", [exc_rip], rax
  mov eax, [rbx]
  expect "write breakpoint: the write happened", rax, 0x1234
  expect_ok "write in front of it", mov dword [rbx - 4], 1
  expect_ok "write behind it", mov dword [rbx + 4], 1
  try mov dword [rbx - 3], 1
  expect "write that overlaps its first byte", [exc_vec], 1
  try mov byte [rbx + 3], 1
  expect "write to its last byte", [exc_vec], 1
  arm dr7_bits(1, RW_READWRITE, 3)
  try mov eax, [rbx]
  expect "read/write breakpoint, read", [exc_vec], 1
  try add dword [rbx], 1
  expect "read/write breakpoint, read-modify-write", [exc_vec], 1
  try push qword [rbx]
  expect "read/write breakpoint, PUSH", [exc_vec], 1
  arm dr7_bits(1, RW_WRITE, 2)
  try mov byte [rbx + 7], 0
  expect "8-byte breakpoint, last byte", [exc_vec], 1
  ; Two at once, and both are told.
  mov eax, DATA_AT + 1
  mov dr2, rax
  arm dr7_bits(1, RW_WRITE, 3) | dr7_bits(2, RW_WRITE, 0)
  try mov dword [rbx], 0
  expect "two breakpoints: DR6", [exc_dr6], DR6_FIXED + 6
  ; A string instruction traps after the iteration that hits.
  arm dr7_bits(1, RW_WRITE, 0)
  mov edi, DATA_AT - 2
  mov ecx, 8
  try rep stosb
  expect "REP STOSB into a breakpoint: RCX", rcx, 5
  expect "REP STOSB into a breakpoint: rip is the instruction", [exc_rip], [try_rip]
  ; Step and breakpoint together.
  step {mov byte [rbx], 1}
  expect "step and data breakpoint: DR6", [exc_dr6], DR6_FIXED + DR6_BS + 2
  disarm
  expect_ok "disarmed", mov [rbx], eax

  ; I/O breakpoint: needs CR4.DE.
  set_bits cr4, CR4_DE
  mov eax, 0x80
  mov dr3, rax
  arm dr7_bits(3, RW_IO, 0)
  try out 0x80, al
  expect "I/O breakpoint: vector", [exc_vec], 1
  expect "I/O breakpoint: DR6", [exc_dr6], DR6_FIXED + 8
  mov rax, [try_rip]
  add rax, 2
  expect "I/O breakpoint: rip behind the instruction", [exc_rip], rax
  expect_ok "another port", out 0x84, al
  disarm
  ; DR4 and DR5 are DR6 and DR7 without DE, and not there with it.
  expect_fault "DR4 with DE", 6, 0, mov rax, dr4
  clear_bits cr4, CR4_DE
  mov rax, dr5
  expect "DR5 without DE is DR7", rax, DR7_FIXED

  ; General detect: any access to a debug register faults; the handler finds GD clear.
  arm DR7_FIXED + DR7_GD
  try mov rax, dr3
  expect "GD: vector", [exc_vec], 1
  expect "GD: DR6", [exc_dr6], DR6_FIXED + DR6_BD
  expect "GD: rip is the instruction", [exc_rip], [try_rip]
  mov rax, dr7
  expect "GD is clear afterwards", rax, DR7_FIXED
  ; Values that cannot be.
  mov rax, 1 << 32
  expect_fault "upper half of DR7", 13, 0, mov dr7, rax
  expect_fault "upper half of DR6", 13, 0, mov dr6, rax
  run_user user_dr
  expect "MOV DR in ring 3", [exc_vec], 13

  ; INT1: a trap that sets nothing in DR6. INT3 and its flags.
  mov eax, DR6_FIXED
  mov dr6, rax
  try db 0xf1
  expect "INT1: vector", [exc_vec], 1
  expect "INT1: DR6", [exc_dr6], DR6_FIXED
  mov rax, [try_rip]
  inc rax
  expect "INT1: rip", [exc_rip], rax
  try int3
  expect "INT3: vector", [exc_vec], 3
  mov rax, [try_rip]
  inc rax
  expect "INT3: rip", [exc_rip], rax

  ; MOV SS: debug exceptions wait for the next instruction.
  mov eax, ss
  mov [DATA_AT], ax
  arm dr7_bits(1, RW_READWRITE, 1)
  xor ecx, ecx
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], ss_done
  mov ss, [rbx]
  inc ecx
behind_shadow:
  inc ecx
ss_done:
  mov qword [exc_resume], 0
  disarm
  expect "MOV SS into a breakpoint: one more instruction", rcx, 1
  expect "MOV SS into a breakpoint: rip", [exc_rip], behind_shadow
  expect "MOV SS into a breakpoint: DR6", [exc_dr6], DR6_FIXED + 2
  ; Single step over MOV SS: the trap comes after the next instruction.
  xor ecx, ecx
  mov edx, ss
  step {mov ss, dx}, {inc ecx}, {inc ecx}
  expect "step over MOV SS runs one more", rcx, 1
  finish

user_dr:
  mov rax, dr0
  int3
on_int:
  mov ebx, 0x77
  mov rax, [rsp + 16]
  mov [saved_flags], rax
  iretq
on_db_set_rf:
  inc dword [db_count]
  or dword [rsp + 16], RF
  iretq

in_data saved_flags: dq 0
in_data db_count: dq 0

GUEST_ROUTINES
