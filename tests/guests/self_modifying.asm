; Code that changes itself: the next instruction, the same block, a loop's body, another page, a page under two linear
; addresses,
; code written by REP MOVS, by a stack push, by an atomic; a changed mapping. Source: SDM 3A 11.6 (no serialisation is needed
; for a write through the same linear address; a jump is for another one).
%include "lib/guest.inc"
%include "lib/modes.inc"

T     equ PAGE_TABLES + 0x20000
PAGE  equ 0x400000
ALIAS equ 0x410000

GUEST
  start_long
  split_2m PAGE, T

  ; The next instruction.
  mov byte [next_insn + 1], 0x42
  jmp short next_insn      ; a jump is what the oldest processors want
next_insn:
  mov al, 0
  movzx eax, al
  expect "the next instruction", rax, 0x42
  ; Ahead in the same block, no jump between.
  xor eax, eax
  mov byte [ahead + 1], 0x33
  nop
  nop
  nop
ahead:
  mov al, 0
  movzx eax, al
  expect "an instruction ahead in the same block", rax, 0x33
  ; A loop that changes its own body every time round.
  xor ebx, ebx
  xor edx, edx
  mov ecx, 100
self:
  add edx, 1               ; imm8 at +2
  inc byte [self + 2]
  loop self
  expect "a loop that rewrites its immediate", rdx, 5050
  mov byte [self + 2], 1
  ; An instruction becomes a longer one.
  mov word [grow], 0x01b0  ; MOV AL, 1
  mov byte [grow + 2], 0x90
  call grow
  movzx eax, al
  expect "before it grows", rax, 1
  mov dword [grow], 0x123456b8 ; MOV EAX, imm32
  mov byte [grow + 4], 0
  call grow
  expect "after it grew", rax, 0x123456
  ; Operand in the middle of an instruction already executed often.
  mov ecx, 2000
hot:
  call hot_target
  loop hot
  mov dword [hot_target + 1], 77
  call hot_target
  expect "a hot function is patched", rax, 77

  ; Another page, and an instruction that lies on two pages.
  mov edi, PAGE + 0xffd     ; MOV EAX, imm32: opcode on the first page with two bytes of the operand
  mov byte [rdi], 0xb8
  mov dword [rdi + 1], 0x11223344
  mov byte [rdi + 5], 0xc3
  mov eax, 0
  call rdi
  expect "instruction across two pages", rax, 0x11223344
  mov byte [PAGE + 0x1001], 0x55  ; its last byte
  call rdi
  expect "patched on the second page", rax, 0x55223344
  mov byte [PAGE + 0xffe], 0x66
  call rdi
  expect "patched on the first page", rax, 0x55223366
  mov ecx, 1000
hot2:
  call rdi
  loop hot2
  mov byte [PAGE + 0x1000], 0x77
  call rdi
  expect "patched on the second page when hot", rax, 0x55773366

  ; A page under two linear addresses.
  mov dword [pte_of(ALIAS, T)], PAGE + 0x2000 + 7
  invlpg [ALIAS]
  mov esi, PAGE + 0x2000
  mov byte [rsi], 0xb8
  mov dword [rsi + 1], 1
  mov byte [rsi + 5], 0xc3
  mov edi, ALIAS
  call rdi
  expect "through the alias", rax, 1
  mov byte [rsi + 1], 2
  call rdi
  expect "written through the other address", rax, 2
  mov byte [rdi + 1], 3
  call rsi
  expect "and the other way round", rax, 3
  ; The mapping changes, the bytes do not.
  mov byte [PAGE + 0x3000], 0xb8
  mov dword [PAGE + 0x3001], 4
  mov byte [PAGE + 0x3005], 0xc3
  mov dword [pte_of(ALIAS, T)], PAGE + 0x3000 + 7
  invlpg [rdi]
  call rdi
  expect "another page at the same address", rax, 4

  ; REP MOVSB over code, also over itself and what follows.
  mov esi, template
  mov edi, PAGE + 0x4000
  mov ecx, template_end - template
  rep movsb
  mov eax, PAGE + 0x4000
  call rax
  expect "code copied by REP MOVSB", rax, 0x600d
  mov esi, template2
  mov edi, rep_target
  mov ecx, template2_end - template2
  rep movsb
rep_target:
  mov eax, 0
  nop
  expect "REP MOVSB over the instruction behind it", rax, 0xfeed
  ; REP STOSQ over a hot function.
  mov ecx, 1000
hot3:
  call filled
  loop hot3
  mov edi, filled
  mov rax, 0x90909090c3c0ff48  ; INC RAX; RET
  mov ecx, 1
  rep stosq
  mov eax, 41
  call filled
  expect "REP STOSQ over a function", rax, 42

  ; Writes of other kinds: PUSH, XCHG, LOCK CMPXCHG, SSE; and writes to data beside code.
  mov rbx, rsp
  mov rsp, pushed + 8
  mov rax, 0x90c300000007b890    ; NOP; MOV EAX, 7; RET; NOP
  push rax
  mov rsp, rbx
  call pushed
  expect "code written by PUSH", rax, 7
  mov rax, 0x90c300000008b890
  xchg [pushed], rax
  call pushed
  expect "code written by XCHG", rax, 8
  mov rax, [pushed]
  mov rcx, 0x90c300000009b890
  lock cmpxchg [pushed], rcx
  call pushed
  expect "code written by CMPXCHG", rax, 9
  set_bits cr4, CR4_OSFXSR
  mov rax, 0x90c30000000ab890
  movq xmm0, rax
  movq [pushed], xmm0
  call pushed
  expect "code written by MOVQ", rax, 10
  mov ecx, 500
data_beside_code:
  inc dword [beside]
  loop data_beside_code
  mov rax, [beside]
  expect "data beside code", rax, 500
  call pushed
  expect "code beside data", rax, 10

  ; A RET to just-written code, and code at the very end of a page with the next one absent.
  mov dword [pte_of(PAGE + 0x6000, T)], 0
  invlpg [PAGE + 0x6000]
  mov edi, PAGE + 0x5fff
  mov byte [rdi], 0xc3
  expect_ok "one-byte function at the end of a page", call rdi
  mov byte [rdi], 0xb0            ; MOV AL, imm8: the operand is on the absent page
  try call rdi
  expect "instruction into an absent page: vector", [exc_vec], 14
  expect "instruction into an absent page: rip", [exc_rip], PAGE + 0x5fff
  expect "instruction into an absent page: CR2", [exc_cr2], PAGE + 0x6000
  finish

grow:
  times 5 nop
  ret
hot_target:
  mov eax, 5
  ret
template:
  mov eax, 0x600d
  ret
template_end:
template2:
  mov eax, 0xfeed
template2_end:
align 8
filled:
  times 7 nop
  ret
align 8
pushed:
  times 8 nop
beside: dq 0

GUEST_ROUTINES
