; An exception that cannot be delivered, nor the double fault after it: shutdown.
; expect: triple_fault
%include "lib/guest.inc"
%include "lib/modes.inc"

GUEST
  start_long
  puts "last words", 10
  mov word [SCRATCH], 0
  mov qword [SCRATCH + 2], 0
  lidt [SCRATCH]
  ud2
  failed "triple fault"
  finish

GUEST_ROUTINES
