; DR6 and DR7 over several debug exceptions: which bits each replaces, which stay; and what MOV SS holds back in front of INT1 and
; INT3. Source: SDM 3B 17.2.3, 17.2.4, 3A 6.8.3.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/dr.inc"

TF equ 0x100
DATA_AT equ SCRATCH + 0x100

%macro set_dr6 1
  mov eax, %1
  mov dr6, rax
%endmacro
%macro set_dr7 1
  mov eax, %1
  mov dr7, rax
%endmacro
%macro step 1
  mov qword [exc_vec], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], %%after
  pushfq
  or dword [rsp], TF
  popfq
  %1
  nop
%%after:
  mov qword [exc_resume], 0
%endmacro

GUEST
  start_long
  mov ebx, DATA_AT
  mov dr0, rbx
  lea rax, [rbx + 8]
  mov dr1, rax
  lea rax, [rbx + 12]
  mov dr2, rax
  set_dr7 dr7_bits(0, RW_WRITE, 3) | dr7_bits(1, RW_WRITE, 3) | dr7_bits(2, RW_WRITE, 3)

  ; B0 to B3 are those of the last debug exception.
  set_dr6 DR6_FIXED
  try mov dword [rbx], 0
  expect "first breakpoint", [exc_dr6], DR6_FIXED + 1
  try mov dword [rbx + 8], 0
  expect "second breakpoint", [exc_dr6], DR6_FIXED + 2
  try mov qword [rbx + 8], 0
  expect "two at once", [exc_dr6], DR6_FIXED + 6
  try mov dword [rbx], 0
  expect "the first again", [exc_dr6], DR6_FIXED + 1
  ; A step clears them, BS stays at the next breakpoint, BD comes to it.
  step nop
  expect "a step alone", [exc_dr6], DR6_FIXED + DR6_BS
  try mov dword [rbx + 12], 0
  expect "a breakpoint after a step", [exc_dr6], DR6_FIXED + DR6_BS + 4
  set_dr7 DR7_FIXED + DR7_GD
  try mov rax, dr0
  expect "general detection after both", [exc_dr6], DR6_FIXED + DR6_BS + DR6_BD
  mov rax, dr7
  expect "GD is off", rax, DR7_FIXED
  set_dr7 dr7_bits(0, RW_WRITE, 3)
  try mov dword [rbx], 0
  expect "a breakpoint after all", [exc_dr6], DR6_FIXED + DR6_BS + DR6_BD + 1
  set_dr7 DR7_FIXED
  ; INT1 is no condition of DR6's, and it ends general detection like the others.
  set_dr6 DR6_FIXED + DR6_BS + 3
  set_dr7 DR7_FIXED + DR7_GD
  set_handler 1, on_int1
  db 0xf1
  expect "INT1: DR6 in its handler", [int1_dr6], DR6_FIXED + DR6_BS
  expect "INT1: DR7 in its handler", [int1_dr7], DR7_FIXED

  ; MOV SS into a breakpoint, INT1 behind it: one #DB that tells of both.
  mov eax, ss
  mov [rbx], ax
  set_dr6 DR6_FIXED
  set_dr7 dr7_bits(0, RW_READWRITE, 1)
  mov dword [db_count], 0
  mov ss, [rbx]
  db 0xf1
behind_int1:
  nop
  nop
  set_dr7 DR7_FIXED
  expect "MOV SS and INT1: debug exceptions", [db_count], 1
  expect "MOV SS and INT1: DR6", [int1_dr6], DR6_FIXED + 1
  expect "MOV SS and INT1: rip", [int1_rip], behind_int1

  ; INT3 behind it: its handler is entered, and #DB comes before the handler's first instruction.
  set_handler 3, on_int3
  set_dr6 DR6_FIXED
  set_dr7 dr7_bits(0, RW_READWRITE, 1)
  mov dword [db_count], 0
  mov ss, [rbx]
  int3
  set_dr7 DR7_FIXED
  expect "MOV SS and INT3: debug exceptions", [db_count], 1
  expect "MOV SS and INT3: rip", [int1_rip], on_int3
  expect "MOV SS and INT3: breakpoint exceptions", [bp_count], 1
  finish

on_int1:
  push rax
  inc dword [db_count]
  mov rax, dr6
  mov [int1_dr6], rax
  mov rax, dr7
  mov [int1_dr7], rax
  mov rax, [rsp + 8]
  mov [int1_rip], rax
  pop rax
  iretq
on_int3:
  inc dword [bp_count]
  iretq

in_data align 8
in_data int1_dr6: dq 0
in_data int1_dr7: dq 0
in_data int1_rip: dq 0
in_data db_count: dq 0
in_data bp_count: dq 0

GUEST_ROUTINES
