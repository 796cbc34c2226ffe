; Sleep to RAM: out of 64-bit mode, woken by the clock's alarm 40 s later at the waking vector of the FACS, in real mode; then by the
; ACPI timer; the other processor has to be started again. Source: ACPI 6.5, 4.8.3, 5.2.10, 16.1.
; vcpus: 2
; device: acpi-pm,s3=on
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

TMR equ 1
RTC equ 0x400
WAK equ 0x8000
TRAMPOLINE equ 0x6000

%macro sleep 0
  outw_dx PM1_CNT, 1 | 1 << 10 | 1 << 13
%endmacro
%macro start_other 0
  mov esi, trampoline
  mov edi, TRAMPOLINE
  mov ecx, trampoline_end - trampoline
  rep movsb
  mov dword [r15 + LAPIC_ICR_HIGH], 1 << 24
  mov dword [r15 + LAPIC_ICR], 0x4500
  mov dword [r15 + LAPIC_ICR_HIGH], 1 << 24
  mov dword [r15 + LAPIC_ICR], 0x4600 + (TRAMPOLINE >> 12)
%%wait:
  pause
  mov eax, [counts]
  cmp eax, 1000
  jb %%wait
%endmacro

GUEST
  start_long
  lapic_enable
  start_other
  ; The FACS, by RSDP, RSDT and FADT.
  mov esi, [0xe0000 + 16]
  mov esi, [rsi + 36]
  mov eax, [rsi]
  expect "the first table is the FADT", rax, 'FACP'
  mov eax, [rsi + 112]
  and eax, 1 << 6
  expect "FIX_RTC: the alarm is in the fixed registers", rax, 0
  mov esi, [rsi + 36]
  mov eax, [rsi]
  expect "FACS", rax, 'FACS'
  mov [facs], esi
  mov dword [rsi + 12], by_alarm

  ; 00:00:00, and an alarm at 00:00:40.
  cmos_out 0x0b, 0x82
  cmos_out 0x00, 0
  cmos_out 0x02, 0
  cmos_out 0x04, 0
  cmos_out 0x01, 0x40
  cmos_out 0x03, 0
  cmos_out 0x05, 0
  cmos_out 0x0b, 0x22
  outb 0x70, 0x0c
  in al, 0x71
  outw_dx PM1_STS, 0xffff
  outw_dx PM1_EN, RTC
  mov dword [FREE], 0x600df00d
  mov rbx, -1
  sleep
  times 100 nop
  failed "behind sleep"
  finish

bits 16
by_alarm:
  mov [saved], ebx
  mov ax, cs
  mov [saved + 4], ax
  mov ax, ss
  mov [saved + 6], ax
  mov eax, [counts]
  mov [saved + 8], eax
  mov sp, 0x7c00
  jmp 0:.low
.low:
  expect "EBX", [saved], 0
  expect "CS by paragraph, and SS", [saved + 4], (by_alarm - $$ + 0x7c00) >> 4
  mov eax, cr0
  and eax, CR0_PE | CR0_PG
  expect "CR0", eax, 0
  inw_dx PM1_STS
  and eax, WAK | RTC
  expect "WAK_STS and RTC_STS", eax, WAK | RTC
  outb 0x70, 0
  in al, 0x71
  movzx eax, al
  expect "seconds", eax, 0x40
  outb 0x70, 0x0c
  in al, 0x71
  and eax, 0xa0
  expect "the alarm's interrupt waits", eax, 0xa0
  outw_dx PM1_STS, WAK | RTC
  inw_dx PM1_STS
  and eax, WAK | RTC
  expect "status is cleared by writing ones", eax, 0
  mov ecx, 10000
.other:
  dec ecx
  jnz .other
  mov eax, [counts]
  sub eax, [saved + 8]
  expect "the other processor has stopped", eax, 0

  start_long
  lapic_enable
  expect "high memory is kept", [FREE], 0x600df00d
  mov dword [counts], 0
  start_other
  cmos_out 0x0b, 0x02
  mov esi, [facs]
  mov dword [rsi + 12], by_timer
  outw_dx PM1_STS, 0xffff
  outw_dx PM1_EN, TMR
  sleep
  times 100 nop
  failed "behind the second sleep"
  finish

bits 16
by_timer:
  mov sp, 0x7c00
  jmp 0:.low
.low:
  inw_dx PM1_STS
  and eax, WAK | RTC | TMR
  expect "WAK_STS and TMR_STS", eax, WAK | TMR
  finish

; The other processor counts.
trampoline:
  xor ax, ax
  mov ds, ax
.count:
  inc dword [counts]
  jmp .count
trampoline_end:

in_data align 4
in_data counts: dd 0
in_data facs: dd 0
in_data saved: times 16 db 0

GUEST_ROUTINES
