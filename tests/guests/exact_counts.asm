; Guest time is one nanosecond per retired instruction, the TSC ticks at 1 GHz: RDTSC counts instructions exactly. Every
; iteration of a repeated string instruction counts one.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

; Measures what stands between: R8 is the difference of two RDTSC, less what an empty measurement gives.
%macro measure_begin 0
  rdtsc
  shl rdx, 32
  or rax, rdx
  mov r9, rax
%endmacro
%macro measure_end 0
  rdtsc
  shl rdx, 32
  or rax, rdx
  mov r8, rax
  sub r8, r9
  sub r8, r10
%endmacro

GUEST
  start_long
  xor r10d, r10d
  measure_begin
  measure_end
  expect "an empty measurement: SHL, OR, MOV, RDTSC", r8, 4
  mov r10, r8

  measure_begin
  times 10 nop
  measure_end
  expect "10 NOPs", r8, 10
  mov ecx, 1000
  measure_begin
  mov ecx, 1000
loop1:
  add rbx, rcx
  dec ecx
  jnz loop1
  measure_end
  expect "loop of 1000", r8, 3001
  mov edi, SCRATCH
  xor eax, eax
  measure_begin
  mov edi, SCRATCH
  mov ecx, 500
  rep stosb
  measure_end
  expect "REP STOSB of 500", r8, 502
  measure_begin
  mov esi, SCRATCH
  mov edi, SCRATCH + 0x1000
  mov ecx, 100
  rep movsq
  measure_end
  expect "REP MOVSQ of 100", r8, 103
  measure_begin
  xor ecx, ecx
  rep stosb
  measure_end
  expect "REP STOSB of none", r8, 2
  ; Interrupts and exceptions: their delivery retires nothing, INT n is an instruction like any other, a fault is none.
  set_handler 0x31, on_int
  measure_begin
  int 0x31
  measure_end
  expect "INT and IRET", r8, 2
  set_handler 6, on_ud
  measure_begin
  ud2
  measure_end
  expect "#UD, ADD, IRET", r8, 2
  measure_begin
  call function
  measure_end
  expect "CALL, JMP, RET", r8, 3
  measure_begin
  push rax
  in al, 0x80
  cpuid
  pop rax
  measure_end
  expect "PUSH, IN, CPUID, POP", r8, 4

  ; HLT: time jumps to the deadline. 100000 ns later by the APIC timer, whose clock is told by measuring it against itself.
  lapic_enable
  set_handler 0x32, on_timer
  mov dword [r15 + LAPIC_TIMER_DIVIDE], 0xb
  mov dword [r15 + LAPIC_TIMER], 0x32
  mov dword [r15 + LAPIC_TIMER_INITIAL], 1000000
  measure_begin
  mov ebx, [r15 + LAPIC_TIMER_CURRENT]
  mov ecx, 100000
loop2:
  loop loop2
  sub ebx, [r15 + LAPIC_TIMER_CURRENT]
  measure_end
  expect "loop of 100000 and 3 more", r8, 100003
  mov r11, rbx                       ; timer ticks in 100001 or 100002 ns
  mov dword [r15 + LAPIC_TIMER_INITIAL], 100000
  measure_begin
  sti
  hlt
  cli
  measure_end
  ; r8 ns went by while the timer counted 100000 ticks: r8 * r11 is about 1e10.
  mov rax, r8
  mul r11
  mov rcx, 100000
  xor edx, edx
  div rcx
  sub rax, 100000
  add rax, 20
  cmp rax, 40
  setb al
  movzx eax, al
  expect "HLT lasts as long as the timer says", rax, 1
  finish

function:
  jmp short .on
.on:
  ret
on_int:
  iretq
on_ud:
  add qword [rsp], 2
  iretq
on_timer:
  mov dword [r15 + LAPIC_EOI], 0
  iretq

GUEST_ROUTINES
