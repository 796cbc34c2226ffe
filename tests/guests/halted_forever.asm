; HLT with interrupts off and no NMI to come: nothing will ever wake the processor.
; expect: halted_forever
%include "lib/guest.inc"

GUEST
  cli
  hlt
  failed "behind HLT"
  finish
