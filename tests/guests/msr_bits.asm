; What is written to an MSR stays, or faults: bit by bit for those with reserved bits. Source: SDM 4 table 2-2, and the list in
; vmm/cpu/msr.h.
%include "lib/guest.inc"
%include "lib/modes.inc"

MISC_ENABLE equ 0x1a0
DEBUGCTL equ 0x1d9

; Writes EDX:EAX to MSR ECX: it must fault, and change nothing.
%macro expect_refused 3  ; "what", high, low
  rdmsr
  mov r8d, eax
  mov r9d, edx
  mov edx, %2
  mov eax, %3
  expect_fault {%1}, 13, 0, wrmsr
  rdmsr
  expect {%1, ": low half afterwards"}, rax, r8
  expect {%1, ": high half afterwards"}, rdx, r9
%endmacro
%macro expect_kept 3
  mov edx, %2
  mov eax, %3
  expect_ok {%1}, wrmsr
  rdmsr
  mov r8d, %3
  mov r9d, %2
  expect {%1, ": low half"}, rax, r8
  expect {%1, ": high half"}, rdx, r9
%endmacro

GUEST
  start_long
  ; Every bit of IA32_MISC_ENABLE: kept, read-only, or refused.
  xor ebx, ebx
.each:
  mov ecx, MISC_ENABLE
  rdmsr
  shl rdx, 32
  or rax, rdx
  mov r12, rax
  btc rax, rbx
  mov r13, rax
  mov rdx, rax
  shr rdx, 32
  mov eax, eax
  try wrmsr
  mov r14, [exc_vec]
  mov ecx, MISC_ENABLE
  rdmsr
  shl rdx, 32
  or rdx, rax
  mov rax, 0x400001               ; 0 and 22
  bt rax, rbx
  jc .kept
  mov eax, 0x1880                 ; 7, 11, 12
  bt rax, rbx
  jc .read_only
  expect "reserved bit of MISC_ENABLE", r14, 13
  expect "MISC_ENABLE after it", rdx, r12
  jmp .next
.read_only:
  expect "read-only bit of MISC_ENABLE", r14, -1
  expect "MISC_ENABLE after it is written", rdx, r12
  jmp .next
.kept:
  expect "bit of MISC_ENABLE", r14, -1
  expect "MISC_ENABLE with it changed", rdx, r13
  mov rax, r12
  mov rdx, r12
  shr rdx, 32
  wrmsr
.next:
  inc ebx
  cmp ebx, 64
  jb .each

  mov ecx, DEBUGCTL
  xor edx, edx
  mov eax, 0xffc3
  expect_ok "DEBUGCTL, all that it has", wrmsr
  expect_refused "DEBUGCTL, bit 2", 0, 4
  expect_refused "DEBUGCTL, bit 16", 0, 1 << 16
  expect_refused "DEBUGCTL, bit 63", 1 << 31, 0

  ; Addresses.
%macro address 2
  mov ecx, %1
  expect_kept %2, 0xffff8000, 0x12345678
  expect_kept %2, 0x7fff, 0x12345678
  expect_refused {%2, ", not canonical"}, 0x8000, 0
  expect_refused {%2, ", not canonical above"}, 0xffff7fff, 0xffffffff
%endmacro
  address 0x175, "SYSENTER_ESP"
  address 0x176, "SYSENTER_EIP"
  address 0xc0000082, "LSTAR"
  address 0xc0000083, "CSTAR"
  address 0xc0000102, "KERNEL_GS_BASE"
  ; (The handler of exceptions loads FS and GS, and so their bases.)
  mov ecx, 0xc0000100
  expect_kept "FS_BASE", 0xffff8000, 1
  mov edx, 0x8000
  expect_fault "FS_BASE, not canonical", 13, 0, wrmsr
  mov ecx, 0xc0000101
  expect_kept "GS_BASE", 0x7fff, 0xffffffff
  mov edx, 0xffff7fff
  expect_fault "GS_BASE, not canonical", 13, 0, wrmsr
  ; 32 bits.
  mov ecx, 0xc0000084
  expect_kept "SFMASK", 0, 0xffffffff
  expect_refused "SFMASK, bit 32", 1, 0
  mov ecx, 0xc0000103
  expect_kept "TSC_AUX", 0, 0x89abcdef
  expect_refused "TSC_AUX, bit 32", 1, 0
  mov ecx, 0xc0000081
  expect_kept "STAR", 0x00230010, 0xffffffff
  ; Memory types.
  mov ecx, 0x2ff
  expect_kept "MTRR_DEF_TYPE", 0, 0xc06
  expect_refused "MTRR_DEF_TYPE, type 2", 0, 0xc02
  expect_refused "MTRR_DEF_TYPE, bit 12", 0, 0x1c06
  mov ecx, 0x200
  expect_kept "PHYSBASE0", 0xff, 0xfffff006
  expect_refused "PHYSBASE0, beyond the physical addresses", 0x100, 6
  expect_refused "PHYSBASE0, type 7", 0, 7
  expect_refused "PHYSBASE0, bit 8", 0, 0x106
  mov ecx, 0x201
  expect_kept "PHYSMASK0", 0xff, 0xfffff800
  expect_refused "PHYSMASK0, bit 10", 0, 0xc00
  mov ecx, 0x250
  expect_kept "FIX64K", 0x06060606, 0x00010405
  expect_refused "FIX64K, type 3", 0, 3
  mov ecx, 0x277
  expect_refused "PAT, bit 3", 0, 8
  mov ecx, 0xc0000080
  expect_refused "EFER, bit 1", 0, EFER_LME + 2
  expect_refused "EFER, bit 32", 1, EFER_LME
  mov ecx, 0x1b
  expect_refused "APIC_BASE, bit 9", 0, 0xfee00b00
  expect_refused "APIC_BASE, x2APIC", 0, 0xfee00d00
  expect_refused "APIC_BASE, beyond the physical addresses", 0x100, 0xfee00900
  ; Read-only registers.
  mov ecx, 0xfe
  expect_refused "MTRRCAP", 0, 0x508
  mov ecx, 0x179
  expect_refused "MCG_CAP", 0, 0
  mov ecx, 0x17a
  expect_refused "MCG_STATUS, one", 0, 1
  finish

GUEST_ROUTINES
