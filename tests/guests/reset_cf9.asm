; Reset by the reset control register (0xcf9).
; expect: reset
; console: ^going\n$
%include "lib/guest.inc"
%include "lib/ports.inc"

GUEST
  puts "going", 10
  outb_dx 0xcf9, 2
  outb_dx 0xcf9, 6
  times 100 nop
  failed "behind the reset"
  finish
