; The IO-APIC: its registers, the PIT at input 2 and the RTC at input 8, masks, destinations, delivery modes. Source:
; 82093AA data sheet.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

IOAPIC equ 0xfec00000  ; in R14

%macro ioapic_write 2
  mov dword [r14], %1
  mov dword [r14 + 0x10], %2
%endmacro
%macro ioapic_read 1  ; into EAX
  mov dword [r14], %1
  mov eax, [r14 + 0x10]
%endmacro
MASKED equ 1 << 16

GUEST
  start_long
  pic_init 0xff, 0xff
  lapic_enable
  mov dword [r15 + LAPIC_LINT0], 0x10700  ; the PIC stays out
  mov dword [r15 + LAPIC_TPR], 0
  mov r14d, IOAPIC
  set_handler 0x34, on_34
  set_handler 0x36, on_36
  set_handler 2, on_nmi

  ioapic_read 1
  shr eax, 16
  and eax, 0xff
  expect "highest redirection entry", rax, 23
  ioapic_read 0x10
  and eax, MASKED
  expect "entries are masked after reset", rax, MASKED
  ioapic_write 0x15, 0xff000000
  ioapic_read 0x15
  shr eax, 24
  expect "destination field", rax, 0xff

  ; PIT at input 2, edge, fixed, to APIC 0.
  ioapic_write 0x15, 0
  ioapic_write 0x14, 0x34
  pit_start 0, 1000
  sti
  hlt
  cli
  expect "PIT through the IO-APIC", [count34], 1
  ; Masked: nothing.
  ioapic_write 0x14, 0x34 + MASKED
  pit_start 0, 100
  sti
  mov ecx, 300000
.masked:
  loop .masked
  cli
  expect "masked entry", [count34], 1
  ; Logical destination.
  mov dword [r15 + 0xe0], 0xffffffff       ; DFR: flat
  mov dword [r15 + 0xd0], 0x02000000       ; LDR: bit 1
  ioapic_write 0x15, 0x02000000
  ioapic_write 0x14, 0x34 + 0x800
  pit_start 0, 1000
  sti
  hlt
  cli
  expect "logical destination", [count34], 2
  ioapic_write 0x15, 0x04000000
  pit_start 0, 100
  sti
  mov ecx, 300000
.nobody:
  loop .nobody
  cli
  expect "logical destination of nobody", [count34], 2
  ioapic_write 0x14, MASKED

  ; RTC at input 8, periodic.
  ioapic_write 0x21, 0
  ioapic_write 0x20, 0x36
  outb 0x70, 0x0a
  outb 0x71, 0x26
  outb 0x70, 0x0b
  outb 0x71, 0x42
  outb 0x70, 0x0c
  in al, 0x71
  sti
.rtc:
  hlt
  cmp dword [count36], 3
  jb .rtc
  cli
  outb 0x70, 0x0b
  outb 0x71, 0x02
  expect "RTC through the IO-APIC", [count36], 3
  ioapic_write 0x20, MASKED

  ; As an NMI.
  ioapic_write 0x15, 0
  ioapic_write 0x14, 0x400
  pit_start 0, 1000
  hlt
  expect "PIT as NMI", [nmis], 1
  finish

on_34:
  inc dword [count34]
  mov dword [r15 + LAPIC_EOI], 0
  iretq
on_36:
  push rax
  inc dword [count36]
  mov al, 0x0c
  out 0x70, al
  in al, 0x71
  mov dword [r15 + LAPIC_EOI], 0
  pop rax
  iretq
on_nmi:
  inc dword [nmis]
  iretq

in_data align 8
in_data count34: dq 0
in_data count36: dq 0
in_data nmis: dq 0

GUEST_ROUTINES
