; Long runs of port and MMIO accesses, and between two of them everything that changes a vCPU's state without another kind of
; exit: modes, segments, descriptor tables, control registers, exceptions, interrupts; then other exits behind such runs. What
; the registers hold is part of the state that the tests compare.
%include "common.inc"

MANY equ 40
GATE equ SCRATCH + 0x1000  ; where the second IDT lies

; accesses: reads a port MANY times. Keeps RAX and RCX.
%macro accesses 0
%if __?BITS?__ == 64
  push rax
  push rcx
%else
  push eax
  push ecx
%endif
  mov ecx, MANY
%%again:
  in al, 0x61
  dec ecx
  jnz %%again
%if __?BITS?__ == 64
  pop rcx
  pop rax
%else
  pop ecx
  pop eax
%endif
%endmacro

; copy_gate vector: from the first IDT. Clobbers RSI, RDI.
%macro copy_gate 1
  mov esi, IDT64 + (%1) * 16
  mov edi, GATE + (%1) * 16
  movsq
  movsq
%endmacro

GUEST
  accesses
  mov ax, 0x1234
  mov fs, ax
  accesses
  to_protected32
  accesses
  mov ax, DATA16
  mov gs, ax
  mov ds, ax
  accesses
  mov ax, DATA
  mov ds, ax
  to_real
  accesses
  start_long
  linux_gdt
  allow_port 0x61
  lapic_enable
  accesses
  mov ax, L_USER_DATA
  mov gs, ax
  accesses
  mov ax, DATA
  mov gs, ax
  mov eax, 0x12345678
  mov cr2, rax
  accesses
  mov rax, cr0
  or eax, CR0_TS
  mov cr0, rax
  accesses
  clts
  accesses
  ; LAPIC reads: MMIO.
  mov ecx, MANY
.timer_count:
  mov eax, [r15 + LAPIC_TIMER_CURRENT]
  dec ecx
  jnz .timer_count
  ; Another IDT, and a handler that only it has.
  mov esi, IDT64
  mov edi, GATE
  mov ecx, 512
  rep movsq
  lidt [other_idt]
  accesses
  set_handler 6, on_ud
  copy_gate 6
  accesses
  ud2
  accesses
  ; Interrupts among accesses, and with only accesses for the places where they come.
  pic_init 0xfe, 0xff
  set_handler 0x20, on_pit
  copy_gate 0x20
  pit_start 2, 1193
  sti
.wait:
  accesses
  cmp dword [ticks], 5
  jb .wait
  ; Exits of other kinds directly behind: an instruction that some KVMs do not execute, MSRs, HLT.
  mov ebx, 10
.others:
  mov ax, DATA16
  mov gs, ax
  lidt [first_idt]
  accesses
  popcnt rax, rbx
  call mix_in_state
  mov ax, DATA
  mov gs, ax
  lidt [other_idt]
  accesses
  mov ecx, 0x10  ; IA32_TIME_STAMP_COUNTER
  rdmsr
  call mix_in_state
  mov ax, DATA16
  mov gs, ax
  accesses
  hlt
  call mix_in_state
  dec ebx
  jnz .others
  ; The shadows of STI and of MOV SS over an access.
  mov ecx, MANY
.shadow:
  cli
  in al, 0x61
  mov edx, ss
  sti
  in al, 0x61
  mov ss, edx
  in al, 0x61
  dec ecx
  jnz .shadow
  cli
  set_handler 3, on_int3
  copy_gate 3
  mov byte [GATE + 3 * 16 + 5], 0xee
  to_user program, STACK_USER
back:
  mov rsp, STACK
  accesses
  says "accesses: ticks "
  mov eax, [ticks]
  call serial_number
  end_with_state

; Loads no data segments: in ring 3, kvm_pvm does not see it.
program:
  accesses
  ud2
  accesses
  int3

mix_in_state:
  mov rax, gs
  mix_in rax
  sidt [SCRATCH]
  mov rax, [SCRATCH + 2]
  mix_in rax
  ret

on_ud:
  accesses
  add qword [rsp], 2
  iretq

on_int3:
  mov ax, DATA
  mov ds, ax
  mov es, ax
  jmp back

on_pit:
  push rax
  inc dword [ticks]
  accesses
  mov al, 0x20
  out 0x20, al
  pop rax
  iretq

in_data align 8
in_data first_idt:
in_data dw 0xfff
in_data dq IDT64
in_data align 8
in_data other_idt:
in_data dw 0xfff
in_data dq GATE
in_data ticks: dd 0
COMMON_ROUTINES
