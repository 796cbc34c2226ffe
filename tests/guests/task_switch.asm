; Hardware task switches: JMP, CALL and IRET, task gates, nesting, busy bits, NT, TS, CR3, the T bit, and the faults of a
; bad TSS.
; Source: SDM 3A chapter 7.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/dr.inc"

SEL_B   equ SPARE          ; the other task
SEL_LDT equ SPARE + 8
SEL_GATE equ SPARE + 16    ; task gate in the GDT
SEL_BAD equ SPARE + 24
TSS_B   equ SCRATCH
STACK_B equ SCRATCH + 0x1000
LDT_B   equ SCRATCH + 0x2000
DIR_B   equ SCRATCH + 0x4000  ; a page directory for the other task
NT      equ 1 << 14

; Offsets in a 32-bit TSS.
TSS_LINK equ 0
TSS_CR3 equ 0x1c
TSS_EIP equ 0x20
TSS_EFLAGS equ 0x24
TSS_EAX equ 0x28
TSS_ECX equ 0x2c
TSS_EBX equ 0x34
TSS_ESP equ 0x38
TSS_ES equ 0x48
TSS_CS equ 0x4c
TSS_SS equ 0x50
TSS_DS equ 0x54
TSS_FS equ 0x58
TSS_GS equ 0x5c
TSS_LDT equ 0x60
TSS_T equ 0x64
TSS_IOMAP equ 0x66

; Makes task B ready to start at a label.
%macro task_b 1
  call init_b
  mov dword [TSS_B + TSS_EIP], %1
%endmacro
%macro expect_busy 3  ; "what", selector, 0 or 1
  movzx eax, byte [gdt + (%2) + 5]
  shr eax, 1
  and eax, 1
  expect %1, eax, %3
%endmacro

; expect_ts "what", error code, instruction that spoils task B
%macro expect_ts 3
  task_b jmp_b
  mov esi, TSS_B
  mov edi, TSS_B + 0x80
  mov ecx, 26
  rep movsd
  mov dword [TSS_B + 0x80 + TSS_EIP], ts_handler
  mov dword [TSS_B + 0x80 + TSS_ESP], STACK_B - 0x400
  mov dword [TSS_B + 0x80 + TSS_LDT], 0
  mov byte [gdt + SPARE + 32 + 5], 0x89
  %3
  mov dword [seen_error], -1
  mov [exc_resume_rsp], esp
  mov dword [exc_resume], %%after
  jmp SEL_B:0
%%after:
  mov dword [exc_resume], 0
  expect {%1, ": #TS with its selector"}, [seen_error], %2
  expect {%1, ": link of the handler's task"}, [seen_link], SEL_B
%endmacro

GUEST
  start_protected32
  set_descriptor SEL_B, TSS_B, 0x67, 0x89, 0
  set_descriptor SEL_LDT, LDT_B, 0x1f, 0x82, 0
  mov dword [gdt + SEL_GATE], SEL_B << 16
  mov dword [gdt + SEL_GATE + 4], 0x8500
  mov dword [LDT_B + 8], 0x0000ffff   ; LDT entry 1: flat data
  mov dword [LDT_B + 12], 0x00cf9300

  ; JMP and back.
  task_b jmp_b
  mov dword [TSS_B + TSS_EAX], 0x1111
  mov dword [TSS_B + TSS_LDT], SEL_LDT
  mov dword [TSS_B + TSS_FS], 0xc     ; in the LDT
  mov ebx, 0xb0b0
  mov ecx, 0xc0c0
  mov esi, esp
  jmp SEL_B:0
  mov edi, esp
  expect "ESP back in task A", edi, esi
  expect "EBX back in task A", ebx, 0xb0b0
  expect "ECX back in task A", ecx, 0xc0c0
  expect_busy "task A is busy", SEL_TSS32, 1
  expect_busy "task B is not", SEL_B, 0
  expect "what task B saw in EAX", [seen_eax], 0x1111
  expect "what task B saw in CS", [seen_cs], CODE32
  expect "task register in task B", [seen_tr], SEL_B
  expect "task B was busy", [seen_busy], 1
  expect "task A was not", [seen_busy_a], 0
  expect "TS was set", [seen_ts], CR0_TS
  expect "link of a task that was jumped to", [TSS_B + TSS_LINK], 0
  expect "task A's EIP was saved", [TSS32 + TSS_EIP], [after_jmp]
  expect "task B's EAX was saved", [TSS_B + TSS_EAX], 0x2222
  expect "task B's LDT", [seen_ldt], SEL_LDT
  expect "task B read through its LDT", [seen_fs], 0x5ca1ab1e
  sldt ax
  movzx eax, ax
  expect "task A has no LDT", eax, 0
  clts

  ; CALL: NT and link; IRET goes back.
  task_b call_b
  mov dword [TSS32 + TSS_LINK], 0
  call SEL_B:0
  pushfd
  pop eax
  and eax, NT
  expect "NT back in task A", eax, 0
  mov eax, [TSS_B + TSS_LINK]
  and eax, 0xffff
  expect "link of a called task", eax, SEL_TSS32
  expect "NT in the called task", [seen_flags], NT
  expect "task A stays busy", [seen_busy_a], 1
  expect_busy "task B after IRET", SEL_B, 0
  mov eax, [TSS_B + TSS_EFLAGS]
  and eax, NT
  expect "NT was cleared in the image that IRET saved", eax, 0
  ; The second call goes on where task B stopped: behind its IRET.
  mov dword [seen_eax], 0
  call SEL_B:0
  expect "a task is resumed, not restarted", [seen_eax], 0x600d

  ; Through a task gate in the GDT, and one in the IDT (with an error code on the new stack).
  task_b call_b
  mov dword [seen_flags], 0
  call SEL_GATE:0
  expect "through a task gate", [seen_flags], NT
  task_b int_b
  mov dword [IDT32 + 0x30 * 8], SEL_B << 16
  mov dword [IDT32 + 0x30 * 8 + 4], 0xe500
  mov dword [seen_eax], 0
  int 0x30
  expect "INT through a task gate", [seen_eax], 0x1a1a
  expect "no error code for INT", [seen_esp], STACK_B
  task_b fault_b
  mov dword [IDT32 + 13 * 8], SEL_B << 16
  mov dword [IDT32 + 13 * 8 + 4], 0x8500
  mov ax, SEL_BAD
  mov ebx, 0
faulting:
  mov fs, ax
  expect "fault through a task gate: error code", [seen_error], SEL_BAD
  expect "and its place", [seen_eip], faulting
  expect "RF in the saved flags of the faulting task", [seen_rf], 1 << 16
  expect "the handler's task moved EIP on", ebx, 0
  set_handler 13, stubs32 + 13 * 16

  ; Nested: A calls B, B calls C (TSS at TSS_B + 0x80), C goes back to B, B to A.
  set_descriptor SPARE + 32, TSS_B + 0x80, 0x67, 0x89, 0
  task_b nest_b
  mov esi, TSS_B
  mov edi, TSS_B + 0x80
  mov ecx, 26
  rep movsd
  mov dword [TSS_B + 0x80 + TSS_EIP], nest_c
  mov dword [TSS_B + 0x80 + TSS_ESP], STACK_B - 0x400
  mov dword [order], 0
  call SEL_B:0
  expect "order of nested tasks", [order], 0xbcb
  expect_busy "C after its IRET", SPARE + 32, 0

  ; The T bit: #DB before the first instruction of the new task, with BT.
  task_b t_b
  mov word [TSS_B + TSS_T], 1
  mov eax, DR6_FIXED
  mov dr6, eax
  try jmp SEL_B:0
  expect "T bit: vector", [exc_vec], 1
  expect "T bit: rip", [exc_rip], t_b
  expect "T bit: BT in DR6", [exc_dr6], DR6_FIXED + DR6_BT
  call to_task_a

  ; Faults that are raised in the old task.
  task_b jmp_b
  mov byte [gdt + SEL_B + 5], 0x8b
  expect_fault "JMP to a busy TSS", 13, SEL_B, jmp SEL_B:0
  expect_fault "CALL to a busy TSS", 13, SEL_B, call SEL_B:0
  mov byte [gdt + SEL_B + 5], 0x09
  expect_fault "JMP to an absent TSS", 11, SEL_B, jmp SEL_B:0
  mov byte [gdt + SEL_B + 5], 0x89
  mov word [gdt + SEL_B], 0x66
  expect_fault "JMP to a TSS that is too short", 10, SEL_B, jmp SEL_B:0
  mov word [gdt + SEL_B], 0x67
  pushfd
  or dword [esp], NT
  popfd
  mov dword [TSS32 + TSS_LINK], SEL_B  ; not busy
  expect_fault "IRET with NT to a task that is not busy", 10, SEL_B, iretd
  pushfd
  and dword [esp], ~NT
  popfd
  mov ax, SEL_TSS32
  expect_fault "LTR of a busy TSS", 13, SEL_TSS32, ltr ax
  ; Faults that are raised in the new task, by its selectors. It may have no stack yet, so #TS goes to a third task.
  mov dword [IDT32 + 10 * 8], (SPARE + 32) << 16
  mov dword [IDT32 + 10 * 8 + 4], 0x8500
  expect_ts "a data segment as CS", DATA, {mov dword [TSS_B + TSS_CS], DATA}
  expect_ts "a code segment as SS", CODE32, {mov dword [TSS_B + TSS_SS], CODE32}
  expect_ts "a bad LDT", SEL_BAD, {mov dword [TSS_B + TSS_LDT], SEL_BAD}
  expect_ts "a ring 3 segment as SS", USERDATA & ~3, {mov dword [TSS_B + TSS_SS], USERDATA}
  expect_ts "a system segment as DS", SEL_LDT, {mov dword [TSS_B + TSS_DS], SEL_LDT}
  set_handler 10, stubs32 + 10 * 16

  ; Paging: CR3 changes with the task.
  mov edi, DIR_B
  mov ecx, 2048
  xor eax, eax
  rep stosd
  mov dword [DIR_B], 0x87                   ; 0 to 4M, a 4M page
  mov dword [DIR_B + 4], 0x400087
  mov dword [DIR_B + 0x1000], 0x87
  mov dword [DIR_B + 0x1004], 0x800087      ; the second directory maps 4M to 8M
  mov dword [0x400000], 0xaaaa
  mov dword [0x800000], 0xbbbb
  set_bits cr4, CR4_PSE
  mov eax, DIR_B
  mov cr3, eax
  set_bits cr0, CR0_PG
  task_b cr3_b
  mov dword [TSS_B + TSS_CR3], DIR_B + 0x1000
  mov dword [TSS32 + TSS_CR3], DIR_B
  call SEL_B:0
  expect "task B's view", [seen_eax], 0xbbbb
  expect "task A's view", [0x400000], 0xaaaa
  mov eax, cr3
  expect "CR3 back in task A", eax, DIR_B
  finish

; After a fault in task B's context: makes TSS32 the current task again.
to_task_a:
  mov byte [gdt + SEL_TSS32 + 5], 0x89
  mov byte [gdt + SEL_B + 5], 0x89
  pushfd
  and dword [esp], ~NT
  popfd
  mov ax, SEL_TSS32
  ltr ax
  xor eax, eax
  lldt ax
  clts
  ret

init_b:
  pushad
  mov edi, TSS_B
  xor eax, eax
  mov ecx, 26
  rep stosd
  mov dword [TSS_B + TSS_EFLAGS], 2
  mov dword [TSS_B + TSS_ESP], STACK_B
  mov dword [TSS_B + TSS_CS], CODE32
  mov dword [TSS_B + TSS_DS], DATA
  mov dword [TSS_B + TSS_ES], DATA
  mov dword [TSS_B + TSS_SS], DATA
  mov word [TSS_B + TSS_IOMAP], 0x68
  mov dword [FREE], 0x5ca1ab1e
  mov byte [gdt + SEL_B + 5], 0x89
  popad
  ret

look_around:
  push eax
  mov eax, cs
  mov [seen_cs], eax
  xor eax, eax
  str ax
  mov [seen_tr], eax
  sldt ax
  mov [seen_ldt], eax
  movzx eax, byte [gdt + SEL_B + 5]
  shr eax, 1
  and eax, 1
  mov [seen_busy], eax
  movzx eax, byte [gdt + SEL_TSS32 + 5]
  shr eax, 1
  and eax, 1
  mov [seen_busy_a], eax
  mov eax, cr0
  and eax, CR0_TS
  mov [seen_ts], eax
  pop eax
  ret

jmp_b:
  mov [seen_eax], eax
  call look_around
  mov eax, [fs:FREE]
  mov [seen_fs], eax
  mov eax, [TSS32 + TSS_EIP]
  mov [after_jmp], eax
  mov eax, 0x2222
  jmp SEL_TSS32:0

call_b:
  pushfd
  pop eax
  and eax, NT
  mov [seen_flags], eax
  call look_around
  iretd
  mov dword [seen_eax], 0x600d
  iretd

int_b:
  mov dword [seen_eax], 0x1a1a
  mov [seen_esp], esp
  iretd

fault_b:
  pop dword [seen_error]
  mov eax, [TSS32 + TSS_EIP]
  mov [seen_eip], eax
  mov eax, [TSS32 + TSS_EFLAGS]
  and eax, 1 << 16
  mov [seen_rf], eax
  add dword [TSS32 + TSS_EIP], 2
  iretd

ts_handler:
  pop dword [seen_error]
  movzx eax, word [TSS_B + 0x80 + TSS_LINK]
  mov [seen_link], eax
  call to_task_a
  mov esp, [exc_resume_rsp]
  jmp [exc_resume]

nest_b:
  shl dword [order], 4
  or dword [order], 0xb
  call SPARE + 32:0
  shl dword [order], 4
  or dword [order], 0xb
  iretd
nest_c:
  shl dword [order], 4
  or dword [order], 0xc
  iretd

t_b:
  failed "first instruction of a task with the T bit"
  iretd

cr3_b:
  mov eax, [0x400000]
  mov [seen_eax], eax
  iretd

in_data align 4
in_data seen_eax: dd 0
in_data seen_cs: dd 0
in_data seen_tr: dd 0
in_data seen_ldt: dd 0
in_data seen_fs: dd 0
in_data seen_busy: dd 0
in_data seen_busy_a: dd 0
in_data seen_ts: dd 0
in_data seen_flags: dd 0
in_data seen_esp: dd 0
in_data seen_error: dd 0
in_data seen_link: dd 0
in_data seen_eip: dd 0
in_data seen_rf: dd 0
in_data after_jmp: dd 0
in_data order: dd 0

GUEST_ROUTINES
