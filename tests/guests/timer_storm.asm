; A PIT at its highest useful rate while the guest computes: the result must not change, and no interrupt may be lost that
; leaves room.
; console: sum [0-9a-f]+
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

ROUNDS equ 200000

GUEST
  start_long
  set_bits cr4, CR4_OSFXSR
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_irq0

  ; Once in peace.
  call compute
  mov [quiet], rax
  ; And once in the storm: an interrupt every 12 us.
  pit_start 2, 14
  sti
  call compute
  cli
  mov rbx, [quiet]
  expect "the result in the storm", rax, rbx
  cmp dword [irqs], 100
  seta al
  movzx eax, al
  expect "there was a storm", rax, 1
  puts "sum "
  mov eax, ebx
  call hex64
  puts " interrupts "
  mov eax, [irqs]
  call hex64
  puts 10
  finish

; A mix of arithmetic, flags across instructions, memory, stack, string and SSE instructions; RAX: a digest.
compute:
  mov r8d, ROUNDS
  mov rax, 0x9e3779b97f4a7c15
  xor edx, edx
  pxor xmm0, xmm0
  mov edi, FREE
.round:
  rol rax, 7
  add rax, r8
  adc rdx, 3
  push rax
  xor rdx, [rsp]
  pop rcx
  bt rax, 5
  sbb rcx, rdx
  cmovc rdx, rcx
  movq xmm1, rcx
  paddq xmm0, xmm1
  pshufd xmm0, xmm0, 0x4e
  mov [rdi], rax
  mov esi, edi
  lea edi, [rdi + 8]
  test r8d, 0x3f
  jnz .no_string
  mov r9, rax
  mov esi, FREE
  mov edi, FREE + 0x10000
  mov ecx, 64
  rep movsq
  mov edi, FREE
  mov rax, r9
.no_string:
  imul rax, rax, 0x5851f42d
  dec r8d
  jnz .round
  movq rcx, xmm0
  xor rax, rcx
  add rax, rdx
  add rax, [FREE + 0x10000]
  ret

on_irq0:
  push rax
  inc dword [irqs]
  stc
  mov al, 0x20
  out 0x20, al
  pop rax
  iretq

in_data align 8
in_data quiet: dq 0
in_data irqs: dq 0

GUEST_ROUTINES
