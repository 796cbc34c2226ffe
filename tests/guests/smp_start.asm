; Two processors: INIT, SIPI, real-mode start of the second one, IPIs both ways, HLT of one while the other runs, LOCK.
; Source: SDM 3A 8.4, 10.6.
; vcpus: 2
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

TRAMPOLINE equ 0x6000              ; SIPI vector 6
ADDS equ 2000

; Waits, with HLT, until a variable of 32 bits is what it should be: an IPI with every change wakes us.
%macro wait_for 2
%%check:
  cli
  cmp dword [%1], %2
  jae %%done
  sti
  hlt
  jmp %%check
%%done:
  cli
%endmacro

GUEST
  start_long
  lapic_enable
  pic_init 0xff, 0xff
  set_handler 0x31, on_ipi

  mov eax, [r15 + LAPIC_ID]
  shr eax, 24
  expect "APIC ID of the first processor", rax, 0
  mov eax, 1
  cpuid
  shr ebx, 24
  expect "its APIC ID by CPUID", rbx, 0
  mov esi, trampoline
  mov edi, TRAMPOLINE
  mov ecx, trampoline_end - trampoline
  rep movsb

  mov dword [r15 + LAPIC_ICR_HIGH], 1 << 24
  mov dword [r15 + LAPIC_ICR], 0x4500       ; INIT
  mov ecx, 10000
.init_wait:
  loop .init_wait
  mov eax, [started]
  expect "INIT alone starts nothing", rax, 0
  mov dword [r15 + LAPIC_ICR_HIGH], 1 << 24
  mov dword [r15 + LAPIC_ICR], 0x4600 + (TRAMPOLINE >> 12)
  wait_for started, 1
  mov eax, [ap_cs]
  expect "CS of the second processor", rax, TRAMPOLINE >> 4
  mov eax, [ap_id]
  expect "APIC ID of the second processor", rax, 1
  mov eax, [ap_bsp]
  expect "it is not the bootstrap processor", rax, 0
  ; A second SIPI is ignored by a processor that runs.
  mov dword [r15 + LAPIC_ICR], 0x4600 + (TRAMPOLINE >> 12)

  ; Both add to one counter, with LOCK.
  mov ecx, ADDS
.add:
  lock inc dword [counter]
  loop .add
  mov dword [r15 + LAPIC_ICR_HIGH], 1 << 24
  mov dword [r15 + LAPIC_ICR], 0x32         ; go
  wait_for done, 1
  mov eax, [counter]
  expect "sum of both", rax, 2 * ADDS
  mov eax, [started]
  expect "started once", rax, 1
  ; All but self, by shorthand, and NMI.
  mov dword [r15 + LAPIC_ICR], 0xc0000 + 0x33
  wait_for done, 2
  mov dword [r15 + LAPIC_ICR_HIGH], 1 << 24
  mov dword [r15 + LAPIC_ICR], 0x4400       ; NMI
  wait_for done, 3
  finish

on_ipi:
  mov dword [r15 + LAPIC_EOI], 0
  iretq

; The second processor. In real mode at TRAMPOLINE.
bits 16
trampoline:
  cli
  mov ax, cs
  movzx ebx, ax
  xor ax, ax
  mov ds, ax
  mov [ap_cs], ebx
  lgdt [gdt_pointer]
  mov eax, cr0
  or eax, CR0_PE
  and eax, 0x9fffffff              ; CD and NW are set after INIT
  mov cr0, eax
  jmp dword CODE32:ap32
trampoline_end:
bits 32
ap32:
  load_data_segments DATA
  mov esp, STACK_IST2
  mov eax, PML4
  mov cr3, eax
  mov eax, cr4
  or eax, CR4_PAE
  mov cr4, eax
  mov ecx, MSR_EFER
  rdmsr
  or eax, EFER_LME
  wrmsr
  mov eax, cr0
  or eax, CR0_PG
  mov cr0, eax
  jmp CODE64:ap64
bits 64
ap64:
  lidt [idt64_pointer]
  set_handler 0x32, ap_go
  set_handler 0x33, ap_all
  set_handler 2, ap_nmi
  lapic_enable
  mov eax, [r15 + LAPIC_ID]
  shr eax, 24
  mov [ap_id], eax
  mov ecx, 0x1b
  rdmsr
  and eax, 0x100
  mov [ap_bsp], eax
  lock inc dword [started]
  mov dword [r15 + LAPIC_ICR_HIGH], 0
  mov dword [r15 + LAPIC_ICR], 0x31
.idle:
  sti
  hlt
  jmp .idle
ap_go:
  push rax
  push rcx
  mov ecx, ADDS
.add:
  lock inc dword [counter]
  loop .add
  jmp ap_done
ap_all:
  push rax
  push rcx
ap_done:
  mov dword [r15 + LAPIC_EOI], 0
  lock inc dword [done]
  mov dword [r15 + LAPIC_ICR_HIGH], 0
  mov dword [r15 + LAPIC_ICR], 0x31
  pop rcx
  pop rax
  iretq
ap_nmi:
  lock inc dword [done]
  mov dword [r15 + LAPIC_ICR_HIGH], 0
  mov dword [r15 + LAPIC_ICR], 0x31
  iretq

in_data align 4
in_data started: dd 0
in_data ap_cs: dd 0
in_data ap_id: dd 0
in_data ap_bsp: dd 0xff
in_data counter: dd 0
in_data done: dd 0

GUEST_ROUTINES
