; Accesses across the end of a page: data, stack, strings, and faults on the second page, which must leave everything as it
; was.
; Source: SDM 3A 6.5 (restart of instructions), SDM 2 for the order within an instruction.
%include "lib/guest.inc"
%include "lib/modes.inc"

T    equ PAGE_TABLES + 0x20000
PAGE equ 0x400000
END  equ PAGE + 0x1000      ; the page from here on is absent, or mapped elsewhere

%macro second_page 1
  mov dword [pte_of(END, T)], %1
  mov dword [pte_of(END, T) + 4], 0
  invlpg [END]
%endmacro

; expect_fault_on_stack "what", error code, instruction[, RSP]: a page fault with RSP = END + 4, if not told otherwise.
%macro expect_fault_on_stack 3-4 END + 4
  mov qword [exc_vec], -1
  mov qword [exc_resume_rsp], STACK
  mov qword [exc_resume], %%after
  mov qword [try_rip], %%insn
  mov rsp, %4
%%insn:
  %3
%%after:
  mov esp, STACK
  mov qword [exc_resume], 0
  expect {%1, ": vector"}, [exc_vec], 14
  expect {%1, ": error code"}, [exc_err], %2
  expect {%1, ": rip"}, [exc_rip], [try_rip]
%endmacro

GUEST
  start_long
  mov byte [IDT64 + 14 * 16 + 4], 1  ; #PF on IST1: the stack is what faults
  split_2m PAGE, T
  set_bits cr0, CR0_WP
  set_bits cr4, CR4_OSFXSR

  ; Two pages that are not neighbours in physical memory.
  second_page PAGE + 0x8000 + 7
  mov rax, 0x1122334455667788
  mov [END - 3], rax
  mov rbx, [END - 3]
  expect "qword across pages", rbx, rax
  mov ecx, [PAGE + 0x8000]
  expect "its part on the second page", rcx, 0x22334455
  mov ecx, [END - 4]
  shr ecx, 8
  expect "its part on the first page", rcx, 0x667788
  lock add qword [END - 3], 1
  mov rbx, [END - 3]
  inc rax
  expect "locked add across pages", rbx, rax
  movups xmm0, [END - 9]
  movups [END - 7], xmm0
  mov rbx, [END - 7 + 6]
  expect "16 bytes across pages", rbx, rax
  mov rsp, END + 4
  push rax
  pop rbx
  mov esp, STACK
  expect "PUSH and POP across pages", rbx, rax

  ; Second page absent.
  mov rdx, 0xa5a5a5a5a5a5a5a5
  mov [END - 8], rdx
  second_page 0
  mov edi, END - 4
  mov ebx, 0x1234
  expect_fault "read across, second page absent", 14, 0, mov rbx, [rdi]
  expect "CR2 is the first byte that is missing", [exc_cr2], END
  expect "the register is unchanged", rbx, 0x1234
  expect_fault "write across, second page absent", 14, 2, mov [rdi], rbx
  expect "CR2 of the write", [exc_cr2], END
  expect "nothing was written to the first page", [END - 8], rdx
  expect_fault "read-modify-write across", 14, 2, add [rdi], rbx
  expect "nothing was changed", [END - 8], rdx
  expect_fault "XADD across", 14, 2, lock xadd [rdi], rbx
  expect "RBX after XADD", rbx, 0x1234
  expect_fault "CMPXCHG across", 14, 2, lock cmpxchg [rdi], rbx
  expect_fault "16-byte read across", 14, 0, movups xmm0, [rdi - 4]
  expect_fault "16-byte write across", 14, 2, movups [rdi - 4], xmm0
  expect "nothing was written by MOVUPS", [END - 8], rdx
  ; Second page read-only.
  second_page PAGE + 0x8000 + 5
  expect_fault "write across, second page read-only", 14, 3, mov [rdi], rbx
  expect "nothing was written in front of a read-only page", [END - 8], rdx
  second_page 0

  ; The stack: RSP stays where it was.
  expect_fault_on_stack "PUSH across", 2, {push rax}
  expect "RSP after the PUSH that failed", [exc_rsp], END + 4
  expect_fault_on_stack "POP across", 0, {pop rax}, END - 4
  expect "RSP after the POP that failed", [exc_rsp], END - 4
  expect_fault_on_stack "CALL across", 2, {call finish64}
  expect "RSP after the CALL that failed", [exc_rsp], END + 4
  expect_fault_on_stack "RET across", 0, {ret}, END - 4
  expect_fault_on_stack "ENTER into an absent page", 2, {enter 64, 0}
  mov rbp, END - 4
  expect_fault_on_stack "LEAVE from an absent page", 0, {leave}, STACK
  expect "RBP after the LEAVE that failed", rbp, END - 4

  ; POP to memory that is absent: RSP must not move.
  mov edi, END
  mov rcx, rsp
  push 1
  mov rbx, rsp
  try pop qword [rdi]
  expect "POP to an absent page: vector", [exc_vec], 14
  expect "POP to an absent page: RSP", [exc_rsp], rbx
  mov rsp, rcx

  ; Strings: the iterations before the fault count.
  cld
  mov edi, END - 5
  mov ecx, 20
  mov al, 0x77
  try rep stosb
  expect "REP STOSB into the absent page: vector", [exc_vec], 14
  expect "REP STOSB: RCX", rcx, 15
  expect "REP STOSB: RDI", rdi, END
  expect "REP STOSB: CR2", [exc_cr2], END
  expect "REP STOSB: rip", [exc_rip], [try_rip]
  mov esi, END - 16
  mov edi, PAGE + 0x4000
  mov ecx, 5
  try rep movsq
  expect "REP MOVSQ out of the page: RCX", rcx, 3
  expect "REP MOVSQ out of the page: RSI", rsi, END
  expect "REP MOVSQ out of the page: RDI", rdi, PAGE + 0x4010
  mov esi, PAGE + 0x4000
  mov edi, END - 12
  mov ecx, 5
  try rep movsq
  expect "REP MOVSQ across the end: RCX", rcx, 4
  expect "REP MOVSQ across the end: RDI", rdi, END - 4
  expect "REP MOVSQ across the end: RSI", rsi, PAGE + 0x4008
  std
  second_page END + 7
  mov dword [pte_of(PAGE, T)], 0
  invlpg [PAGE]
  mov edi, END + 3
  mov ecx, 20
  try rep stosb
  cld
  expect "REP STOSB downwards: RCX", rcx, 16
  expect "REP STOSB downwards: RDI", rdi, END - 1
  mov dword [pte_of(PAGE, T)], PAGE + 7
  invlpg [PAGE]
  second_page 0
  mov esi, END - 3
  mov edi, PAGE
  mov ecx, 10
  mov byte [PAGE], 0x77
  mov byte [PAGE + 1], 0x77
  mov byte [PAGE + 2], 0x77
  try repe cmpsb
  expect "REPE CMPSB into the absent page: RCX", rcx, 7
  expect "REPE CMPSB into the absent page: RSI", rsi, END
  ; Code: a jump to the last byte of a page, an instruction across into an absent and into an NX page.
  mov byte [END - 1], 0x90
  mov edi, END - 1
  try call rdi
  expect "running off the page: rip", [exc_rip], END
  expect "running off the page: CR2", [exc_cr2], END
  mov byte [END - 1], 0xb8
  try call rdi
  expect "instruction across the end: rip", [exc_rip], END - 1
  expect "instruction across the end: CR2", [exc_cr2], END
  ; The prefix bytes count too: 15 at most.
  second_page END + 7
  mov edi, END - 10
  mov ecx, 15
  mov al, 0x66
  rep stosb
  mov byte [rdi], 0x90
  mov edi, END - 10
  try call rdi
  expect "16 bytes of instruction: vector", [exc_vec], 13
  inc rdi
  mov byte [rdi + 14], 0x90
  mov byte [rdi + 15], 0xc3
  expect_ok "15 bytes of instruction", call rdi
  finish

GUEST_ROUTINES
