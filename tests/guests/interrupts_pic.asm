; Interrupts of the PIT through the PIC: IF, the shadows of STI and MOV SS, POPF, HLT, EOI. Source: SDM 3A 6.8, 8259A data
; sheet.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

GUEST
  start_long
  set_handler 0x20, on_irq0
  lapic_enable
  pic_init 0xfe, 0xff

  ; Masked by IF.
  pit_start 0, 100
  wait_irq0
  mov ecx, 1000
spin:
  loop spin
  expect "interrupts while IF = 0", [irqs], 0

  ; STI holds it back for one instruction.
  xor ebx, ebx
  sti
  inc ebx
after_sti:
  inc ebx
  inc ebx
  cli
  expect "interrupts after STI", [irqs], 1
  expect "instructions retired behind STI", [irq_rbx], 1
  expect "return address behind STI", [irq_rip], after_sti
  mov rax, [irq_flags]
  and eax, 0x200
  expect "IF in the saved flags", rax, 0x200
  mov rax, [irq_flags_inside]
  and eax, 0x200
  expect "IF in the handler", rax, 0
  expect "ISR in the handler", [irq_isr], 1
  outb 0x20, 0x0b
  in al, 0x20
  movzx eax, al
  expect "ISR after EOI", rax, 0

  ; STI; CLI lets nothing in.
  mov dword [irqs], 0
  pit_start 0, 100
  wait_irq0
  sti
  cli
  nop
  nop
  expect "interrupts after STI; CLI", [irqs], 0
  ; STI with IF set already makes no shadow; POPF makes none at all.
  xor ebx, ebx
  pushfq
  or dword [rsp], 0x200
  popfq
after_popf:
  inc ebx
  inc ebx
  cli
  expect "interrupts after POPF", [irqs], 1
  expect "instructions retired behind POPF", [irq_rbx], 0
  expect "return address behind POPF", [irq_rip], after_popf
  ; IRET makes none either.
  mov dword [irqs], 0
  pit_start 0, 100
  wait_irq0
  xor ebx, ebx
  mov rax, rsp
  push DATA
  push rax
  push 0x202
  push CODE64
  push after_iret
  iretq
after_iret:
  inc ebx
  inc ebx
  cli
  expect "interrupts after IRET", [irqs], 1
  expect "return address behind IRET", [irq_rip], after_iret

  ; STI; HLT: the interrupt that is pending already wakes the HLT, never slips in before it.
  mov dword [irqs], 0
  pit_start 0, 100
  wait_irq0
  sti
  hlt
after_hlt:
  cli
  expect "interrupts after STI; HLT", [irqs], 1
  expect "return address behind HLT", [irq_rip], after_hlt
  ; HLT waits for an interrupt that is still to come.
  mov dword [irqs], 0
  pit_start 0, 5000
  sti
  hlt
after_hlt2:
  cli
  expect "HLT until the PIT", [irqs], 1
  expect "return address behind the second HLT", [irq_rip], after_hlt2

  ; MOV SS: no interrupt between it and the next instruction. A fast periodic timer looks for the gap.
  mov dword [irqs], 0
  mov dword [in_gap], 0
  mov dword [seen_elsewhere], 0
  set_handler 0x20, on_irq0_gap
  pit_start 2, 60
  mov ax, ss
  sti
gap_loop:
  mov ss, ax
in_the_shadow:
  inc ebx
  cmp dword [irqs], 300
  jb gap_loop
  cli
  expect "interrupts in the shadow of MOV SS", [in_gap], 0
  cmp dword [seen_elsewhere], 300
  setae al
  movzx eax, al
  expect "interrupts elsewhere", rax, 1

  ; No second interrupt before EOI.
  set_handler 0x20, on_irq0_no_eoi
  mov dword [irqs], 0
  outb 0x20, 0x20
  sti
  mov ecx, 300000
.wait:
  cmp dword [irqs], 0
  jne .got
  loop .wait
.got:
  mov ecx, 300000
.wait2:
  loop .wait2
  cli
  expect "interrupts without EOI", [irqs], 1
  outb 0x20, 0x20

  ; Masked in the PIC.
  outb 0x21, 0xff
  set_handler 0x20, on_irq0
  mov dword [irqs], 0
  sti
  mov ecx, 300000
.wait3:
  loop .wait3
  cli
  expect "interrupts while masked in the PIC", [irqs], 0
  outb 0x21, 0xfe
  sti
  mov ecx, 300000
.wait4:
  cmp dword [irqs], 3
  jae .enough
  loop .wait4
.enough:
  cli
  cmp dword [irqs], 3
  setae al
  movzx eax, al
  expect "interrupts again after unmasking", rax, 1

  ; Software interrupts do not care for IF and leave the PIC alone.
  set_handler 0x20, on_int
  xor ebx, ebx
  int 0x20
  expect "INT 0x20 with IF = 0", rbx, 0x99
  finish

on_irq0:
  push rax
  inc dword [irqs]
  mov [irq_rbx], rbx
  mov rax, [rsp + 8]
  mov [irq_rip], rax
  mov rax, [rsp + 24]
  mov [irq_flags], rax
  pushfq
  pop rax
  mov [irq_flags_inside], rax
  outb 0x20, 0x0b
  in al, 0x20
  mov [irq_isr], al
  outb 0x20, 0x20
  pop rax
  iretq
on_irq0_gap:
  push rax
  inc dword [irqs]
  cmp qword [rsp + 8], in_the_shadow
  jne .elsewhere
  inc dword [in_gap]
  dec dword [seen_elsewhere]
.elsewhere:
  inc dword [seen_elsewhere]
  outb 0x20, 0x20
  pop rax
  iretq
on_irq0_no_eoi:
  inc dword [irqs]
  iretq
on_int:
  mov ebx, 0x99
  iretq

in_data irqs: dq 0
in_data in_gap: dq 0
in_data seen_elsewhere: dq 0
in_data irq_rbx: dq 0
in_data irq_rip: dq 0
in_data irq_flags: dq 0
in_data irq_flags_inside: dq 0
in_data irq_isr: dq 0

GUEST_ROUTINES
