; A program in ring 3 under a kernel in the upper half of the address space reads the time stamp counter, by RDTSC and by
; RDTSCP, with and without the timer's handler in between, and looks at all registers and flags around it. Then CR4: the
; kernel reads it, forbids RDTSC to programs, and gets the #GP itself, as it gets that of a privileged instruction.
;
; A kernel's own code is looked through for RDTSC, and the program is not of it: it is put together elsewhere, from a form
; that has no RDTSC in it.
%include "common.inc"

ROUNDS equ 150
CR4_TSD equ 4
PROGRAM equ 0x200000

; RDTSC and RDTSCP with 0E for 0F, which the program has nowhere else.
%macro user_rdtsc 0
  db 0x0e, 0x31
%endmacro
%macro user_rdtscp 0
  db 0x0e, 0x01, 0xf9
%endmacro

GUEST
  start_long
  set_bits cr4, CR4_OSFXSR
  linux_gdt
  to_upper_half
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_pit
  set_handler 6, on_ud
  set_handler 13, on_gp
  mov ecx, 0xc0000103  ; TSC_AUX, what RDTSCP shows in ECX
  mov eax, 0x5a
  xor edx, edx
  wrmsr
  pit_start 2, 596  ; 0.5 ms
  mov r8, cr4       ; before any program has run
  mov [cr4_first], r8
  mov esi, user
  mov edi, PROGRAM
  mov ecx, user_end - user
.copy:
  lodsb
  cmp al, 0x0e
  jne .plain
  inc al
.plain:
  stosb
  dec ecx
  jnz .copy
  to_user PROGRAM, STACK_USER

user:
  mov rbp, 0x123456789abcdef0
  mov ebx, ROUNDS
  xor r15d, r15d
.round:
  mov rsi, rsp
  stc
  user_rdtsc
  jnc .bad
  call .fold
  mov ecx, 0x77
  user_rdtscp
  cmp ecx, 0x5a
  jne .bad
  call .fold
  mov ecx, 10
.loop:
  user_rdtsc
  shl rdx, 32
  or rax, rdx
  add r15, rax
  rol r15, 5
  dec ecx
  jnz .loop
  cmp rsp, rsi
  jne .bad
  mov rax, 0x123456789abcdef0
  cmp rbp, rax
  jne .bad
  test ebx, 15
  jnz .on
  hlt              ; #GP, which the kernel answers by going on behind it
.on:
  dec ebx
  jnz .round
  ud2              ; the kernel sets CR4.TSD
  mov ecx, 20
.forbidden:
  user_rdtsc            ; #GP, the kernel's own affair
  dec ecx
  jnz .forbidden
  ud2              ; the kernel clears it
  user_rdtsc
  call .fold
  ud2
.bad:
  mov dword [wrong], 1
  mov dword [stage], 2
  ud2

; EDX:EAX is a time: not before the last one.
.fold:
  shl rdx, 32
  or rax, rdx
  cmp rax, [last]
  jae .later
  mov dword [wrong], 2
.later:
  mov [last], rax
  add r15, rax
  rol r15, 3
  ret
user_end:

; Of a program: HLT is one byte, RDTSC two.
on_gp:
  cmp qword [rsp + 16], L_USER_CODE
  jne .kernel
  push rax
  push r10
  inc dword [faults]
  mov rax, [rsp + 24]
  cmp byte [rax], 0xf4
  je .one
  inc dword [refused]
  inc rax
.one:
  inc rax
  mov [rsp + 24], rax
  mix_in rax
  pop r10
  pop rax
  add rsp, 8
  iretq
.kernel:
  failed "#GP in the kernel"
  finish

on_ud:
  push rax
  push r10
  mov rax, cr4
  mix_in rax
  cmp dword [stage], 1
  je .allow
  ja .end
  mov rax, cr4
  cmp rax, [cr4_first]
  jne .other
  or eax, CR4_TSD
  mov cr4, rax
  jmp .on
.allow:
  test eax, CR4_TSD
  jz .other
  and eax, ~CR4_TSD
  mov cr4, rax
.on:
  inc dword [stage]
  add qword [rsp + 16], 2
  pop r10
  pop rax
  iretq
.other:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  failed "CR4 has changed"
  finish
.end:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  mix_in r15
  says "user_tsc: wrong "
  mov eax, [wrong]
  call serial_number
  says " faults "
  mov eax, [faults]
  call serial_number
  says " refused "
  mov eax, [refused]
  call serial_number
  says " last "
  says_number [last]
  says " state "
  says_number [mixed]
  says 10
  cmp dword [wrong], 0
  je .fine
  failed "user_tsc"
.fine:
  finish

on_pit:
  push rax
  push rdx
  push r10
  rdtsc
  mix_in rax
  mov rax, [rsp + 24]
  mix_in rax
  inc dword [ticks]
  mov al, 0x20
  out 0x20, al
  pop r10
  pop rdx
  pop rax
  iretq

in_data align 8
in_data last: dq 0
in_data cr4_first: dq 0
in_data ticks: dd 0
in_data wrong: dd 0
in_data faults: dd 0
in_data refused: dd 0
in_data stage: dd 0
COMMON_ROUTINES
