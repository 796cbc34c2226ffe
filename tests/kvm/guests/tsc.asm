; Reads the time stamp counter in kernel code, by RDTSC and by RDTSCP, in loops, in functions, behind prefixes and with the
; timer's handler in between; sums what it reads, and checks that time never goes back. RDRAND and RDSEED after it. The code
; runs in the upper half of the address space, as kernels do, and has had exits there before the first of all these.
%include "common.inc"

ROUNDS equ 60

GUEST
  start_long
  to_upper_half
  lapic_enable
  pic_init 0xfe, 0xff
  set_handler 0x20, on_pit
  mov ecx, 0xc0000103  ; TSC_AUX, what RDTSCP shows in ECX
  mov eax, 0x5a
  xor edx, edx
  wrmsr
  pit_start 2, 596  ; 0.5 ms
  sti
  mov ebp, ROUNDS
round:
  rdtsc
  call fold
  call read_p
  call fold
  cmp r9d, 0x5a
  je .aux
  failed "TSC_AUX"
.aux:
  mov ecx, 20
.loop:
  rdtsc
  shl rdx, 32
  or rax, rdx
  mix_in rax
  mov [table + rcx * 8], rax
  dec ecx
  jnz .loop
  ; As compilers write ordered reads.
  lfence
  rdtsc
  lfence
  call fold
  mov ecx, 0x10  ; IA32_TIME_STAMP_COUNTER by RDMSR
  rdmsr
  call fold
  dec ebp
  jnz round

  mov ecx, 40
.random:
  rdrand rax
  jnc .random
  mix_in rax
  rdrand r11d
  jnc .random
  mix_in r11
  rdseed rdx
  jnc .random
  mix_in rdx
  rdseed si
  movzx esi, si
  mix_in rsi
  dec ecx
  jnz .random
  cli
  says "tsc: backwards "
  mov eax, [backwards]
  call serial_number
  says " last "
  says_number [last]
  says " state "
  says_number [mixed]
  says 10
  cmp dword [backwards], 0
  je .fine
  failed "time went back"
.fine:
  finish

read_p:
  rdtscp
  mov r9d, ecx
  ret

; EDX:EAX is a time: not before the last one.
fold:
  shl rdx, 32
  or rax, rdx
  pushfq
  cli
  cmp rax, [last]
  jae .on
  inc dword [backwards]
.on:
  mov [last], rax
  mix_in rax
  popfq
  ret

on_pit:
  push rax
  push rdx
  push r10
  rdtsc
  mix_in rax
  inc dword [ticks]
  mov al, 0x20
  out 0x20, al
  pop r10
  pop rdx
  pop rax
  iretq

in_data align 8
in_data last: dq 0
in_data table: times 32 dq 0
in_data ticks: dd 0
in_data backwards: dd 0
COMMON_ROUTINES
