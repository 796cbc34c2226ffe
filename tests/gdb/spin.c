// Counts for as long as it is let. The whole loop is one line, so that a debugger's `next` has no end.
// 100000: xor ecx, ecx; 100002: inc rcx; 100005: mov [0x180000], rcx; 10000d: jmp 100002
__attribute__((naked)) void _start(void) {
  __asm__("xor %ecx, %ecx; again: inc %rcx; mov %rcx, 0x180000; jmp again");
}
