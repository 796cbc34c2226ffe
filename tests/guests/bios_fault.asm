; An exception that a program has no handler for: the BIOS says where, once, and stops.
; load: kernel
; expect: halted_forever
; console: ^\r\nBIOS: exception 0006 at 0000:7C00: stopped\r\n$
bits 16
org 0x7c00
  ud2
  times 510 - ($ - $$) db 0
  dw 0xaa55
