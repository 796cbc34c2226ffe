; Reset by the keyboard controller (command 0xfe).
; expect: reset
; console: ^going\n$
%include "lib/guest.inc"
%include "lib/ports.inc"

GUEST
  puts "going", 10
  outb_dx 0x64, 0xfe
  times 100 nop
  failed "behind the reset"
  finish
