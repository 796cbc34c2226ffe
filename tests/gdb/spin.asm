; Counts for as long as it is let.
bits 64
org 0x100000
start:
  xor ecx, ecx
again:
  inc rcx
  mov [0x180000], rcx
  jmp again
