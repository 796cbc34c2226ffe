; Privilege transitions in 32-bit protected mode: call gates with parameters, RETF to an outer ring, conforming code,
; interrupt
; and trap gates, IOPL, the I/O permission bitmap. Source: SDM 3A 5.8, 6.12; SDM 1 18.5.
%include "lib/guest.inc"
%include "lib/modes.inc"

GATE0  equ SPARE + 3       ; call gate of DPL 3 to ring 0, two parameters
GATE16 equ SPARE + 8 + 3   ; 16-bit call gate
GATE_D0 equ SPARE + 16 + 3 ; call gate of DPL 0
CONF   equ SPARE + 24      ; conforming ring 0 code
RING1CODE equ SPARE + 32
RING1DATA equ SPARE + 40
GATE1  equ SPARE + 48 + 3  ; call gate to ring 1

; call_gate selector, target selector, label, type and DPL byte, parameters
%macro call_gate 5
  mov eax, %3
  mov [gdt + ((%1) & ~7)], ax
  mov word [gdt + ((%1) & ~7) + 2], %2
  mov byte [gdt + ((%1) & ~7) + 4], %5
  mov byte [gdt + ((%1) & ~7) + 5], %4
  shr eax, 16
  mov [gdt + ((%1) & ~7) + 6], ax
%endmacro

GUEST
  start_protected32
  mov word [TSS32 + 0x10], RING1DATA + 1     ; SS1:ESP1
  mov dword [TSS32 + 0x0c], STACK_IST1
  call_gate GATE0, CODE32, gate_target, 0xec, 2
  call_gate GATE16, CODE32, gate_target16, 0xe4, 1
  call_gate GATE_D0, CODE32, gate_target, 0x8c, 0
  call_gate GATE1, RING1CODE, ring1_target, 0xec, 0
  set_descriptor CONF, 0, 0xfffff, 0x9f, 0xc
  set_descriptor RING1CODE, 0, 0xfffff, 0xbb, 0xc
  set_descriptor RING1DATA, 0, 0xfffff, 0xb3, 0xc

  ; Call gate from ring 3: new stack, SS:ESP, parameters, CS:EIP. RETF n drops the parameters from both stacks.
  run_user user_gate
  expect "back in ring 3 by RETF: vector", [exc_vec], 3
  expect "back in ring 3 by RETF: CS", [exc_cs], USER32
  expect "ESP in ring 3 afterwards", [exc_rsp], STACK_USER
  expect "CPL in the gate's target", [seen_cs], CODE32
  expect "stack segment", [seen_ss], DATA
  expect "stack pointer", [seen_esp], STACK_RSP0 - 24
  expect "parameter 2", [seen_frame + 8], 0x2222
  expect "parameter 1", [seen_frame + 12], 0x1111
  expect "saved ESP", [seen_frame + 16], STACK_USER - 8
  expect "saved SS", [seen_frame + 20], USERDATA
  expect "saved CS", [seen_frame + 4], USER32
  expect "null DS: a ring 0 segment does not survive RETF to ring 3", [seen_ds], 0
  expect "a ring 3 segment does", [seen_es], USERDATA
  ; The same gate from ring 0: no stack switch, no copy.
  push dword 0x77
  push dword 0x88
  mov dword [gate_same_level], 1
  call GATE0:0
  expect "call gate within ring 0: top of stack above the return address", [seen_param], 0x88
  ; A 16-bit gate pushes words.
  run_user user_gate16
  expect "16-bit gate: stack pointer", [seen_esp], STACK_RSP0 - 10
  movzx eax, word [seen_frame + 4]
  expect "16-bit gate: parameter", eax, 0x3333
  ; Through ring 1.
  run_user user_gate1
  expect "gate to ring 1: CS", [seen_cs], RING1CODE + 1
  expect "gate to ring 1: SS", [seen_ss], RING1DATA + 1
  expect "gate to ring 1: INT3 from there", [exc_cs], RING1CODE + 1
  ; Gates that do not open.
  expect_user "gate of DPL 0 from ring 3", user_gate_d0, 13, GATE_D0 & ~3
  and byte [gdt + (GATE0 & ~3) + 5], 0x7f
  expect_user "absent gate", user_gate, 11, GATE0 & ~3
  or byte [gdt + (GATE0 & ~3) + 5], 0x80
  mov word [gdt + (GATE0 & ~3) + 2], DATA
  expect_user "gate to a data segment", user_gate, 13, DATA
  mov word [gdt + (GATE0 & ~3) + 2], 0
  expect_user "gate to null", user_gate, 13, 0
  mov word [gdt + (GATE0 & ~3) + 2], CODE32
  mov word [TSS32 + 0x10], 0
  expect_user "gate to ring 1 with a null SS1", user_gate1, 10, 0
  mov word [TSS32 + 0x10], USERDATA
  expect_user "gate to ring 1 with a ring 3 segment as SS1", user_gate1, 10, USERDATA & ~3
  mov word [TSS32 + 0x10], RING1DATA + 1

  ; Conforming code is entered without a change of CPL; non-conforming inner code is not.
  expect_user "jump to conforming code", user_conforming, 3, 0, CONF + 3
  expect_user "jump to inner code", user_inner, 13, CODE32

  ; IOPL: CLI, STI, IN and OUT. POPF changes neither IOPL nor, without it, IF.
  run_user user_cli, 0x3202
  expect "CLI with IOPL 3", [exc_vec], 3
  mov eax, [exc_flags]
  and eax, 0x200
  expect "IF after CLI in ring 3", eax, 0
  run_user user_cli, 0x0202
  expect "CLI with IOPL 0", [exc_vec], 13
  run_user user_popf, 0x0202
  mov eax, [exc_flags]
  and eax, 0x3200
  expect "POPF in ring 3 with IOPL 0 leaves IOPL and IF", eax, 0x200
  run_user user_popf, 0x3202
  mov eax, [exc_flags]
  and eax, 0x3200
  expect "POPF in ring 3 with IOPL 3 changes IF", eax, 0x3000
  run_user user_hlt, 0x3002
  expect "HLT in ring 3", [exc_vec], 13
  run_user user_cr, 0x3002
  expect "MOV CR in ring 3", [exc_vec], 13

  ; I/O permission bitmap: at 0x68 in the TSS, 0x2000 bits would be the most; here ports up to 0x3ff.
  set_descriptor SEL_TSS32, TSS32, 0x68 + 0x80, 0x89, 0
  mov ax, SEL_TSS32
  ltr ax
  mov edi, TSS32 + 0x68
  mov ecx, 0x80 / 4
  xor eax, eax
  rep stosd
  mov byte [TSS32 + 0x68 + 0x80], 0xff
  mov byte [TSS32 + 0x68 + 0x80 / 8], 0x02  ; port 0x81 is denied
  run_user user_out80, 2
  expect "OUT to a permitted port", [exc_vec], 3
  run_user user_out81, 2
  expect "OUT to a denied port", [exc_vec], 13
  run_user user_outw80, 2
  expect "word OUT over a permitted and a denied port", [exc_vec], 13
  run_user user_out3ff, 2
  expect "OUT to the last port of the bitmap", [exc_vec], 3
  run_user user_outw3ff, 2
  expect "word OUT beyond the bitmap: its byte of ones", [exc_vec], 13
  run_user user_out1000, 2
  expect "OUT beyond the TSS's limit", [exc_vec], 13
  run_user user_out81, 0x3002
  expect "OUT with IOPL 3 does not ask the bitmap", [exc_vec], 3
  mov word [TSS32 + 0x66], 0xffff
  run_user user_out80, 2
  expect "no bitmap", [exc_vec], 13

  ; Gates in the IDT: their DPL counts for INT n only; interrupt gates clear IF, trap gates do not.
  run_user user_int31
  expect "INT to a gate of DPL 0: vector", [exc_vec], 13
  expect "INT to a gate of DPL 0: error code", [exc_err], 0x31 * 8 + 2
  run_user user_ud
  expect "#UD through a gate of DPL 0", [exc_vec], 6
  expect "frame of an interrupt from ring 3: ESP", [exc_rsp], STACK_USER
  expect "frame of an interrupt from ring 3: SS", [exc_ss], USERDATA
  set_handler 0x31, on_31
  sti
  int 0x31
  mov eax, [seen_flags]
  and eax, 0x200
  expect "IF in an interrupt gate", eax, 0
  mov byte [IDT32 + 0x31 * 8 + 5], 0x8f
  int 0x31
  mov eax, [seen_flags]
  and eax, 0x200
  expect "IF in a trap gate", eax, 0x200
  cli
  ; A 16-bit gate pushes words.
  mov byte [IDT32 + 0x31 * 8 + 5], 0x86
  mov eax, on_31_16
  mov [IDT32 + 0x31 * 8], ax
  mov ebx, esp
  int 0x31
  sub ebx, [seen_esp]
  expect "frame of a 16-bit gate", ebx, 6

  ; IRET to ring 3 with segments of inner rings in DS, ES: they become null.
  mov ax, DATA
  mov es, ax
  mov ax, CONF
  mov fs, ax
  mov dword [exc_vec], -1
  mov [exc_resume_rsp], esp
  mov dword [exc_resume], iret_done
  push USERDATA
  push STACK_USER
  push 0x3002
  push USER32
  push user_look
  iretd
iret_done:
  expect "ES after IRET to ring 3", ecx, 0
  expect "FS with conforming code after IRET to ring 3", edx, CONF
  finish

gate_target:
  mov [seen_esp], esp
  push esi
  push edi
  push ecx
  lea esi, [esp + 12]
  mov edi, seen_frame
  mov ecx, 6
  rep movsd
  pop ecx
  pop edi
  pop esi
  mov eax, [esp + 8]
  mov [seen_param], eax
  mov eax, cs
  mov [seen_cs], eax
  mov eax, ss
  mov [seen_ss], eax
  cmp dword [gate_same_level], 0
  jne .same
  mov ax, DATA
  mov ds, ax
.same:
  retf 8
gate_target16:
  mov [seen_esp], esp
  mov eax, [esp]
  mov [seen_frame], eax
  mov eax, [esp + 4]
  mov [seen_frame + 4], eax
  o16 retf 2
ring1_target:
  mov eax, cs
  mov [seen_cs], eax
  mov eax, ss
  mov [seen_ss], eax
  int3
user_gate:
  push dword 0x1111
  push dword 0x2222
  call GATE0:0xdeadbeef        ; the offset is not used
  mov ecx, ds
  mov edx, es
  mov ax, USERDATA
  mov ds, ax
  mov [seen_ds], ecx
  mov [seen_es], edx
  int3
user_gate16:
  push word 0x3333
  call GATE16:0
  int3
user_gate1:
  call GATE1:0
user_gate_d0:
  call GATE_D0:0
user_conforming:
  jmp CONF:user_int3
user_inner:
  jmp CODE32:user_int3
user_int3:
  int3
user_cli:
  cli
  int3
user_popf:
  push dword 2
  popfd
  int3
user_hlt:
  hlt
user_cr:
  mov eax, cr0
  int3
user_out80:
  out 0x80, al
  int3
user_out81:
  out 0x81, al
  int3
user_outw80:
  out 0x80, ax
  int3
user_out3ff:
  mov dx, 0x3ff
  out dx, al
  int3
user_outw3ff:
  mov dx, 0x3ff
  out dx, ax
  int3
user_out1000:
  mov dx, 0x1000
  out dx, al
  int3
user_int31:
  int 0x31
user_ud:
  ud2
user_look:
  mov ecx, es
  mov edx, fs
  int3
on_31:
  pushfd
  pop dword [seen_flags]
  iretd
on_31_16:
  mov [seen_esp], esp
  o16 iret

in_data align 4
in_data seen_cs: dd 0
in_data seen_ss: dd 0
in_data seen_ds: dd 0
in_data seen_es: dd 0
in_data seen_esp: dd 0
in_data seen_param: dd 0
in_data seen_flags: dd 0
in_data seen_frame: times 6 dd 0
in_data gate_same_level: dd 0

GUEST_ROUTINES
