; The local APIC: timer modes, task priority, self-IPIs and their priorities, NMI and its blocking. Source: SDM 3A chapter
; 10, 6.7.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

; An IPI to ourselves may take a moment elsewhere; this is enough of one.
%macro settle 0
%rep 4
  nop
  jmp short $ + 2
%endrep
%endmacro

GUEST
  start_long
  pic_init 0xff, 0xff
  lapic_enable
  set_handler 0x31, on_31
  set_handler 0x32, on_31
  set_handler 0x35, on_35
  set_handler 0x28, on_nested_low
  set_handler 2, on_nmi

  mov eax, [r15 + LAPIC_VER]
  and eax, 0xf0
  expect "an integrated APIC: version 1x", rax, 0x10
  mov dword [r15 + LAPIC_TPR], 0

  ; Self-IPI with IF = 0 waits in IRR; ISR while in service; EOI.
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x31
  settle
  mov eax, [r15 + LAPIC_IRR + 0x10]
  expect "IRR", rax, 1 << 17
  expect "interrupts while IF = 0", [count], 0
  sti
  nop
  settle
  cli
  expect "self-IPI", [count], 1
  expect "ISR in the handler", [isr_inside], 1 << 17
  mov eax, [r15 + LAPIC_ISR + 0x10]
  expect "ISR after EOI", rax, 0

  ; Task priority, by the TPR and by CR8.
  sti
  mov dword [r15 + LAPIC_TPR], 0x30
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x31
  settle
  expect "held back by the TPR", [count], 1
  mov rax, cr8
  expect "CR8 shows the TPR", rax, 3
  mov eax, 2
  mov cr8, rax
  settle
  expect "let in by CR8", [count], 2
  mov eax, [r15 + LAPIC_TPR]
  expect "the TPR shows CR8", rax, 0x20
  mov eax, 15
  mov cr8, rax
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x31
  settle
  expect "held back by CR8 = 15", [count], 2
  xor eax, eax
  mov cr8, rax
  settle
  expect "let in by CR8 = 0", [count], 3
  mov eax, 16
  expect_fault "reserved bits of CR8", 13, 0, mov cr8, rax

  ; Two pending vectors: the higher one first. Nested: only a higher class interrupts a handler.
  cli
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x31
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x35
  settle
  mov dword [order], 0
  sti
  nop
  settle
  cli
  expect "order of 0x31 and 0x35", [order], 0x3531
  mov dword [order], 0
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x28
  settle
  sti
  nop
  settle
  cli
  expect "0x35 interrupts the handler of 0x28, 0x21 does not", [order], 0x28352920

  ; One-shot timer.
  mov dword [r15 + LAPIC_TIMER_DIVIDE], 0xb  ; divide by 1
  mov dword [count], 0
  mov dword [r15 + LAPIC_TIMER], 0x31
  mov dword [r15 + LAPIC_TIMER_INITIAL], 100000
  mov eax, [r15 + LAPIC_TIMER_CURRENT]
  cmp eax, 100000
  seta al
  movzx eax, al
  expect "current count is not above the initial count", rax, 0
  sti
  hlt
  cli
  expect "one-shot timer", [count], 1
  mov eax, [r15 + LAPIC_TIMER_CURRENT]
  expect "its count ends at 0", rax, 0
  mov ecx, 200000
.idle:
  loop .idle
  mov eax, [r15 + LAPIC_IRR + 0x10]
  expect "it does not fire again", rax, 0

  ; Masked: counts, but does not interrupt.
  mov dword [r15 + LAPIC_TIMER], 0x31 + TIMER_MASKED
  mov dword [r15 + LAPIC_TIMER_INITIAL], 1000
.masked:
  cmp dword [r15 + LAPIC_TIMER_CURRENT], 0
  jne .masked
  settle
  mov eax, [r15 + LAPIC_IRR + 0x10]
  expect "masked timer", rax, 0

  ; Periodic.
  mov dword [count], 0
  mov dword [r15 + LAPIC_TIMER], 0x31 + TIMER_PERIODIC
  mov dword [r15 + LAPIC_TIMER_INITIAL], 50000
  mov ecx, 5
.periodic:
  sti
  hlt
  cli
  loop .periodic
  mov dword [r15 + LAPIC_TIMER_INITIAL], 0
  expect "periodic timer", [count], 5
  mov eax, [r15 + LAPIC_IRR + 0x10]
  mov ecx, 200000
.stopped:
  loop .stopped
  mov dword [count], 0
  sti
  nop
  cli
  cmp dword [count], 1
  seta al
  movzx eax, al
  expect "an initial count of 0 stops it", rax, 0

  ; TSC deadline.
  mov eax, 1
  cpuid
  bt ecx, 24
  jnc .no_deadline
  mov dword [count], 0
  mov dword [r15 + LAPIC_TIMER], 0x31 + (2 << 17)
  mfence
  rdtsc
  shl rdx, 32
  add rax, rdx
  add rax, 200000
  mov [deadline], rax
  mov rdx, rax
  shr rdx, 32
  mov ecx, 0x6e0
  wrmsr
  rdmsr
  mov ebx, eax
  mov eax, [deadline]
  sub eax, ebx
  expect "IA32_TSC_DEADLINE reads back", rax, 0
  sti
  hlt
  cli
  rdtsc
  shl rdx, 32
  add rax, rdx
  cmp rax, [deadline]
  setb al
  movzx eax, al
  expect "not before its deadline", rax, 0
  expect "TSC deadline timer", [count], 1
  mov ecx, 0x6e0
  rdmsr
  expect "IA32_TSC_DEADLINE is 0 after it fired", rax, 0
.no_deadline:

  ; NMI: comes with IF = 0, and another one waits for IRET.
  cli
  mov eax, [r15 + LAPIC_ID]
  mov [r15 + LAPIC_ICR_HIGH], eax
  mov dword [r15 + LAPIC_ICR], 0x4400  ; NMI, physical destination
  settle
  expect "NMI while IF = 0, and the one sent from its handler", [nmis], 2
  expect "NMIs do not nest", [nmi_depth_seen], 1
  ; LINT0 as an NMI input, driven by the PIT through the PIC. NMI wakes HLT.
  mov dword [nmis], 5
  mov dword [r15 + LAPIC_LINT0], 0x400
  outb 0x21, 0xfe
  pit_start 0, 1000
  hlt
  expect "NMI wakes HLT with IF = 0", [nmis], 6
  finish

on_31:
  push rax
  inc dword [count]
  mov eax, [order]
  shl eax, 8
  or eax, 0x31
  mov [order], eax
  mov eax, [r15 + LAPIC_ISR + 0x10]
  mov [isr_inside], rax
  mov dword [r15 + LAPIC_EOI], 0
  pop rax
  iretq
on_35:
  push rax
  mov eax, [order]
  shl eax, 8
  or eax, 0x35
  mov [order], eax
  mov dword [r15 + LAPIC_EOI], 0
  pop rax
  iretq
on_nested_low:  ; vector 0x28
  push rax
  mov dword [order], 0x28
  set_handler 0x21, on_21
  sti
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x21
  settle
  mov dword [r15 + LAPIC_ICR], ICR_SELF + 0x35
  settle
  mov eax, [order]
  shl eax, 8
  or eax, 0x29
  mov [order], eax
  cli
  mov dword [r15 + LAPIC_EOI], 0
  pop rax
  iretq
on_21:
  push rax
  mov eax, [order]
  shl eax, 8
  or eax, 0x20
  mov [order], eax
  mov dword [r15 + LAPIC_EOI], 0
  pop rax
  iretq
on_nmi:
  push rax
  inc dword [nmi_depth]
  inc dword [nmis]
  mov eax, [nmi_depth]
  cmp eax, [nmi_depth_seen]
  jbe .no_deeper
  mov [nmi_depth_seen], eax
.no_deeper:
  cmp dword [nmis], 1
  jne .last
  mov dword [r15 + LAPIC_ICR], 0x4400
  settle
.last:
  dec dword [nmi_depth]
  pop rax
  iretq

in_data align 8
in_data count: dq 0
in_data isr_inside: dq 0
in_data order: dq 0
in_data nmis: dq 0
in_data nmi_depth: dq 0
in_data nmi_depth_seen: dq 0
in_data deadline: dq 0

GUEST_ROUTINES
