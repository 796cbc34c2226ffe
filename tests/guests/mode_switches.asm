; Every mode and the ways between them: real, 16- and 32-bit protected, 64-bit, compatibility (32- and 16-bit), and back.
%include "lib/guest.inc"
%include "lib/modes.inc"

GUEST
  mov eax, cr0
  and eax, CR0_PE
  expect "real mode: PE", eax, 0

  ; A segment register keeps its base across the switch until it is loaded: ES of real mode stays usable with PE set.
  mov ax, SCRATCH >> 4
  mov es, ax
  mov dword [es:0x10], 0x12345678
  lgdt [gdt_pointer]
  mov eax, cr0
  or eax, CR0_PE
  mov cr0, eax
  mov ebx, [es:0x10]
  expect "ES of real mode after PE is set", ebx, 0x12345678

  ; 16-bit protected mode.
  jmp CODE16:protected16
protected16:
  load_data_segments DATA16
  mov sp, 0x7c00
  mov ax, cs
  movzx eax, ax
  expect "16-bit protected mode: CS", eax, CODE16
  mov esp, 0xabcd7c00
  push word 0x1234
  mov ebx, esp
  expect "16-bit stack leaves the upper half of ESP", ebx, 0xabcd7bfe
  mov esp, 0x7c00

  ; "Unreal" mode: a flat limit loaded in protected mode lives on in real mode.
  mov ax, DATA
  mov fs, ax
  mov eax, cr0
  and eax, ~CR0_PE
  mov cr0, eax
  jmp 0:unreal
unreal:
  xor ax, ax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov dword [fs:dword FREE], 0x5a5a1234
  mov ebx, [fs:dword FREE]
  expect "real mode with a 4 GiB limit in FS", ebx, 0x5a5a1234

  to_protected32
  mov ebx, [FREE]
  expect "32-bit protected mode sees the same memory", ebx, 0x5a5a1234
  mov eax, cs
  expect "32-bit protected mode: CS", eax, CODE32

  identity_tables
  to_long
  mov ecx, MSR_EFER
  rdmsr
  and eax, EFER_LME + EFER_LMA
  expect "64-bit mode: EFER", rax, EFER_LME + EFER_LMA
  mov rbx, 0x123456789abcdef0
  mov r15, rbx
  shr r15, 32
  expect "64-bit registers", r15, 0x12345678
  mov eax, 0xffffffff
  mov rcx, rax
  inc rcx
  expect "32-bit results are zero-extended", rcx, 0x100000000
  lea rax, [rel here]
here:
  expect "RIP-relative address", rax, here

  ; Compatibility mode: LMA stays, registers are 32 bits wide, the upper halves are not touched by a visit.
  mov r8, 0xfedcba9876543210
  push CODE32
  push compat
  o64 retf
bits 32
compat:
  load_data_segments DATA
  mov eax, cs
  expect "compatibility mode: CS", eax, CODE32
  db 0x48, 0x40               ; DEC EAX; INC EAX here, a REX prefix in 64-bit mode
  nop
  mov ebx, 0x11
  db 0x49                     ; DEC ECX
  mov edx, cr0
  and edx, CR0_PG
  expect "compatibility mode: paging is on", edx, CR0_PG
  ; 16-bit compatibility mode.
  jmp CODE16:compat16
bits 16
compat16:
  mov ax, cs
  movzx eax, ax
  expect "16-bit compatibility mode: CS", eax, CODE16
  jmp dword CODE64:back64
bits 64
back64:
  mov rax, 0xfedcba9876543210
  expect "R8 after compatibility mode", r8, rax
  mov esp, STACK

  from_long
  mov ecx, MSR_EFER
  rdmsr
  and eax, EFER_LME + EFER_LMA
  expect "EFER after leaving long mode", eax, 0
  mov eax, cr0
  and eax, CR0_PG + CR0_PE
  expect "CR0 after leaving long mode", eax, CR0_PE
  to_real
  mov eax, cr0
  and eax, CR0_PG + CR0_PE
  expect "CR0 back in real mode", eax, 0

  ; Real mode works as before: interrupts through the vector table.
  mov word [0x60 * 4], real_handler
  mov word [0x60 * 4 + 2], 0
  mov ebx, 1
  stc
  int 0x60
  expect "software interrupt in real mode", ebx, 2
  ; An address beyond the 64 KiB of a real-mode segment raises #GP (limits are 64 KiB again after a real-mode load).
  mov word [13 * 4], real_fault
  mov word [13 * 4 + 2], 0
  mov edi, 0x10000
  mov ebx, 0
  mov al, [edi]
  expect "#GP for an offset beyond 64 KiB in real mode", ebx, 0x6d
  mov di, 0xffff
  mov ebx, 0
  mov ax, [di]
  expect "#GP for a word at offset 0xffff", ebx, 0x6d

  ; And a second round trip, to see that nothing was left behind.
  to_protected32
  identity_tables
  to_long
  mov rbx, 0x8000000000000001
  rol rbx, 1
  expect "64-bit mode again", rbx, 3
  finish

bits 16
real_handler:
  inc ebx
  iret
; Skips the faulting instruction, whose length depends on the address size: the handler looks for the 0x67 prefix.
real_fault:
  push bp
  mov bp, sp
  mov bx, [bp + 2]
  cmp byte [bx], 0x67
  jne .short
  inc word [bp + 2]
.short:
  add word [bp + 2], 2
  mov ebx, 0x6d
  pop bp
  iret

GUEST_ROUTINES
