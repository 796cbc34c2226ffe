; Exceptions while an exception is delivered: the table of SDM 3A 6.15 (benign, contributory, page faults), error codes
; with the
; EXT bit, #DF on an IST stack.
%include "lib/guest.inc"
%include "lib/modes.inc"

T    equ PAGE_TABLES + 0x20000
PAGE equ 0x400000             ; split into 4 KiB pages
IDT_TAIL equ PAGE + 0x1000    ; entries 14 and up of a split IDT begin here
GATE_ABSENT equ 5             ; offset of the byte with P

%macro absent 1
  and byte [IDT64 + (%1) * 16 + GATE_ABSENT], 0x7f
%endmacro
%macro present 1
  or byte [IDT64 + (%1) * 16 + GATE_ABSENT], 0x80
%endmacro

; Runs an instruction with another stack pointer.
%macro try_on_stack 2
  mov qword [exc_vec], -1
  mov qword [exc_err], -1
  mov [exc_resume_rsp], rsp
  mov qword [exc_resume], %%after
  mov rsp, %1
  %2
  mov rsp, [exc_resume_rsp]
%%after:
  mov qword [exc_resume], 0
%endmacro

GUEST
  start_long
  split_2m PAGE, T
  mov byte [IDT64 + 8 * 16 + 4], 1  ; #DF on IST1

  ; Benign, then contributory: served one after the other. The #NP says which gate, and that an exception caused it (EXT).
  absent 6
  expect_fault "#UD through an absent gate", 11, 6 * 8 + 2 + 1, ud2
  present 6
  ; Software interrupts: EXT is clear.
  absent 0x30
  expect_fault "INT through an absent gate", 11, 0x30 * 8 + 2, int 0x30
  present 0x30
  and byte [IDT64 + 0x31 * 16 + 5], 0xe0
  expect_fault "INT through a gate of type 0", 13, 0x31 * 8 + 2, int 0x31
  mov word [SCRATCH], 64 * 16 - 1
  mov qword [SCRATCH + 2], IDT64
  lidt [SCRATCH]
  expect_fault "INT beyond the IDT's limit", 13, 0x80 * 8 + 2, int 0x80
  mov word [IDT64 + 0x32 * 16 + 2], 0
  expect_fault "INT through a gate with a null selector", 13, 0, int 0x32
  mov word [IDT64 + 0x33 * 16 + 2], DATA
  expect_fault "INT through a gate to a data segment", 13, DATA, int 0x33
  mov word [IDT64 + 0x34 * 16 + 2], CODE32
  expect_fault "INT through a gate to a 32-bit segment", 13, CODE32, int 0x34
  mov word [IDT64 + 0x35 * 16 + 2], SPARE + 0x100
  expect_fault "INT through a gate to a selector beyond the GDT", 13, SPARE + 0x100, int 0x35

  ; Contributory while contributory: #DF with error code 0.
  absent 0
  xor ebx, ebx
  try div ebx
  expect "#DE through an absent gate is a #DF", [exc_vec], 8
  expect "error code of #DF", [exc_err], 0
  expect "#DF runs on its IST stack", [exc_frame], STACK_IST1 - 48
  present 0
  absent 13
  mov rcx, 0x0000900000000000
  try mov eax, [rcx]
  expect "#GP through an absent gate is a #DF", [exc_vec], 8
  present 13
  absent 11
  absent 0x30
  try int 0x30
  expect "#NP while #NP is a #DF", [exc_vec], 8
  present 11
  present 0x30

  ; Page faults. An IDT whose entries from 14 on lie on a page of their own.
  mov esi, IDT64
  mov edi, IDT_TAIL - 14 * 16
  mov ecx, 64 * 16
  rep movsb
  mov word [SCRATCH], 64 * 16 - 1
  mov qword [SCRATCH + 2], IDT_TAIL - 14 * 16
  lidt [SCRATCH]
  expect_fault "#UD through the split IDT", 6, 0, ud2
  mov dword [pte_of(IDT_TAIL, T)], 0
  invlpg [IDT_TAIL]
  mov ebx, PAGE + 0x5000
  mov dword [pte_of(PAGE + 0x5000, T)], 0
  invlpg [rbx]
  try mov eax, [rbx]
  expect "#PF while #PF is a #DF", [exc_vec], 8
  expect "CR2 is the second address", [exc_cr2], IDT_TAIL
  ; #PF, then contributory: #DF.
  mov dword [pte_of(IDT_TAIL, T)], IDT_TAIL + 7
  invlpg [IDT_TAIL]
  and byte [IDT_TAIL + GATE_ABSENT], 0x7f
  try mov eax, [rbx]
  expect "#NP while #PF is a #DF", [exc_vec], 8
  expect "CR2 is that of the #PF", [exc_cr2], PAGE + 0x5000
  or byte [IDT_TAIL + GATE_ABSENT], 0x80

  ; Contributory, then #PF: served one after the other. Here entry 0 is on the absent page and 8 and 14 are not.
  mov qword [SCRATCH + 2], IDT_TAIL - 16
  mov esi, IDT64
  mov edi, IDT_TAIL - 16
  mov ecx, 64 * 16
  rep movsb
  lidt [SCRATCH]
  mov dword [pte_of(IDT_TAIL - 16, T)], 0
  invlpg [IDT_TAIL - 16]
  xor ecx, ecx
  try div ecx
  expect "#PF while #DE", [exc_vec], 14
  expect "its error code", [exc_err], 0
  expect "its CR2", [exc_cr2], IDT_TAIL - 16
  expect "its RIP is that of the division", [exc_rip], [try_rip]
  mov dword [pte_of(IDT_TAIL - 16, T)], IDT_TAIL - 0x1000 + 7
  invlpg [IDT_TAIL - 16]
  lidt [idt64_pointer]

  ; A stack that cannot be pushed to: the exception's own push faults.
  mov dword [pte_of(PAGE + 0x6000, T)], 0
  invlpg [PAGE + 0x6000]
  try_on_stack PAGE + 0x6800, ud2
  expect "#UD with an absent stack: #PF, whose push faults again", [exc_vec], 8
  expect "CR2: the stack", [exc_cr2], PAGE + 0x67f8
  mov byte [IDT64 + 14 * 16 + 4], 2
  try_on_stack PAGE + 0x6800, ud2
  expect "#UD with an absent stack, #PF on IST2", [exc_vec], 14
  expect "error code of the push", [exc_err], 2
  mov byte [IDT64 + 14 * 16 + 4], 0
  mov rdx, 0x0000900000000000
  try_on_stack rdx, ud2
  expect "#UD with a non-canonical stack", [exc_vec], 8
  mov byte [IDT64 + 12 * 16 + 4], 2
  try_on_stack rdx, ud2
  expect "#UD with a non-canonical stack, #SS on IST2", [exc_vec], 12
  expect "its error code: EXT", [exc_err], 1
  try_on_stack rdx, {push rax}
  expect "PUSH to a non-canonical stack", [exc_vec], 12
  expect "error code of the PUSH", [exc_err], 0
  mov byte [IDT64 + 12 * 16 + 4], 0
  finish

GUEST_ROUTINES
