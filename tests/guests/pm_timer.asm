; The ACPI PM timer: 3.579545 MHz, 32 bits, monotonic; measured against the PIT. The PM1 registers can be written and read.
; Source: ACPI 6.5, 4.8.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

%macro pm_now 0  ; into EAX
  mov dx, PM_TMR
  in eax, dx
%endmacro

GUEST
  start_long
  lapic_enable
  pic_init 0xfe, 0xff

  ; Never backwards.
  pm_now
  mov ebx, eax
  mov ecx, 20000
.again:
  pm_now
  sub eax, ebx
  js .backwards
  add ebx, eax
  loop .again
.backwards:
  expect "the timer never goes backwards", rcx, 0

  ; 3.579545 MHz is three times the PIT's 1.193182 MHz: 11932 PIT ticks are 35796 ticks here.
  pit_start 0, 11932
  pm_now
  mov ebx, eax
  wait_irq0
  pm_now
  sub eax, ebx
  sub eax, 35796
  add eax, 200
  cmp eax, 400
  setb al
  movzx eax, al
  expect "ticks of the PM timer in 11932 of the PIT", rax, 1

  ; SCI_EN is set: the machine is always in ACPI mode.
  mov dx, PM1_CNT
  in ax, dx
  and eax, 1
  expect "SCI_EN", rax, 1
  mov dx, PM1_EN
  mov eax, 1
  out dx, ax
  in ax, dx
  and eax, 1
  expect "PM1_EN keeps TMR_EN", rax, 1
  mov dx, PM1_EN
  xor eax, eax
  out dx, ax
  finish

GUEST_ROUTINES
