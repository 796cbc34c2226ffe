; Starts in real mode at 0x12340, goes to 32-bit code and ends the machine: what a debugger shows in each.
bits 16
org 0
start:
  mov ax, 0x1234
  mov ds, ax
  mov word [data], 0x1111
  mov bx, 0x55aa
  jmp 0x1000:(0x2340 + far_place - start)
far_place:
  mov cx, 0x77
  cli
  lgdt [gdtr]
  mov eax, cr0
  or al, 1
  mov cr0, eax
  jmp dword 8:(0x12340 + protected)
bits 32
protected:
  mov eax, 16
  mov ds, eax
  mov ss, eax
  mov esp, 0x90000
  mov edx, 0x89abcdef
  push edx
  pop esi
  mov al, 0
  out 0xf4, al
.hang:
  jmp .hang
align 8
gdt:
  dq 0
  dq 0x00cf9a000000ffff
  dq 0x00cf92000000ffff
gdtr:
  dw 23
  dd 0x12340 + gdt
data:
  dw 0
