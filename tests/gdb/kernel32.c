// A 32-bit kernel (multiboot) with something to look at in gdb.
typedef unsigned int u32;

__attribute__((section(".multiboot"), used)) static const u32 multiboot[] = {0x1badb002, 0, -0x1badb002u};

u32 total;
unsigned char stack[4096];

__attribute__((noinline)) static u32 twice(u32 n) { return 2 * n; }

__attribute__((used)) static void work(void) {
  for (u32 i = 1; i <= 10; ++i) total += twice(i);
  __asm__ volatile("outb %%al, $0xf4" : : "a"(0));
  for (;;)
    ;
}

__asm__(".globl _start\n_start:\n  movl $stack + 4096, %esp\n  call work\n");
