; A program that stores what its vendor's processor keeps of the last x87 instruction: FIP, FDP and FOP with and without an
; unmasked exception, in the form that thread switches on the host do not touch (FXSAVE); and x87 and MMX stores that fault. A
; replay on the soft engine finds the same memory only with that vendor's rules.
%include "common.inc"

T     equ PAGE_TABLES + 0x20000
AREA  equ 0x400000
END   equ AREA + 0x3000      ; a page of data before, and none behind
LOG   equ 0x600000           ; FXSAVE images

%macro logged 0
  o64 fxsave [rdi]
  add rdi, 512
%endmacro

; faulting instruction...: the kernel goes on behind it.
%macro faulting 1+
  mov r15d, %%next
  %1
%%next:
  logged
%endmacro

GUEST
  start_long
  set_bits cr0, CR0_WP
  set_bits cr4, CR4_OSFXSR
  linux_gdt
  split_2m AREA, T
  mov dword [T + 3 * 8], 0
  mov rax, cr3
  mov cr3, rax
  set_handler 6, on_ud
  set_handler 14, on_fault
  to_user user, STACK_USER

user:
  mov edi, LOG
  fninit
  logged
  fld dword [one]
  logged
  fld1
  fld qword [END - 16]
  logged
  fdiv dword [zero]         ; masked
  logged
  fninit
  fldcw [unmasked]
  fld dword [one]
  fdiv dword [zero]         ; unmasked: pointers
  logged
  fnclex
  logged
  fninit
  fld dword [one]
  faulting fstp dword [END]
  faulting fst qword [END - 4]
  faulting fstp tword [END - 9]
  faulting fist dword [END - 2]
  faulting fld dword [END - 2]
  faulting fld tword [END - 4]
  fninit
  fldcw [unmasked]
  fldz
  fld1
  fchs
  faulting fistp word [END - 1]
  fninit
  mov rax, 0x1122334455667788
  faulting movq [END - 4], mm0
  movq mm1, rax
  logged
  faulting movd [END - 2], mm1
  emms
  logged
  faulting movq mm2, [END - 4]
  emms
  logged
  ud2

on_fault:
  mov [r13_kept], r13
  mov r13, [log_at]
  pop qword [r13]           ; error code
  push rax
  mov rax, cr2
  mov [r13 + 8], rax
  pop rax
  add r13, 16
  mov [log_at], r13
  mov r13, [r13_kept]
  inc dword [faults]
  mov [rsp], r15
  iretq

on_ud:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  mov esi, LOG
.images:
  lodsq
  mix_in rax
  cmp rsi, rdi
  jb .images
  says "vendor_x87: faults "
  mov eax, [faults]
  call serial_number
  end_with_state

in_data align 8
in_data r13_kept: dq 0
in_data log_at: dq 0x700000
in_data faults: dd 0
in_data one: dd 1.0
in_data zero: dd 0
in_data unmasked: dw 0x340
COMMON_ROUTINES
