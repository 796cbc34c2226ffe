; A program in ring 3 that looks at the pointers to its last x87 instruction: FXSAVE with and without an exception that waits,
; FNSTENV behind an exit. Vendors differ in what they show; a recording has to replay on the soft engine all the same.
;
; Only what does not depend on the host's thread switches: on AMD these lose the pointers while no exception waits, and the
; selectors always. So FNSTENV stands behind an access to a port, which does the same.
%include "common.inc"

ROUNDS equ 20
PORT   equ 0xe9

GUEST
  start_long
  set_bits cr4, CR4_OSFXSR
  linux_gdt
  allow_port PORT
  set_handler 6, on_ud
  to_user user, STACK_USER

; saves where: everything that FXSAVE tells, by both of its forms.
%macro saves 1
  fxsave64 [%1]
  fxsave [%1 + 512]
%endmacro
; leaves: out of KVM and back.
%macro leaves 0
  mov al, '.'
  out PORT, al
%endmacro

user:
  xor ebx, ebx
.next:
  fninit
  saves SCRATCH
  fld dword [x]
  saves SCRATCH + 0x400
  fld1
  fmul qword [y]
  fxch
  saves SCRATCH + 0x800
  leaves
  fnstenv [SCRATCH + 0xc00]
  saves SCRATCH + 0x1000

  ; An exception that waits, of an instruction without a memory operand; FDP is that of the last one with one, or was lost.
  fldcw [unmasked]
  fldz
  fld1
  fdiv st0, st1
  leaves
  fnstenv [SCRATCH + 0xc20]
  fnclex
  saves SCRATCH + 0x1800
  fninit

  ; And of one with a memory operand.
  fldcw [unmasked]
  fld dword [x]
  fdiv dword [zero]
  fxsave64 [SCRATCH + 0x1c00]
  leaves
  saves SCRATCH + 0x2000
  fnstenv [SCRATCH + 0xc40]
  fnclex
  leaves
  saves SCRATCH + 0x2400

  ; Pointers from an image: kept on Intel, and on AMD until the next exit.
  fninit
  fxsave64 [SCRATCH + 0x2800]
  mov dword [SCRATCH + 0x2808], 0x12345678
  mov dword [SCRATCH + 0x2810], 0x23456789
  mov word [SCRATCH + 0x2806], 0x123
  fxrstor64 [SCRATCH + 0x2800]
  leaves
  fnstenv [SCRATCH + 0xc60]
  saves SCRATCH + 0x2c00

  inc ebx
  cmp ebx, ROUNDS
  jb .next
  ud2

on_ud:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  cmp qword [rsp + 8], L_USER_CODE
  jne .wrong
  says "x87_pointers: rounds "
  mov eax, ebx
  call serial_number
  says 10
  end_run
.wrong:
  failed "#UD from elsewhere"
  finish

in_data align 8
in_data x: dd 1.5
in_data zero: dd 0
in_data y: dq 2.5
in_data unmasked: dw 0x340
COMMON_ROUTINES
