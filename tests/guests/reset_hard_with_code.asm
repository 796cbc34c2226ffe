; A hard reset (0xcf9) ends the run whatever the shutdown code says.
; expect: reset
; console: ^going\n$
%include "lib/guest.inc"
%include "lib/ports.inc"

GUEST
  puts "going", 10
  outb_dx 0x70, 0x0f
  outb_dx 0x71, 0x0a
  mov word [0x467], resumed
  mov word [0x469], 0
  outb_dx 0xcf9, 2
  outb_dx 0xcf9, 6
  times 100 nop
resumed:
  failed "behind the reset"
  finish
