; A small kernel in long mode with page tables of its own: two tasks in ring 3, each in its own address space, switched by
; the timer. They compute on memory and SSE registers, touch pages that are not there yet, and call the kernel by UD2, INT3,
; a division by zero and a privileged instruction; two ports are theirs. The kernel's own work can be interrupted, too.
;
; The line "tasks ..." must be the same in every run. The line "switches ..." depends on when interrupts came.
%include "common.inc"

ROUNDS   equ 64   ; of each task, until it hands in its result
SWITCHES equ 30   ; at least as many, then it ends
PERIOD   equ 298  ; of the timer: 250 us

; Physical memory.
KERNEL_PT0 equ 0x118000  ; 0 to 2 MiB, for the kernel
KERNEL_PT1 equ 0x119000  ; 2 to 4 MiB
KERNEL_PD3 equ 0x11a000  ; the APICs
TASK_TABLES equ 0x120000 ; 0x4000 bytes each: PML4, PDPT, PD, PT
USER_PAGES equ 0x200000  ; 0x10000 bytes each: code, data, stack
FX_AREAS   equ 0x230000  ; 0x200 bytes each
KERNEL_STACKS equ 0x240000 ; 0x4000 bytes each
HEAP_PAGES equ 0x280000  ; handed out one after the other
; Linear memory of a task.
U_CODE  equ 0x400000
U_DATA  equ 0x500000
U_HEAP  equ 0x510000
U_HEAP_PAGES equ 32
U_STACK equ 0x5f0000  ; one page

CALL_WORK  equ 1
CALL_PRINT equ 2
CALL_WAIT  equ 3
CALL_DONE  equ 4

GUEST
  start_long
  set_bits cr4, CR4_OSFXSR | CR4_PGE
  linux_gdt
  allow_port 0x61
  allow_port 0xe9
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_timer
  set_handler 0, on_de
  set_handler 3, on_bp
  mov byte [IDT64 + 3 * 16 + 5], 0xee
  set_handler 6, on_call
  set_handler 13, on_gp
  set_handler 14, on_pf

  ; Tables for the kernel: 4 KiB pages, global, not for users.
  mov edi, KERNEL_PT0
  mov eax, PTE_G + PTE_W + PTE_P
.identity:
  mov [rdi], rax
  add eax, 0x1000
  add edi, 8
  cmp edi, KERNEL_PT0 + 0x2000
  jb .identity
  mov edi, KERNEL_PD3
  mov ecx, 512
  xor eax, eax
  rep stosq
  mov dword [KERNEL_PD3 + ((0xfec00000 >> 21) & 511) * 8], 0xfec00000 + PTE_PS + PTE_W + PTE_P
  mov dword [KERNEL_PD3 + ((0xfee00000 >> 21) & 511) * 8], 0xfee00000 + PTE_PS + PTE_W + PTE_P

  xor ebp, ebp
.task:
  mov ebx, ebp
  shl ebx, 14
  add ebx, TASK_TABLES
  mov edx, ebp
  shl edx, 16
  add edx, USER_PAGES
  mov edi, ebx
  mov ecx, 0x4000 / 8
  xor eax, eax
  rep stosq
  lea eax, [rbx + 0x1000 + 7]
  mov [rbx], rax
  lea eax, [rbx + 0x2000 + 7]
  mov [rbx + 0x1000], rax
  mov dword [rbx + 0x1000 + 3 * 8], KERNEL_PD3 + PTE_W + PTE_P
  mov dword [rbx + 0x2000], KERNEL_PT0 + PTE_W + PTE_P
  mov dword [rbx + 0x2000 + 8], KERNEL_PT1 + PTE_W + PTE_P
  lea eax, [rbx + 0x3000 + 7]
  mov [rbx + 0x2000 + 16], rax
  lea eax, [rdx + PTE_U + PTE_P]  ; code: read only
  mov [rbx + 0x3000], rax
  lea eax, [rdx + 0x1000 + PTE_U + PTE_W + PTE_P]
  mov [rbx + 0x3000 + ((U_DATA >> 12) & 511) * 8], rax
  lea eax, [rdx + 0x2000 + PTE_U + PTE_W + PTE_P]
  mov [rbx + 0x3000 + ((U_STACK >> 12) & 511) * 8], rax
  mov edi, edx
  mov esi, user_code
  mov ecx, user_code_end - user_code
  rep movsb
  mov edi, edx
  add edi, 0x1000
  mov ecx, 0x2000 / 8
  xor eax, eax
  rep stosq
  mov [task_cr3 + rbp * 8], rbx
  ; The stack that its first switch finds.
  lea rsi, [rbp + 1]
  shl esi, 14
  add esi, KERNEL_STACKS
  mov [kernel_stack + rbp * 8], rsi
  lea rdi, [rsi - 20 * 8]
  mov [saved_rsp + rbp * 8], rdi
  mov ecx, 15
  xor eax, eax
  rep stosq
  mov qword [rdi], U_CODE
  mov qword [rdi + 8], L_USER_CODE
  mov qword [rdi + 16], 0x202
  mov qword [rdi + 24], U_STACK + 0x1000
  mov qword [rdi + 32], L_USER_DATA
  lea rax, [rbp + 'A']
  mov [rdi - 15 * 8 + SAVED_RDI], rax
  mov eax, ebp
  shl eax, 9
  fxsave [FX_AREAS + rax]
  inc ebp
  cmp ebp, 2
  jb .task

  says "two tasks", 10
  pit_start 2, PERIOD
  xor eax, eax
  mov ds, ax
  mov es, ax
  mov fs, ax
  mov gs, ax
  jmp resume  ; task 0

; --- the kernel's entries -----------------------------------------------------------------------------------------------

on_timer:
  push_all
  inc dword [ticks]
  mov rax, [rsp + SAVED_RIP]
  mix_in rax
  cmp qword [rsp + SAVED_RIP + 8], L_USER_CODE
  je .from_user
  inc dword [in_kernel]
.from_user:
  mov al, 0x20
  out 0x20, al
  inc dword [switches]
  mov eax, [current]
  mov [saved_rsp + rax * 8], rsp
  mov ecx, eax
  shl ecx, 9
  fxsave [FX_AREAS + rcx]
  cmp dword [switches], SWITCHES
  jb .go_on
  cmp dword [done], 2
  je over
.go_on:
  xor dword [current], 1
resume:
  mov eax, [current]
  mov rcx, [task_cr3 + rax * 8]
  mov cr3, rcx
  mov rsp, [saved_rsp + rax * 8]
  mov rcx, [kernel_stack + rax * 8]
  mov [TSS64 + 4], rcx
  shl eax, 9
  fxrstor [FX_AREAS + rax]
  pop_all
  iretq

; UD2: what RAX says. RAX: the answer.
on_call:
  push_all
  cmp qword [rsp + SAVED_RIP + 8], L_USER_CODE
  jne wrong
  add qword [rsp + SAVED_RIP], 2
  cmp eax, CALL_WORK
  je .work
  cmp eax, CALL_PRINT
  je .print
  cmp eax, CALL_WAIT
  je .wait
  cmp eax, CALL_DONE
  jne wrong
  mov eax, [current]
  mov [results + rax * 8], rdi
  mov rcx, [breakpoints + rax * 8]
  shl rcx, 16
  add rcx, [protections + rax * 8]
  add [traps], rcx
  inc dword [done]
  jmp .end
.work:  ; on the task's memory, interruptible
  sti
  mov ecx, 64
  xor eax, eax
.sum:
  rol rax, 3
  xor rax, [U_DATA + rcx * 8]
  dec ecx
  jnz .sum
  cli
  mov [rsp + SAVED_RAX], rax
  jmp .end
.print:
  mov eax, edi
  call serial_byte
  jmp .end
.wait:  ; for an interrupt
  sti
  hlt
  cli
.end:
  pop_all
  iretq

on_bp:
  push_all
  mov eax, [current]
  inc qword [breakpoints + rax * 8]
  pop_all
  iretq

; DIV of two bytes: RAX becomes a number that says so.
on_de:
  push_all
  cmp qword [rsp + SAVED_RIP + 8], L_USER_CODE
  jne wrong
  add qword [rsp + SAVED_RIP], 2
  mov qword [rsp + SAVED_RAX], 0xde
  pop_all
  iretq

; CLI in ring 3: no more than counted.
on_gp:
  push_all
  cmp qword [rsp + SAVED_RIP], 0
  jne wrong
  cmp qword [rsp + SAVED_RIP + 16], L_USER_CODE
  jne wrong
  inc qword [rsp + SAVED_RIP + 8]
  mov eax, [current]
  inc qword [protections + rax * 8]
  pop_all
  add rsp, 8
  iretq

; A page of the heap that is not there yet.
on_pf:
  push_all
  mov rax, cr2
  lea rcx, [rax - U_HEAP]
  cmp rcx, U_HEAP_PAGES << 12
  jae wrong
  mov rdx, [rsp + SAVED_RIP]  ; error code: user, maybe write
  and edx, ~2
  cmp edx, 4
  jne wrong
  mov edi, [next_page]
  add dword [next_page], 0x1000
  mov r8d, edi
  mov ecx, 512
  xor eax, eax
  rep stosq
  mov eax, [current]
  mov rbx, [task_cr3 + rax * 8]
  mov rax, cr2
  mov edx, eax
  shr edx, 12
  and edx, 511
  add r8d, PTE_U + PTE_W + PTE_P
  mov [rbx + 0x3000 + rdx * 8], r8
  invlpg [rax]
  inc dword [faults]
  pop_all
  add rsp, 8
  iretq

wrong:
  cli
  mov rbx, [rsp + SAVED_RIP]
  mov rcx, cr2
  says 10, "wrong: rip or error code "
  says_number rbx
  says " cr2 "
  says_number rcx
  says 10
  mov al, 2
  out 0xf4, al
  jmp hang64

over:
  says 10, "tasks "
  says_number [results]
  says " "
  says_number [results + 8]
  says " traps "
  says_number [traps]
  says 10, "switches "
  mov eax, [switches]
  call serial_number
  says " in the kernel "
  mov eax, [in_kernel]
  call serial_number
  says " faults "
  mov eax, [faults]
  call serial_number
  end_with_state

; --- ring 3 -------------------------------------------------------------------------------------------------------------
; Independent of its address. RDI: its letter, which is its seed.
user_code:
  mov r9d, edi  ; letter
  mov r14, rdi  ; random numbers
  xor r13d, r13d  ; result
  xor r12d, r12d  ; rounds
  mov r15d, U_DATA
  pxor xmm1, xmm1
.round:
  mov ecx, 1500
  mov r8, 6364136223846793005
  mov r11, 1442695040888963407
.work:
  imul r14, r8
  add r14, r11
  mov rdx, r14
  shr rdx, 55
  xor [r15 + rdx * 8], r14
  add r13, [r15 + rdx * 8]
  rol r13, 7
  movq xmm0, r14
  paddq xmm1, xmm0
  pshufd xmm1, xmm1, 0x39
  push r13
  dec ecx
  pop r13
  jnz .work
  movq rax, xmm1
  add r13, rax
  ; The heap.
  mov eax, r12d
  and eax, U_HEAP_PAGES - 1
  shl eax, 12
  add rax, U_HEAP
  xor [rax + 8], r13
  add r13, [rax + 8]
  ; Ports of its own. What they say depends on time.
  mov ecx, 16
.ports:
  in al, 0x61
  dec ecx
  jnz .ports
  ; Calls.
  mov eax, CALL_WORK
  ud2
  add r13, rax
  int3
  mov ebx, r12d
  and ebx, 3
  jnz .no_faults
  xor ecx, ecx
  xor edx, edx
  div ecx
  add r13, rax
  cli
  mov eax, r9d
  out 0xe9, al
.no_faults:
  mov ebx, r12d
  and ebx, 7
  jnz .no_print
  mov edi, r9d
  mov eax, CALL_PRINT
  ud2
.no_print:
  mov ebx, r12d
  and ebx, 15
  jnz .no_wait
  mov eax, CALL_WAIT
  ud2
.no_wait:
  inc r12d
  cmp r12d, ROUNDS
  jne .round
  mov rdi, r13
  mov eax, CALL_DONE
  ud2
  mov edi, r9d
  jmp .round
user_code_end:

in_data align 16
in_data saved_rsp: dq 0, 0
in_data kernel_stack: dq 0, 0
in_data task_cr3: dq 0, 0
in_data results: dq 0, 0
in_data breakpoints: dq 0, 0
in_data protections: dq 0, 0
in_data traps: dq 0  ; until the results: breakpoints << 16, and privileged instructions
in_data current: dd 0
in_data switches: dd 0
in_data ticks: dd 0
in_data in_kernel: dd 0
in_data done: dd 0
in_data faults: dd 0
in_data next_page: dd HEAP_PAGES
COMMON_ROUTINES
