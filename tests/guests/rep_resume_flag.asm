; RF while iterations of a repeated string instruction are left: pushed as 1 by interrupts, traps and faults behind any iteration
; but the last, and in force until the instruction is done, so that its own breakpoint hits once. Source: SDM 3B 17.3.1.1.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"
%include "lib/dr.inc"

TF equ 0x100
RF equ 0x10000
COUNT equ 0x200000
SRC equ 0x400000
DST equ 0x800000
MISSING equ 0xa00000            ; its second page is taken away
TABLE equ FREE

; Runs an instruction with TF set before it; the trap comes behind its first iteration.
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
%macro expect_rf 2  ; "what", RF in the flags of the last exception
  mov rax, [exc_flags]
  and eax, RF
  expect %1, rax, (%2) * RF
%endmacro
; A breakpoint on an instruction that repeats five times, whose handler sets RF: one hit.
%macro hit_once 2  ; "what", instruction
  mov dword [db_count], 0
  mov esi, SRC
  mov edi, DST
  mov ecx, 5
  mov edx, 0x80
  xor eax, eax
  mov rbx, %%insn
  mov dr0, rbx
  mov ebx, dr7_bits(0, RW_EXECUTE, 0)
  mov dr7, rbx
%%insn:
  %2
  mov ebx, DR7_FIXED
  mov dr7, rbx
  expect {%1, ": hits of its breakpoint"}, [db_count], 1
  expect {%1, ": iterations"}, rcx, 0
%endmacro

GUEST
  start_long
  pic_init 0xfe, 0xff
  lapic_enable
  set_handler 0x20, on_irq0

  ; Single steps: RF behind the iterations that are not the last.
  mov edi, DST
  mov ecx, 3
  xor eax, eax
  step rep stosb
  expect "step of REP STOSB: RCX", rcx, 2
  expect_rf "step behind the first iteration", 1
  step rep stosb
  expect_rf "step behind the second", 1
  step rep stosb
  expect "step of REP STOSB: RCX in the end", rcx, 0
  expect_rf "step behind the last", 0
  mov esi, SRC
  mov edi, DST
  mov ecx, 3
  step repe cmpsb
  expect_rf "step of REPE CMPSB", 1
  mov edi, DST
  mov ecx, 3
  mov al, [DST]
  step repne scasb                ; found at once: the first is the last
  expect_rf "step of REPNE SCASB that ends", 0
  mov esi, SRC
  mov ecx, 2
  mov edx, 0x80
  step rep outsb
  expect_rf "step of REP OUTSB", 1
  step rep outsb
  expect_rf "step of REP OUTSB, the last", 0
  step stosb
  expect_rf "step of STOSB", 0

  ; Data breakpoints.
  mov eax, DST + 2
  mov dr1, rax
  mov eax, dr7_bits(1, RW_WRITE, 0)
  mov dr7, rax
  mov edi, DST
  mov ecx, 8
  try rep stosb
  expect "data breakpoint: RCX", rcx, 5
  expect_rf "data breakpoint behind an iteration", 1
  mov edi, DST
  mov ecx, 3
  try rep stosb
  expect "data breakpoint: RCX in the end", rcx, 0
  expect_rf "data breakpoint behind the last", 0
  mov eax, DR7_FIXED
  mov dr7, rax

  ; Interrupts.
  pit_start 2, 100
  mov dword [inside], 0
  mov dword [without_rf], 0
  mov edi, DST
  mov ecx, COUNT
  mov qword [watched_rip], interrupted
  sti
interrupted:
  rep stosb
  cli
  cmp dword [inside], 1
  seta al
  movzx eax, al
  expect "interrupts between iterations", rax, 1
  expect "of them, without RF", [without_rf], 0

  ; The breakpoint of a string instruction hits once, whatever comes between its iterations.
  set_handler 1, on_db_set_rf
  hit_once "REP STOSB", rep stosb
  hit_once "REP MOVSB", rep movsb
  hit_once "REP LODSB", rep lodsb
  hit_once "REPE CMPSB", repe cmpsb
  hit_once "REPE SCASB", repe scasb
  hit_once "REP OUTSB", rep outsb
  mov dword [db_count], 0
  mov eax, interrupted2
  mov dr0, rax
  mov eax, dr7_bits(0, RW_EXECUTE, 0)
  mov dr7, rax
  mov dword [inside], 0
  mov qword [watched_rip], interrupted2
  mov edi, DST
  mov ecx, 300000
  xor eax, eax
  sti
interrupted2:
  rep stosb
  cli
  mov eax, DR7_FIXED
  mov dr7, rax
  cmp dword [inside], 1
  seta al
  movzx eax, al
  expect "interrupts at a breakpoint, between iterations", rax, 1
  expect "hits of that breakpoint", [db_count], 1
  ; A handler that clears RF between two iterations lets it hit again: breakpoint, step, breakpoint.
  set_handler 1, on_db_clear_rf
  mov dword [db_count], 0
  mov edi, DST
  mov ecx, 4
  mov eax, cleared
  mov dr0, rax
  mov eax, DR6_FIXED
  mov dr6, rax
  mov eax, dr7_bits(0, RW_EXECUTE, 0)
  mov dr7, rax
  pushfq
  or dword [rsp], TF
  popfq
cleared:
  rep stosb
  mov eax, DR7_FIXED
  mov dr7, rax
  expect "RF cleared between iterations: debug exceptions", [db_count], 3

  ; A fault in the middle pushes RF, as all faults do, with the iterations done.
  set_handler 14, on_pf
  mov eax, interrupted3
  mov dr0, rax
  mov dword [db_count], 0
  set_handler 1, on_db_set_rf
  split_2m MISSING, TABLE
  and dword [pte_of(MISSING + 0x1000, TABLE)], ~PTE_P
  mov rax, cr3
  mov cr3, rax
  mov eax, dr7_bits(0, RW_EXECUTE, 0)
  mov dr7, rax
  mov edi, MISSING + 0xffd
  mov ecx, 8
interrupted3:
  rep stosb
  mov eax, DR7_FIXED
  mov dr7, rax
  expect "page faults", [pf_count], 1
  expect "iterations left at the fault", [pf_rcx], 5
  mov rax, [pf_flags]
  and eax, RF
  expect "RF in the flags of the page fault", rax, RF
  expect "hits of the breakpoint of an instruction that faults", [db_count], 1
  finish

on_irq0:
  push rax
  mov rax, [watched_rip]
  cmp [rsp + 8], rax
  jne .end
  cmp edi, DST                    ; before the first iteration
  je .end
  inc dword [inside]
  test dword [rsp + 24], RF
  jnz .end
  inc dword [without_rf]
.end:
  mov al, 0x20
  out 0x20, al
  pop rax
  iretq
on_db_set_rf:
  inc dword [db_count]
  or dword [rsp + 16], RF
  iretq
; Lets breakpoints pass, and ends stepping without RF.
on_db_clear_rf:
  inc dword [db_count]
  push rax
  mov rax, dr6
  or dword [rsp + 24], RF
  test eax, DR6_BS
  jz .end
  and dword [rsp + 24], ~(TF + RF)
.end:
  mov eax, DR6_FIXED
  mov dr6, rax
  pop rax
  iretq
on_pf:
  inc dword [pf_count]
  mov [pf_rcx], rcx
  push rax
  mov rax, [rsp + 32]
  mov [pf_flags], rax
  or dword [pte_of(MISSING + 0x1000, TABLE)], PTE_P
  pop rax
  add rsp, 8
  iretq

in_data align 8
in_data watched_rip: dq 0
in_data pf_rcx: dq 0
in_data pf_flags: dq 0
in_data inside: dq 0
in_data without_rf: dq 0
in_data db_count: dq 0
in_data pf_count: dq 0

GUEST_ROUTINES
