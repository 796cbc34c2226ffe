; Every kind of access that leaves the processor: ports one by one and by string instructions, MMIO by moves, string
; instructions and read-modify-write, MSRs. What they return goes into the state.
%include "common.inc"

IOAPIC equ 0xfec00000
ROUNDS equ 12
BUFFER equ FREE

; mixes RAX
%macro mix_rax 0
  mix_in rax
%endmacro

GUEST
  start_long
  set_bits cr4, CR4_OSFXSR
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_pit
  pit_start 2, 1193
  sti
  mov r14d, IOAPIC
  mov ebp, ROUNDS
round:
  call ports
  call lapic
  call io_apic
  call msrs
  dec ebp
  jnz round
  cli
  says "strings: checks "
  mov eax, [checks_made]
  call serial_number
  says " state "
  says_number [mixed]
  says 10
  finish

; --- ports ----------------------------------------------------------------------------------------------------------------
ports:
  ; Text by REP OUTSB, up and down.
  mov esi, text
  mov ecx, text_end - text
  mov edx, 0xe9
  rep outsb
  std
  mov esi, text_end - 1
  mov ecx, 8
  rep outsb
  cld
  outsb
  mov al, 10
  out dx, al
  ; The serial port's scratch register holds what was written last.
  mov edx, COM1 + 7
  mov esi, text
  mov ecx, 5
  rep outsb
  mov edi, BUFFER
  mov ecx, 40
  rep insb
  expect "RCX after REP INSB", rcx, 0
  expect "RDI after REP INSB", rdi, BUFFER + 40
  mov eax, [BUFFER]
  expect "the scratch register by REP INSB", rax, 'yyyy'
  ; The timer's counter, which time has moved.
  mov edx, 0x40
  mov edi, BUFFER + 64
  mov ecx, 32
  rep insb
  mov rax, [BUFFER + 64]
  mix_rax
  ; Words and double words: PCI configuration space, and ports that nobody answers.
  mov edx, 0xcf8
  mov dword [BUFFER + 128], 0x80000000
  mov esi, BUFFER + 128
  mov ecx, 1
  rep outsd
  in eax, dx
  mix_rax
  mov edx, 0xcfc
  mov edi, BUFFER + 128
  mov ecx, 3
  rep insd
  insd
  mov edi, BUFFER + 160
  mov ecx, 5
  rep insw
  insw
  mov rax, [BUFFER + 128]
  mix_rax
  mov edx, 0x2e0
  in ax, dx
  mix_rax
  mov edi, BUFFER + 192
  mov ecx, 3
  rep insw
  mov esi, BUFFER + 192
  mov ecx, 3
  rep outsw
  xor ecx, ecx
  rep insb
  expect "RDI after REP INSB of nothing", rdi, BUFFER + 198
  ; Across a page's end.
  mov edx, COM1 + 7
  mov edi, BUFFER + 0xffa
  mov ecx, 12
  rep insb
  mov edi, BUFFER + 0x1ffe
  mov edx, 0xcfc
  insd
  mov eax, [BUFFER + 0x1000]
  mix_rax
  ret

; --- the local APIC ---------------------------------------------------------------------------------------------------------
lapic:
  mov eax, [r15 + LAPIC_VER]
  mix_rax
  mov dword [r15 + LAPIC_TPR], 0x10
  or dword [r15 + LAPIC_TPR], 3
  expect "OR", [r15 + LAPIC_TPR], 0x13
  mov eax, [r15 + LAPIC_TPR]
  inc dword [r15 + LAPIC_TPR]
  add [r15 + LAPIC_TPR], eax
  mov eax, [r15 + LAPIC_TPR]
  expect "INC and ADD", rax, 0x27
  mov eax, 0x15
  xchg [r15 + LAPIC_TPR], eax
  expect "XCHG", rax, 0x27
  mov eax, 0x15
  mov ecx, 0x18
  lock cmpxchg [r15 + LAPIC_TPR], ecx
  movzx eax, byte [r15 + LAPIC_TPR]
  mix_rax
  movzx eax, word [r15 + LAPIC_TPR]
  mix_rax
  movsxd rax, dword [r15 + LAPIC_TPR]
  mix_rax
  bts dword [r15 + LAPIC_TPR], 1
  not dword [r15 + LAPIC_TPR]
  mov eax, [r15 + LAPIC_TPR]
  mix_rax
  mov dword [r15 + LAPIC_TPR], 0
  mov rax, [r15 + LAPIC_LINT0]
  mix_rax
  movups xmm0, [r15 + LAPIC_TIMER]
  movq rax, xmm0
  mix_rax
  push qword [r15 + LAPIC_SVR]
  pop rax
  mix_rax
  cmp dword [r15 + LAPIC_LINT0], 0x700
  lahf
  movzx eax, ah
  mix_rax
  ; String instructions, from and to the device.
  lea rsi, [r15 + LAPIC_ID]
  mov edi, BUFFER
  mov ecx, 20
  rep movsd
  mov rax, [BUFFER + 16]
  mix_rax
  lea rdi, [r15 + LAPIC_TPR]
  mov eax, 0x20
  mov ecx, 4
  rep stosd
  mov eax, [r15 + LAPIC_TPR]
  mix_rax
  mov dword [BUFFER + 4], 0
  mov esi, BUFFER + 4
  lea rdi, [r15 + LAPIC_TPR]
  movsd
  lea rsi, [r15 + LAPIC_VER]
  lodsd
  mix_rax
  ; The timer, and the state of its count.
  mov dword [r15 + LAPIC_TIMER_DIVIDE], 3
  mov dword [r15 + LAPIC_TIMER], TIMER_MASKED + 0x40
  mov dword [r15 + LAPIC_TIMER_INITIAL], 1000000
  mov eax, [r15 + LAPIC_TIMER_CURRENT]
  mix_rax
  mov dword [r15 + LAPIC_TIMER_INITIAL], 0
  ; Moves by CR8.
  mov eax, 3
  mov cr8, rax
  mov eax, [r15 + LAPIC_TPR]
  mix_rax
  mov rax, cr8
  mix_rax
  xor eax, eax
  mov cr8, rax
  ret

; --- the I/O APIC -------------------------------------------------------------------------------------------------------------
io_apic:
  mov dword [r14], 1
  mov eax, [r14 + 0x10]
  mix_rax
  mov ecx, 0x10 + 2 * 5  ; redirection of input 5
  mov [r14], ecx
  mov dword [r14 + 0x10], 0x10025
  inc dword [r14]
  or dword [r14 + 0x10], 0x0f000000
  mov eax, [r14 + 0x10]
  mix_rax
  mov byte [r14], 0x1a
  and dword [r14 + 0x10], ~0x20
  mov eax, [r14 + 0x10]
  expect "redirection of input 5", rax, 0x10005
  mov eax, 0x1a
  mov rdi, r14
  mov ecx, 2
  rep stosd
  mov rsi, r14
  mov edi, BUFFER + 256
  mov ecx, 8
  rep movsd
  mov rax, [BUFFER + 256]
  mix_rax
  ret

; --- MSRs ---------------------------------------------------------------------------------------------------------------------
%macro read_msr 1
  mov ecx, %1
  rdmsr
  shl rdx, 32
  or rax, rdx
  mix_rax
%endmacro
%macro write_msr 2
  mov ecx, %1
  mov rax, %2
  mov rdx, rax
  shr rdx, 32
  wrmsr
%endmacro
msrs:
  read_msr 0x1b        ; APIC_BASE
  read_msr 0xfe        ; MTRRCAP
  read_msr 0x277       ; PAT
  write_msr 0x277, 0x0007010600070106
  read_msr 0x277
  read_msr 0x2ff       ; MTRR_DEF_TYPE
  write_msr 0x200, 0x80000006
  write_msr 0x201, 0xf80000800
  read_msr 0x200
  read_msr 0x201
  read_msr 0xc0000080  ; EFER
  write_msr 0xc0000080, 0xd01
  read_msr 0xc0000080
  write_msr 0xc0000080, 0x501
  write_msr 0xc0000081, 0x0023001000000000
  write_msr 0xc0000082, 0xffffffff81000000
  write_msr 0xc0000084, 0x47700
  read_msr 0xc0000081
  read_msr 0xc0000082
  read_msr 0xc0000084
  write_msr 0xc0000100, 0x123456789000
  read_msr 0xc0000100
  write_msr 0xc0000101, BUFFER
  mov rax, [gs:0]
  mix_rax
  write_msr 0xc0000102, 0xffff888000000000
  swapgs
  read_msr 0xc0000101
  swapgs
  write_msr 0x174, 0x10
  write_msr 0x175, 0x7000
  write_msr 0x176, 0xffffffff81000100
  read_msr 0x176
  read_msr 0x10        ; TSC
  read_msr 0x1a0       ; MISC_ENABLE
  ; What is refused.
  mov ecx, 0x12345
  expect_fault "RDMSR of no register", 13, 0, rdmsr
  mov ecx, 0xc0000082
  mov edx, 0x8000
  xor eax, eax
  expect_fault "WRMSR of an address that is not canonical", 13, 0, wrmsr
  mov ecx, 0xc0000080
  mov eax, 0x505
  xor edx, edx
  expect_fault "WRMSR of EFER with a reserved bit", 13, 0, wrmsr
  ret

on_pit:
  push rax
  push r10
  inc qword [ticks]
  mov rax, [ticks]
  mix_rax
  mov al, 0x20
  out 0x20, al
  pop r10
  pop rax
  iretq

in_data text: db "every element of a string is an access of its own, one", 10
in_data text_end:
in_data align 8
in_data ticks: dq 0
COMMON_ROUTINES
