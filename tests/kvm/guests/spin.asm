; Ring 0 computes on memory without a single exit while timers come due: each interrupt has to land between two events. The
; counter's value at each tick goes into the state, so a replay that lands one instruction off ends differently.
%include "common.inc"

PIT_TICKS  equ 20
ALL_TICKS  equ 40

GUEST
  start_long
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_pit
  set_handler 0x40, on_lapic
  pit_start 2, 1193  ; 1 ms
  sti
  mov ecx, ALL_TICKS
spin:
  inc qword [counter]
  mov rax, [counter]
  imul rax, rax, 0x41c64e6d
  mov edx, eax
  shr edx, 22
  xor [SCRATCH + rdx * 8], rax
  add rbx, [SCRATCH + rdx * 8]
  cmp [ticks], ecx
  jb spin
  cli
  mix_in rbx
  says "spin: ticks "
  mov eax, [ticks]
  call serial_number
  end_with_state

on_pit:
  push rax
  push r10
  mov rax, [counter]
  mix_in rax
  inc dword [ticks]
  mov al, 0x20
  out 0x20, al
  cmp dword [ticks], PIT_TICKS
  jne .end
  ; From here on the local APIC's timer, armed anew by each tick.
  outb 0x21, 0xff
  mov dword [r15 + LAPIC_TIMER_DIVIDE], 0xb
  mov dword [r15 + LAPIC_TIMER], 0x40
  mov dword [r15 + LAPIC_TIMER_INITIAL], 700000
.end:
  pop r10
  pop rax
  iretq

on_lapic:
  push rax
  push r10
  mov rax, [counter]
  mix_in rax
  inc dword [ticks]
  mov dword [r15 + LAPIC_EOI], 0
  and eax, 0xfffff
  add eax, 100000  ; 0.1 to 1.1 ms
  mov [r15 + LAPIC_TIMER_INITIAL], eax
  pop r10
  pop rax
  iretq

in_data align 8
in_data counter: dq 0
in_data ticks: dd 0
COMMON_ROUTINES
