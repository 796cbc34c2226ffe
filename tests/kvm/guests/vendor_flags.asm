; A program whose memory afterwards depends on the processor's vendor: flags that the manuals leave undefined, pushed, and what
; faults leave behind: CR2, error code, registers, RF and the flags in the middle of a repeated instruction, parts that are
; written. A replay on the soft engine finds the same memory only with that vendor's rules.
%include "common.inc"

T     equ PAGE_TABLES + 0x20000
AREA  equ 0x400000
GOOD  equ AREA + 0x1000      ; two pages, and none behind
END   equ AREA + 0x3000
READ  equ AREA + 0x5000      ; for reading only, and none behind
LOG   equ 0x600000
ROUNDS equ 40

; flags_of instruction...: with RAX, RBX, RCX, RDX of the round; logs the flags behind it. RDI is the log.
%macro flags_of 1+
  mov rax, r8
  mov rbx, r9
  mov rcx, r10
  mov rdx, r11
  push r12
  popfq
  %1
  pushfq
  pop qword [rdi]
  add rdi, 8
%endmacro

; fault_of instruction...: with the registers as they are; the kernel logs the fault and goes on behind it. R14 keeps the stack
; pointer, R15 where to go on.
%macro fault_of 1+
  mov r14, rsp
  mov r15d, %%next
  %1
%%next:
  mov rsp, r14
%endmacro

; The same for several instructions, with a stack of their own.
%macro on_stack 1
  mov r14, rsp
  mov r15d, %%next
  mov rsp, %1
  %define GO_ON %%next
%endmacro
%macro on_stack_end 0
GO_ON:
  mov rsp, r14
%endmacro

GUEST
  start_long
  set_bits cr0, CR0_WP
  set_bits cr4, CR4_OSFXSR
  linux_gdt
  split_2m AREA, T
  %assign page 0
  %rep 16
    %if page != 1 && page != 2 && page != 5
      mov dword [T + page * 8], 0
    %endif
    %assign page page + 1
  %endrep
  mov dword [T + 5 * 8], READ + 5
  mov rax, cr3
  mov cr3, rax
  set_handler 6, on_ud
  set_handler 14, on_fault
  set_handler 13, on_fault
  set_handler 12, on_fault
  to_user user, STACK_USER

user:
  mov edi, LOG
  mov r8, 0x8123456789abcdef
  mov r9, 0x0f1e2d3c4b5a6978
  mov r10d, 1
  mov r11, 0x7fffffffffffff80
  mov r12d, 0x2
  mov ebp, ROUNDS
.round:
  flags_of mul rbx
  flags_of imul rbx
  flags_of imul eax, ebx
  flags_of imul ax, bx, 77
  flags_of shl rax, cl
  flags_of shr eax, cl
  flags_of sar ax, cl
  flags_of rol al, cl
  flags_of ror rax, cl
  flags_of rcl eax, cl
  flags_of rcr bx, cl
  flags_of shl byte [rsp - 16], cl
  flags_of shld rax, rbx, cl
  flags_of shrd eax, ebx, cl
  flags_of shld ax, bx, cl
  flags_of bt rax, rbx
  flags_of bts eax, ecx
  flags_of and rax, rbx
  flags_of xor al, bl
  flags_of test edx, ecx
  xor r11d, r11d
  or r9d, 1
  flags_of div ebx
  ; The next operands: all bits of the count, and all flags.
  mov rax, 6364136223846793005
  imul r8, rax
  add r8, 1442695040888963407 & 0x7fffffff
  imul r9, rax
  xor r9, r8
  imul r11, rax
  xor r11, rbp
  mov r10d, r8d
  shr r10d, 11
  mov r12, r9
  shr r12, 20
  and r12d, 0x8d5
  or r12d, 2
  dec ebp
  jnz .round

  ; Faults across the end of a page, and in parts.
  mov eax, 0x12345678
  fault_of mov rbx, [END - 3]
  fault_of mov [END - 3], rax
  fault_of add [END - 5], rax
  fault_of mov [READ + 0xffe], eax
  fault_of mov ebx, [READ + 0xffe]
  fault_of shl dword [READ], 0
  fault_of cmovc rax, [END]
  fault_of push qword [END - 4]
  fault_of pop qword [END - 4]
  mov esi, END - 4
  mov edx, READ + 0xffc
  push rdi
  mov edi, READ
  fault_of movsq
  mov esi, END - 4
  mov edi, READ + 0xffc
  fault_of cmpsq
  mov rsp, r14
  pop rdi
  mov rbx, rdi
  ; Repeated, with flags that are not what the comparison would leave.
  mov esi, GOOD
  mov edi, END - 5
  mov ecx, 20
  fault_of rep movsb
  mov esi, GOOD
  mov edi, END - 24
  mov ecx, 9
  fault_of rep movsq
  mov esi, GOOD
  mov edi, GOOD + 0x1ffb
  mov ecx, 20
  stc
  fault_of repe cmpsb
  mov edi, END - 12
  mov ecx, 20
  mov eax, 0
  std
  cld
  fault_of repe scasd
  mov esi, END - 4
  mov edi, GOOD
  mov ecx, 3
  fault_of rep lodsd
  mov rdi, rbx
  mov rax, 0x0000900000000000
  fault_of call rax
  on_stack GOOD + 8
  push 1
  push 2
  on_stack_end
  on_stack GOOD + 4
  enter 0x2000, 3
  on_stack_end
  on_stack END - 8
  iretq
  on_stack_end
  on_stack END - 4
  o64 retf
  on_stack_end
  fault_of movups xmm0, [END - 15]
  fault_of movaps xmm0, [GOOD + 8]
  fault_of movaps [END + 8], xmm0
  ud2

; Page faults, #GP and #SS of the program: vector by error code alone would be ambiguous, so each comes with CR2.
on_fault:
  mov [r13_kept], r13
  mov r13, [log_at]
  pop qword [r13]           ; error code
  push rax
  mov rax, cr2
  mov [r13 + 8], rax
  mov rax, [rsp + 8]        ; RIP, CS, RFLAGS, RSP
  mov [r13 + 16], rax
  mov rax, [rsp + 24]
  mov [r13 + 24], rax
  mov rax, [rsp + 32]
  mov [r13 + 32], rax
  pop rax
  mov [r13 + 40], rcx
  mov [r13 + 48], rsi
  mov [r13 + 56], rdi
  mov [r13 + 64], rax
  mov [r13 + 72], rbx
  add r13, 80
  mov [log_at], r13
  mov r13, [r13_kept]
  inc dword [faults]
  mov [rsp], r15
  mov [rsp + 24], r14
  iretq

on_ud:
  mov eax, DATA
  mov ds, eax
  mov es, eax
  ; A sum of all of it is said.
  mov esi, LOG
.flags:
  lodsq
  mix_in rax
  cmp rsi, rdi
  jb .flags
  mov esi, faults_log
.faults:
  lodsq
  mix_in rax
  cmp rsi, [log_at]
  jb .faults
  says "vendor_flags: faults "
  mov eax, [faults]
  call serial_number
  end_with_state

in_data align 8
in_data r13_kept: dq 0
in_data log_at: dq faults_log
in_data faults: dd 0
faults_log equ 0x700000
COMMON_ROUTINES
