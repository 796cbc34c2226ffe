; The MC146818 real-time clock: time of day, its update, the alarm, the periodic interrupt, CMOS memory. Source: MC146818
; data sheet.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

GUEST
  start_long
  lapic_enable
  pic_init 0xfb, 0xfe                ; cascade and IRQ 8
  set_handler 0x28, on_irq8

  cmos_in 0x0d
  and eax, 0x80
  expect "register D: valid RAM and time", rax, 0x80
  cmos_out 0x40, 0x5c
  cmos_in 0x40
  expect "CMOS memory", rax, 0x5c
  cmos_out 0x0b, 0x02                ; 24 hours, BCD, no interrupts
  cmos_in 0x0c                       ; clears what is pending

  ; Set 23:59:58 on 31 December 1999 and see the roll-over. The periodic interrupt tells time meanwhile.
  cmos_out 0x0b, 0x82                ; SET
  cmos_out 0x00, 0x58
  cmos_out 0x02, 0x59
  cmos_out 0x04, 0x23
  cmos_out 0x06, 0x06
  cmos_out 0x07, 0x31
  cmos_out 0x08, 0x12
  cmos_out 0x09, 0x99
  cmos_out 0x0a, 0x26
  cmos_out 0x0b, 0x12                ; update-ended interrupt
  sti
.update:
  hlt
  cmp dword [updates], 3
  jb .update
  cli
  cmos_in 0x04
  expect "hour after midnight", rax, 0
  cmos_in 0x02
  expect "minute", rax, 0
  cmos_in 0x07
  expect "day", rax, 1
  cmos_in 0x08
  expect "month", rax, 1
  cmos_in 0x09
  expect "year", rax, 0
  mov eax, [flags_seen]
  and eax, 0x90
  expect "register C: IRQF and UF", rax, 0x90
  cmos_in 0x0c
  expect "reading register C clears it", rax, 0

  ; Periodic: 1024 Hz.
  cmos_out 0x0b, 0x42
  cmos_in 0x0c
  mov dword [updates], 0
  mov dword [flags_seen], 0
  sti
.periodic:
  hlt
  cmp dword [updates], 64
  jb .periodic
  cli
  mov eax, [flags_seen]
  and eax, 0xc0
  expect "register C: IRQF and PF", rax, 0xc0
  cmos_out 0x0b, 0x02
  cmos_in 0x0c

  ; Alarm: every second by "don't care" values.
  cmos_out 0x01, 0xff
  cmos_out 0x03, 0xff
  cmos_out 0x05, 0xff
  mov dword [updates], 0
  mov dword [flags_seen], 0
  cmos_out 0x0b, 0x22
  sti
.alarm:
  hlt
  cmp dword [updates], 1
  jb .alarm
  cli
  mov eax, [flags_seen]
  and eax, 0xa0
  expect "register C: IRQF and AF", rax, 0xa0
  cmos_out 0x0b, 0x02
  cmos_in 0x0c

  ; Binary and 12 hours.
  cmos_out 0x0b, 0x84                ; SET, DM binary, 12 hours
  cmos_out 0x00, 59
  cmos_out 0x02, 59
  cmos_out 0x04, 11 + 0x80           ; 11 p.m.
  cmos_out 0x0b, 0x14
  mov dword [updates], 0
  sti
.midnight:
  hlt
  cmp dword [updates], 2
  jb .midnight
  cli
  cmos_in 0x04
  expect "12 a.m. in binary", rax, 12
  cmos_in 0x02
  expect "minute in binary", rax, 0
  finish

on_irq8:
  push rax
  mov al, 0x0c
  out 0x70, al
  in al, 0x71
  or [flags_seen], al
  inc dword [updates]
  mov al, 0x20
  out 0xa0, al
  out 0x20, al
  pop rax
  iretq

in_data align 8
in_data updates: dq 0
in_data flags_seen: dq 0

GUEST_ROUTINES
