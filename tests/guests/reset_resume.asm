; A reset with a shutdown code in CMOS memory goes on at the real-mode pointer in 40:67, with the registers of a reset and memory kept. Out
; of 64-bit mode by the keyboard controller (code 0Ah), out of protected mode by port 92h with an interrupt in service (code 05h, with an
; EOI), and by a soft reset of 0xcf9; by IRET and RETF (codes 0Bh, 0Ch). Sources: Ralf Brown's CMOS.LST, register 0Fh; SDM 3A table 9-1.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

; The code, and where it leads: segment 07C0.
%macro shutdown_code 2
  cmos_out 0x0f, %1
  mov word [0x467], %2 - 0x7c00
  mov word [0x469], 0x07c0
%endmacro
; First thing behind a reset: all registers to `saved`. DS is 0 already.
%macro arrive 0
  mov [saved], eax
  mov [saved + 4], ebx
  mov [saved + 8], ecx
  mov [saved + 12], edx
  mov [saved + 16], esi
  mov [saved + 20], edi
  mov [saved + 24], ebp
  mov [saved + 28], esp
  mov ax, cs
  mov [saved + 32], ax
  mov ax, ss
  mov [saved + 34], ax
  mov ax, es
  mov [saved + 36], ax
  mov ax, ds
  mov [saved + 38], ax
  mov sp, 0x7c00
  pushfd
  pop dword [saved + 40]
  jmp 0:%%low
%%low:
%endmacro
%macro expect_reset_state 0
  expect "EAX", [saved], 0
  expect "EBX", [saved + 4], 0
  expect "ECX", [saved + 8], 0
  mov eax, 1
  cpuid
  expect "EDX is the processor's signature", [saved + 12], eax
  expect "ESI", [saved + 16], 0
  expect "EDI", [saved + 20], 0
  expect "EBP", [saved + 24], 0
  expect "ESP", [saved + 28], 0
  expect "CS and SS", [saved + 32], 0x07c0
  expect "ES and DS", [saved + 36], 0
  expect "EFLAGS", [saved + 40], 2
  mov eax, cr0
  and eax, CR0_PE | CR0_PG | CR0_WP | CR0_TS
  expect "CR0", eax, 0
  mov eax, cr3
  expect "CR3", eax, 0
  mov eax, cr4
  expect "CR4", eax, 0
  mov ecx, MSR_EFER
  rdmsr
  expect "EFER", eax, 0
  sidt [saved + 44]
  movzx eax, word [saved + 44]
  expect "limit of IDTR", eax, 0xffff
  expect "base of IDTR", [saved + 46], 0
  outb 0x70, 0x0f
  in al, 0x71
  movzx eax, al
  expect "the code is used up", eax, 0
%endmacro
%macro arrive_at_stack 0
  mov [saved], sp
  mov [saved + 2], ss
  setc [saved + 4]
  mov [saved + 5], ax
  mov byte [saved + 7], 0
  jmp 0:%%low
%%low:
  mov ss, ax
  mov sp, 0x7c00
%endmacro

GUEST
  start_long
  mov dword [FREE], 0x600df00d
  mov dword [0x500], 0x12345678
  shutdown_code 0x0a, out_of_long
  mov rbx, 0xffffffffffffffff
  mov rsi, rbx
  mov rbp, rbx
  std
  outb 0x64, 0xfe
  times 100 nop
  failed "behind the reset of the keyboard controller"
  finish

bits 16
out_of_long:
  arrive
  expect_reset_state
  expect "low memory is kept", [0x500], 0x12345678
  ; The boot processor is wired to the 8259As as at power-on: an interrupt comes in.
  pic_init 0xfe, 0xff
  mov word [0x20 * 4], on_irq0_real
  mov word [0x20 * 4 + 2], 0
  pit_start 0, 1000
  sti
  hlt
  cli
  expect "timer interrupts behind the reset", [ticks], 1

  start_protected32
  expect "high memory is kept", [FREE], 0x600df00d
  ; An interrupt whose handler never says EOI.
  set_handler 0x20, on_irq0
  pit_start 0, 1000
  sti
.never:
  hlt
  jmp .never
on_irq0:
  outb 0x20, 0x0b
  in al, 0x20
  and eax, 1
  expect "IRQ 0 is in service", eax, 1
  shutdown_code 0x05, behind_eoi
  outb_dx 0x92, 0x03
  times 100 nop
  failed "behind the reset of port 92h"
  finish

bits 16
behind_eoi:
  arrive
  expect_reset_state
  outb 0x20, 0x0b
  in al, 0x20
  movzx eax, al
  expect "nothing is in service", eax, 0

  shutdown_code 0x0a, by_cf9
  outb_dx 0xcf9, 0
  outb_dx 0xcf9, 4
  times 100 nop
  failed "behind the soft reset"
  finish
by_cf9:
  arrive
  expect_reset_state

  ; The pointer is a stack: IRET takes IP, CS and FLAGS from it, RETF IP and CS.
  cmos_out 0x0f, 0x0b
  mov dword [0x467], 0x0500_0100
  mov word [0x5100], by_iret - 0x7c00
  mov word [0x5102], 0x07c0
  mov word [0x5104], 1              ; CF
  outb 0x64, 0xfe
  times 100 nop
  failed "behind the reset with code 0Bh"
  finish
by_iret:
  arrive_at_stack
  expect "SS:SP behind IRET", [saved], 0x0500_0106
  expect "CF from the stack, AX", [saved + 4], 0x0000_0001
  cmos_out 0x0f, 0x0c
  mov dword [0x467], 0x0500_0200
  mov word [0x5200], by_retf - 0x7c00
  mov word [0x5202], 0x07c0
  outb 0x64, 0xfe
  times 100 nop
  failed "behind the reset with code 0Ch"
  finish
by_retf:
  arrive_at_stack
  expect "SS:SP behind RETF", [saved], 0x0500_0204
  expect "CF and AX of the reset", [saved + 4], 0
  finish

on_irq0_real:
  push ax
  inc dword [ticks]
  outb 0x20, 0x20
  pop ax
  iret

in_data align 4
in_data ticks: dd 0
in_data saved: times 64 db 0

GUEST_ROUTINES
