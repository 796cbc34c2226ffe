; Reads the time and nothing else, for ever: each RDTSC is an event of a full journal.
bits 64
org 0x100000
top:
  rdtsc
  rdtsc
  rdtsc
  rdtsc
  nop
  jmp top
