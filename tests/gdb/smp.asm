; Two processors that count, each in its own loop; the first ends the machine at kTurns.
bits 32
org 0x100000
kTurns equ 200000
start:
  sgdt [0x5000]  ; the second processor needs it
  mov esi, trampoline
  mov edi, 0x6000
  mov ecx, trampoline_end - trampoline
  rep movsb
  mov dword [0xfee000f0], 0x1ff      ; the local APIC, on
  mov dword [0xfee00310], 1 << 24    ; to the second processor:
  mov dword [0xfee00300], 0x4500     ; INIT
  mov dword [0xfee00300], 0x4606     ; start at 0x6000
  xor ecx, ecx
  jmp first

  times 0x100 - ($ - $$) db 0xcc
first:  ; 0x100100
  inc ecx
  mov [0x180000], ecx
  cmp ecx, kTurns
  jb first
  xor eax, eax
  out 0xf4, al
  hlt

  times 0x200 - ($ - $$) db 0xcc
second:  ; 0x100200
  inc edx
  mov [0x180008], edx
  jmp second

bits 16
trampoline:
  cli
  xor ax, ax
  mov ds, ax
  o32 lgdt [0x5000]
  mov eax, cr0
  or eax, 1
  mov cr0, eax
  jmp dword 0x10:(protected - trampoline + 0x6000)
bits 32
protected:
  mov ax, 0x18
  mov ds, ax
  mov ss, ax
  mov es, ax
  xor edx, edx
  mov eax, second
  jmp eax
trampoline_end:
