; Repeated string instructions are interrupted between iterations, with RCX, RSI, RDI exact and RIP at the instruction (SDM
; 2,
; REP), and go on after IRET.
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

COUNT equ 0x300000
SRC   equ 0x400000
DST   equ 0x800000

GUEST
  start_long
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_irq0
  pit_start 2, 100

  ; REP STOSB: RCX + (RDI - start) is the count at every interrupt.
  mov dword [kind], 0
  mov dword [expected_rip], stosb_insn
  mov edi, DST
  mov ecx, COUNT
  mov al, 0x5a
  sti
stosb_insn:
  rep stosb
  cli
  expect "REP STOSB: RCX", rcx, 0
  expect "REP STOSB: RDI", rdi, DST + COUNT
  expect "REP STOSB: registers were wrong in the handler", [wrong], 0
  call was_interrupted
  expect "REP STOSB: was interrupted", rax, 1
  mov edi, DST
  mov ecx, COUNT
  mov al, 0x5a
  repe scasb
  expect "REP STOSB filled everything", rcx, 0

  ; REP MOVSD.
  mov edi, SRC
  mov ecx, COUNT / 4
  xor eax, eax
fill:
  stosd
  inc eax
  loop fill
  mov dword [kind], 1
  mov dword [inside], 0
  mov dword [expected_rip], movsd_insn
  mov esi, SRC
  mov edi, DST
  mov ecx, COUNT / 4
  sti
movsd_insn:
  rep movsd
  cli
  expect "REP MOVSD: RCX", rcx, 0
  expect "REP MOVSD: registers were wrong in the handler", [wrong], 0
  call was_interrupted
  expect "REP MOVSD: was interrupted", rax, 1
  mov esi, SRC
  mov edi, DST
  mov ecx, COUNT / 4
  repe cmpsd
  expect "REP MOVSD copied everything", rcx, 0
  expect_flags "and ZF says so", 0x40, 0x40

  ; REPE CMPSB that finds a difference at a known place, with interrupts on the way.
  mov byte [DST + 0x2ffff0], 0xee
  mov byte [SRC + 0x2ffff0], 0x11
  mov dword [kind], 2
  mov dword [inside], 0
  mov dword [expected_rip], cmpsb_insn
  mov esi, SRC
  mov edi, DST
  mov ecx, COUNT
  sti
cmpsb_insn:
  repe cmpsb
  pushfq
  cli
  pop rax
  and eax, 0x41
  expect "REPE CMPSB: flags of the difference", rax, 1
  expect "REPE CMPSB: RCX", rcx, COUNT - 0x2ffff1
  expect "REPE CMPSB: registers were wrong in the handler", [wrong], 0
  call was_interrupted
  expect "REPE CMPSB: was interrupted", rax, 1

  ; LODSB and SCASB keep their accumulator across interrupts.
  mov dword [kind], 3
  mov dword [inside], 0
  mov dword [expected_rip], scasb_insn
  mov edi, DST
  mov ecx, 0x200000
  mov byte [DST + 0x1fffff], 0
  mov edx, ecx
  push rcx
  mov edi, DST
  mov al, 0x5a
  rep stosb
  mov byte [DST + 0x1ffff0], 0xa5
  pop rcx
  mov edi, DST
  mov al, 0xa5
  sti
scasb_insn:
  repne scasb
  cli
  expect "REPNE SCASB: RCX", rcx, 15
  expect "REPNE SCASB: RDI", rdi, DST + 0x1ffff1
  call was_interrupted
  expect "REPNE SCASB: was interrupted", rax, 1
  expect "REPNE SCASB: registers were wrong in the handler", [wrong], 0
  finish

; EAX = 1 if an interrupt came inside of the instruction.
was_interrupted:
  xor eax, eax
  cmp dword [inside], 0
  setne al
  ret

on_irq0:
  push rax
  mov eax, [expected_rip]
  cmp [rsp + 8], rax
  jne .end                      ; before or behind it
  inc dword [inside]
  cmp dword [kind], 0
  je .stosb
  cmp dword [kind], 1
  je .movsd
  cmp dword [kind], 2
  je .cmpsb
  lea rax, [rcx + rdi - DST]    ; SCASB
  cmp rax, 0x200000
  jne .wrong
  jmp .end
.stosb:
  lea rax, [rcx + rdi - DST]
  cmp rax, COUNT
  jne .wrong
  test rcx, rcx
  jz .end
  cmp rdi, DST
  je .end
  cmp byte [rdi - 1], 0x5a      ; what is counted as done is done
  jne .wrong
  jmp .end
.movsd:
  lea rax, [rcx * 4 + rdi - DST]
  cmp rax, COUNT
  jne .wrong
  lea rax, [rcx * 4 + rsi - SRC]
  cmp rax, COUNT
  jne .wrong
  jmp .end
.cmpsb:
  lea rax, [rcx + rdi - DST]
  cmp rax, COUNT
  jne .wrong
  lea rax, [rcx + rsi - SRC]
  cmp rax, COUNT
  je .end
.wrong:
  inc dword [wrong]
.end:
  mov al, 0x20
  out 0x20, al
  pop rax
  iretq

in_data align 8
in_data kind: dq 0
in_data inside: dq 0
in_data expected_rip: dq 0
in_data wrong: dq 0

GUEST_ROUTINES
