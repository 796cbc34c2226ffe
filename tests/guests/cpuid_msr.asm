; CPUID, control registers and MSRs agree with each other and with what the processor does.
%include "lib/guest.inc"
%include "lib/modes.inc"

GUEST
  start_long

  ; CPUID: the level of x86-64-v2, and long mode as the tables say.
  xor eax, eax
  cpuid
  mov r12d, eax
  cmp eax, 7
  setae al
  movzx eax, al
  expect "maximum leaf is 7 or more", rax, 1
  mov eax, 1
  cpuid
  mov r13d, ecx
  mov r14d, edx
  ; FPU DE PSE TSC MSR PAE CX8 APIC SEP PGE CMOV PAT CLFSH MMX FXSR SSE SSE2
  and edx, 0x0789ab79
  expect "leaf 1 EDX", rdx, 0x0789ab79
  and ecx, 0x00982201            ; SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT
  expect "leaf 1 ECX", rcx, 0x00982201
  mov eax, 0x80000000
  cpuid
  cmp eax, 0x80000008
  setae al
  movzx eax, al
  expect "maximum extended leaf", rax, 1
  mov eax, 0x80000001
  cpuid
  and edx, 0x20100800            ; SYSCALL NX LM
  expect "leaf 80000001 EDX", rdx, 0x20100800
  and ecx, 1                     ; LAHF64
  expect "leaf 80000001 ECX", rcx, 1
  ; The upper halves of the results are zero; a leaf beyond the maximum gives the highest basic leaf or zeros, not a fault.
  mov rax, 0xffffffff00000000
  mov rbx, -1
  mov rcx, 0xffffffff00000000
  mov rdx, -1
  cpuid
  mov r8, rax
  or r8, rbx
  or r8, rcx
  or r8, rdx
  shr r8, 32
  expect "upper halves after CPUID", r8, 0
  mov eax, 0x7fffffff
  expect_ok "CPUID beyond the maximum", cpuid

  ; OSXSAVE follows CR4, if there is XSAVE.
  bt r13d, 26
  jnc .no_xsave
  mov eax, 1
  cpuid
  shr ecx, 27
  and ecx, 1
  expect "OSXSAVE with CR4.OSXSAVE = 0", rcx, 0
  xor ecx, ecx
  expect_fault "XGETBV without OSXSAVE", 6, 0, xgetbv
  set_bits cr4, 1 << 18
  mov eax, 1
  cpuid
  shr ecx, 27
  and ecx, 1
  expect "OSXSAVE with CR4.OSXSAVE = 1", rcx, 1
  xor ecx, ecx
  xgetbv
  and eax, 1
  expect "XCR0 holds x87", rax, 1
  xor eax, eax
  xor edx, edx
  expect_fault "XCR0 without x87", 13, 0, xsetbv
  mov ecx, 1
  mov eax, 1
  expect_fault "XSETBV of another register", 13, 0, xsetbv
.no_xsave:

  ; CR0 and CR4: combinations that fault.
  mov rax, cr0
  mov rbx, rax
  btr rax, 0
  expect_fault "CR0: PG without PE", 13, 0, mov cr0, rax
  mov rax, rbx
  btr rax, 30
  bts rax, 29
  expect_fault "CR0: NW without CD", 13, 0, mov cr0, rax
  mov rax, rbx
  bts rax, 32
  expect_fault "CR0: upper half", 13, 0, mov cr0, rax
  mov rax, cr4
  mov rbx, rax
  btr rax, 5
  expect_fault "CR4: PAE cleared in long mode", 13, 0, mov cr4, rax
  mov rax, rbx
  bts rax, 31
  expect_fault "CR4: reserved bit", 13, 0, mov cr4, rax
  mov ecx, MSR_EFER
  rdmsr
  and eax, EFER_LME + EFER_LMA
  expect "EFER", rax, EFER_LME + EFER_LMA
  rdmsr
  btr eax, 8
  expect_fault "EFER: LME cleared while paging", 13, 0, wrmsr
  rdmsr
  bts eax, 2
  expect_fault "EFER: reserved bit", 13, 0, wrmsr
  expect_fault "CR1", 6, 0, db 0xf, 0x20, 0xc8

  ; MSRs.
  mov ecx, 0xc0001234
  expect_fault "RDMSR of an unknown MSR", 13, 0, rdmsr
  expect_fault "WRMSR of an unknown MSR", 13, 0, wrmsr
  mov ecx, 0x277                 ; PAT
  rdmsr
  expect "PAT after reset, low", rax, 0x00070406
  expect "PAT after reset, high", rdx, 0x00070406
  mov eax, 0x02020202
  expect_fault "PAT: reserved type", 13, 0, wrmsr
  mov ecx, 0x1b                  ; APIC base
  rdmsr
  and eax, ~0x100                ; but for BSP
  expect "APIC base", rax, 0xfee00800
  rdmsr
  and eax, 0x100
  expect "this is the bootstrap processor", rax, 0x100
  mov ecx, 0xc0000100            ; FS base
  mov edx, 0x8000
  xor eax, eax
  expect_fault "FS base that is not canonical", 13, 0, wrmsr
  mov edx, 0x5678
  mov eax, 0x9abcdef0
  wrmsr
  rdmsr
  expect "FS base, low", rax, 0x9abcdef0
  expect "FS base, high", rdx, 0x5678

  ; The TSC: goes on, can be set, RDTSCP gives TSC_AUX; TSD keeps ring 3 out.
  rdtsc
  shl rdx, 32
  or rax, rdx
  mov rbx, rax
  mov ecx, 100
.monotonic:
  rdtsc
  shl rdx, 32
  or rax, rdx
  cmp rax, rbx
  jbe .backwards
  mov rbx, rax
  loop .monotonic
.backwards:
  expect "RDTSC always grows", rcx, 0
  mov ecx, 0x10
  mov edx, 0x1000
  xor eax, eax
  wrmsr
  rdtsc
  expect "RDTSC after a write of the TSC", rdx, 0x1000
  rdmsr
  expect "RDMSR of the TSC", rdx, 0x1000
  mov eax, 0x80000001
  cpuid
  bt edx, 27
  jnc .no_rdtscp
  mov ecx, 0xc0000103
  mov eax, 0x1234
  xor edx, edx
  wrmsr
  rdtscp
  expect "RDTSCP: TSC_AUX", rcx, 0x1234
.no_rdtscp:
  run_user user_rdtsc
  expect "RDTSC in ring 3", [exc_vec], 3
  set_bits cr4, CR4_TSD
  run_user user_rdtsc
  expect "RDTSC in ring 3 with TSD", [exc_vec], 13
  expect_ok "RDTSC in ring 0 with TSD", rdtsc

  ; FPU and SSE switches: EM, TS, MP, OSFXSR.
  set_bits cr0, CR0_TS
  expect_fault "x87 with TS", 7, 0, fnop
  expect_ok "WAIT with TS and MP = 0", wait
  set_bits cr0, CR0_MP
  expect_fault "WAIT with TS and MP", 7, 0, wait
  clts
  expect_ok "WAIT after CLTS", wait
  clear_bits cr4, CR4_OSFXSR
  expect_fault "SSE without OSFXSR", 6, 0, addps xmm0, xmm1
  set_bits cr4, CR4_OSFXSR
  expect_ok "SSE with OSFXSR", addps xmm0, xmm1
  set_bits cr0, CR0_TS
  expect_fault "SSE with TS", 7, 0, addps xmm0, xmm1
  clts
  set_bits cr0, CR0_EM
  expect_fault "x87 with EM", 7, 0, fnop
  expect_fault "SSE with EM", 6, 0, addps xmm0, xmm1
  clear_bits cr0, CR0_EM

  ; Instructions that are not there, and those that are not in 64-bit mode.
  expect_fault "UD2", 6, 0, ud2
  expect_fault "PUSH ES in 64-bit mode", 6, 0, db 0x06
  expect_fault "AAA in 64-bit mode", 6, 0, db 0x37
  expect_fault "INTO in 64-bit mode", 6, 0, db 0xce
  expect_fault "LOCK on a register", 6, 0, db 0xf0, 0x01, 0xc0
  expect_fault "LOCK on MOV", 6, 0, db 0xf0, 0x89, 0x07
  mov eax, SCRATCH
  expect_fault "CMPXCHG16B unaligned", 13, 0, cmpxchg16b [rax + 8]
  expect_fault "MOVAPS unaligned", 13, 0, movaps xmm0, [rax + 8]
  xor ecx, ecx
  expect_fault "division by zero", 0, 0, div ecx
  mov rax, 1 << 63
  cqo
  mov rcx, -1
  expect_fault "quotient that does not fit", 0, 0, idiv rcx
  finish

user_rdtsc:
  rdtsc
  int3

GUEST_ROUTINES
