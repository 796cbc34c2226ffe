; Segmentation in protected mode: limits, expand-down, types, presence, privileges, LDT, LAR, LSL, VERR, VERW, ARPL.
; Source: SDM 3A chapter 5.
%include "lib/guest.inc"
%include "lib/modes.inc"

S0 equ SPARE
S1 equ SPARE + 8
S2 equ SPARE + 16

; seg base, limit, access, flags: sets S0 and loads ES with it.
%macro seg_es 4
  set_descriptor S0, %1, %2, %3, %4
  mov ax, S0
  mov es, ax
%endmacro

%macro expect_zf 2
  pushfd
  pop dword [zf_flags]
  shr dword [zf_flags], 6
  and dword [zf_flags], 1
  expect %1, [zf_flags], %2
%endmacro
in_data zf_flags: dd 0

GUEST
  start_protected32

  ; Byte-granular limit: the last byte is in, every access that passes it faults.
  seg_es SCRATCH, 0xff, 0x93, 4
  mov dword [SCRATCH + 0xfc], 0x44332211
  expect_ok "byte at the limit", mov al, [es:0xff]
  expect_ok "dword that ends at the limit", mov eax, [es:0xfc]
  expect "the base is added", eax, 0x44332211
  expect_fault "byte behind the limit", 13, 0, mov al, [es:0x100]
  expect_fault "word across the limit", 13, 0, mov ax, [es:0xff]
  expect_fault "dword across the limit", 13, 0, mov eax, [es:0xfd]
  expect_fault "write across the limit", 13, 0, mov [es:0xfd], eax
  expect_fault "offset far out", 13, 0, mov eax, [es:0xffffffff]
  mov edi, 0xfe
  mov ecx, 4
  xor eax, eax
  try rep stosb
  expect "REP STOSB up to the limit: vector", [exc_vec], 13
  expect "REP STOSB up to the limit: ECX", ecx, 2
  expect "REP STOSB up to the limit: EDI", edi, 0x100
  ; Page-granular: a limit of 0 means 4 KiB.
  seg_es SCRATCH, 0, 0x93, 0xc
  expect_ok "page-granular limit, last byte", mov al, [es:0xfff]
  expect_fault "page-granular limit, next byte", 13, 0, mov al, [es:0x1000]
  ; Expand-down: valid above the limit, up to 64 KiB or 4 GiB by the B bit.
  seg_es SCRATCH, 0xfff, 0x97, 4
  expect_fault "expand-down, at the limit", 13, 0, mov al, [es:0xfff]
  expect_ok "expand-down, behind the limit", mov al, [es:0x1000]
  expect_ok "expand-down, above 64 KiB", mov al, [es:0x10000]
  seg_es SCRATCH, 0xfff, 0x97, 0
  expect_ok "16-bit expand-down, last byte", mov al, [es:0xffff]
  expect_fault "16-bit expand-down, above 64 KiB", 13, 0, mov al, [es:0x10000]
  expect_fault "16-bit expand-down, word across 64 KiB", 13, 0, mov ax, [es:0xffff]
  ; The base wraps at 4 GiB.
  seg_es 0xfffff000, 0xfffff, 0x93, 0xc
  mov dword [0x600], 0x0badcafe
  mov eax, [es:0x1600]
  expect "base plus offset wraps", eax, 0x0badcafe

  ; Types.
  seg_es SCRATCH, 0xfff, 0x91, 4
  expect_ok "read of a read-only segment", mov al, [es:0]
  expect_fault "write to a read-only segment", 13, 0, mov [es:0], al
  set_descriptor S0, SCRATCH, 0xfff, 0x99, 4
  mov ax, S0
  expect_fault "execute-only segment into ES", 13, S0, mov es, ax
  expect_fault "write through CS", 13, 0, mov [cs:SCRATCH], al
  expect_ok "read through CS", mov bl, [cs:SCRATCH]
  set_descriptor S0, SCRATCH, 0xfff, 0x9b, 4
  expect_ok "readable code into ES", mov es, ax
  expect_fault "write through a code segment in ES", 13, 0, mov [es:0], al
  expect_fault "code into SS", 13, S0, mov ss, ax
  set_descriptor S0, SCRATCH, 0xfff, 0x91, 4
  expect_fault "read-only data into SS", 13, S0, mov ss, ax
  set_descriptor S0, SCRATCH, 0xfff, 0x13, 4
  expect_fault "absent segment into ES", 11, S0, mov es, ax
  expect_fault "absent segment into SS", 12, S0, mov ss, ax
  set_descriptor S0, SCRATCH, 0xfff, 0x82, 0
  expect_fault "system segment into ES", 13, S0, mov es, ax
  mov ax, gdt_end - gdt
  expect_fault "selector beyond the GDT", 13, (gdt_end - gdt) & 0xfff8, mov es, ax
  mov ax, 0xc
  expect_fault "selector into an LDT that is not there", 13, 0xc, mov es, ax
  ; Null selectors: may be loaded, not used; not into SS.
  xor eax, eax
  expect_ok "null into ES", mov es, ax
  expect_fault "read through a null ES", 13, 0, mov al, [es:0]
  mov ax, 3
  expect_ok "null with RPL 3 into FS", mov fs, ax
  expect_fault "write through a null FS", 13, 0, mov [fs:0], al
  xor eax, eax
  expect_fault "null into SS", 13, 0, mov ss, ax
  ; The accessed bit is set by the load.
  set_descriptor S0, SCRATCH, 0xfff, 0x92, 4
  mov ax, S0
  mov es, ax
  movzx eax, byte [gdt + S0 + 5]
  expect "accessed bit", eax, 0x93
  ; Privileges: a ring 0 segment with RPL 3 selector; SS wants RPL = CPL.
  mov ax, S0 + 3
  expect_fault "RPL 3 for a ring 0 segment", 13, S0, mov es, ax
  mov ax, DATA + 1
  expect_fault "RPL 1 into SS", 13, DATA, mov ss, ax
  mov ax, USERDATA
  expect_fault "ring 3 segment into SS", 13, USERDATA & ~3, mov ss, ax
  expect_user "ring 0 segment in ring 3", user_load_data, 13, DATA
  expect_user "ring 3 code reads through CS", user_cs, 3, 0

  ; Stack segment: #SS(0). In ring 3, so that the handler has a stack of its own.
  set_descriptor S0, SCRATCH, 0xfff, 0xf3, 4
  expect_user "read by EBP beyond SS", user_ebp, 12, 0
  expect_user "POP beyond SS", user_pop, 12, 0
  expect_user "PUSH below SS", user_push, 12, 0
  expect_user "PUSH across the end of SS", user_push2, 12, 0
  expect "ESP is as before the PUSH", [exc_rsp], 2
  set_descriptor S0, SCRATCH, 0xfff, 0xf3, 0
  expect_user "PUSH wraps in a 16-bit stack segment, to beyond the limit", user_push, 12, 0
  set_descriptor S0, SCRATCH, 0xffff, 0xf3, 0
  expect_user "PUSH wraps in a 16-bit stack segment", user_push, 3, 0
  expect "SP wrapped", [exc_rsp], 0xfffc

  ; Code limit: running off the end is a #GP at the first byte beyond.
  set_descriptor S1, SCRATCH, 0x7f, 0x9b, 4
  mov byte [SCRATCH + 0x7e], 0x90
  mov byte [SCRATCH + 0x7f], 0x90
  try jmp S1:0x7e
  expect "end of the code segment: vector", [exc_vec], 13
  expect "end of the code segment: eip", [exc_rip], 0x80
  expect "end of the code segment: cs", [exc_cs], S1
  mov byte [SCRATCH + 0x7f], 0xb0  ; MOV AL, imm8: its second byte is beyond
  try jmp S1:0x7e
  expect "instruction across the end: eip", [exc_rip], 0x7f
  expect_fault "far jump beyond the limit", 13, 0, jmp S1:0x80
  expect_fault "far jump to a data segment", 13, DATA, jmp DATA:0
  expect_fault "far jump to a null selector", 13, 0, jmp 0:0
  set_descriptor S1, 0, 0xfffff, 0x1b, 0xc
  expect_fault "far jump to an absent segment", 11, S1, jmp S1:0
  set_descriptor S1, 0, 0xfffff, 0xfb, 0xc
  expect_fault "far jump to an outer ring", 13, S1, jmp S1:0

  ; LDT.
  set_descriptor S2, SCRATCH + 0x800, 0x0f, 0x82, 0
  mov dword [SCRATCH + 0x808], 0x00000fff | ((SCRATCH & 0xffff) << 16)
  mov dword [SCRATCH + 0x80c], 0x00409300 | (SCRATCH >> 16)
  mov ax, S2
  lldt ax
  mov ax, 0xc
  expect_ok "segment from the LDT", mov es, ax
  mov ax, 0x14
  expect_fault "selector beyond the LDT", 13, 0x14, mov es, ax
  mov ax, DATA
  expect_fault "LLDT of a data segment", 13, DATA, lldt ax
  mov ax, 0xc
  expect_fault "LLDT of a selector in the LDT", 13, 0xc, lldt ax
  xor eax, eax
  expect_ok "LLDT of null", lldt ax

  ; LAR, LSL, VERR, VERW.
  set_descriptor S0, SCRATCH, 0x12345, 0xf1, 0xc
  mov eax, S0
  xor ebx, ebx
  lar ebx, eax
  expect_zf "LAR of a data segment", 1
  and ebx, 0xf0ff00  ; the limit bits in between are undefined
  expect "its rights", ebx, 0x00c0f100
  lsl ebx, eax
  expect_zf "LSL of a data segment", 1
  expect "its limit in bytes", ebx, 0x12345fff
  verr ax
  expect_zf "VERR of a read-only segment", 1
  verw ax
  expect_zf "VERW of a read-only segment", 0
  mov eax, CODE32
  verr ax
  expect_zf "VERR of readable code", 1
  verw ax
  expect_zf "VERW of code", 0
  xor eax, eax
  mov ebx, 0x77
  lar ebx, eax
  expect_zf "LAR of null", 0
  expect "LAR of null leaves its operand", ebx, 0x77
  mov eax, SEL_TSS32
  lar ebx, eax
  expect_zf "LAR of a TSS", 1
  verr ax
  expect_zf "VERR of a TSS", 0
  set_descriptor S1, 0, 0, 0x8e, 0   ; interrupt gate
  mov eax, S1
  lar ebx, eax
  expect_zf "LAR of an interrupt gate", 0
  lsl ebx, eax
  expect_zf "LSL of an interrupt gate", 0
  mov eax, 0xfff8
  lsl ebx, eax
  expect_zf "LSL beyond the GDT", 0
  mov ax, DATA
  mov bx, CODE32 + 3
  arpl ax, bx
  expect_zf "ARPL that raises", 1
  movzx ecx, ax
  expect "ARPL's result", ecx, DATA + 3
  arpl ax, bx
  expect_zf "ARPL that does not", 0
  finish

user_load_data:
  mov ax, DATA
  mov fs, ax
  int3
user_ebp:
  mov ax, S0 + 3
  mov ss, ax
  mov ebp, 0x1000
  mov eax, [ebp]
  int3
user_pop:
  mov ax, S0 + 3
  mov ss, ax
  mov esp, 0x1002
  pop eax
  int3
user_push:
  mov ax, S0 + 3
  mov ss, ax
  mov esp, 0
  push eax
  int3
user_push2:
  mov ax, S0 + 3
  mov ss, ax
  mov esp, 2
  push eax
  int3
user_cs:
  mov al, [cs:SCRATCH]
  int3

GUEST_ROUTINES
