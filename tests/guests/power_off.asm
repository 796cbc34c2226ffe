; Soft-off: SLP_TYP 5 and SLP_EN into PM1a_CNT (ACPI 6.5, 4.8.3.2), the numbers of \_S5 in the DSDT.
; expect: power_off
; console: ^going\n$
%include "lib/guest.inc"

SLP_EN equ 1 << 13

GUEST
  puts "going", 10
  mov dx, 0x604
  in ax, dx
  and ax, 0xc003
  or ax, 5 << 10
  out dx, ax               ; the type alone does nothing
  or ax, SLP_EN
  out dx, ax
  times 100 nop
  failed "behind the power-off"
  finish
