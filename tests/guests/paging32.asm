; 32-bit paging with and without PSE: error codes, WP, A and D, 4 MiB pages, reserved bits. Source: SDM 3A 4.3, 4.7, 4.8.
%include "lib/guest.inc"
%include "lib/modes.inc"

DIR   equ PAGE_TABLES + 0x20000
LOW   equ PAGE_TABLES + 0x21000  ; table of the low 4 MiB: identity
T     equ PAGE_TABLES + 0x22000  ; table of the 4 MiB from PAGE on
PAGE  equ 0x400000
PTE   equ T
RW    equ PTE_P + PTE_W + PTE_U
BIG   equ 0x800000               ; mapped by a 4 MiB page

%macro map 1
  mov dword [PTE], %1
  invlpg [PAGE]
%endmacro

GUEST
  start_protected32
  mov edi, DIR
  xor eax, eax
  mov ecx, 0x3000 / 4
  rep stosd
  mov eax, RW
  mov edi, LOW
fill:
  mov [edi], eax
  add edi, 4
  add eax, 0x1000
  cmp eax, 0x400000
  jb fill
  mov dword [DIR], LOW + RW
  mov dword [DIR + 4], T + RW
  mov dword [DIR + 8], BIG + PTE_PS + RW
  mov eax, DIR
  mov cr3, eax
  set_bits cr4, CR4_PSE
  set_bits cr0, CR0_PG + CR0_WP
  jmp CODE32:paging_on
paging_on:
  mov ebx, PAGE

  map 0
  expect_fault "read of an absent page", 14, 0, mov eax, [ebx + 4]
  expect "CR2", [exc_cr2], PAGE + 4
  expect_fault "write to an absent page", 14, 2, mov [ebx], eax
  try call ebx
  expect "fetch from an absent page: no I bit without NX and SMEP", [exc_err], 0
  expect "fetch from an absent page: rip", [exc_rip], PAGE
  mov edx, 0xc00000
  expect_fault "absent page table", 14, 0, mov eax, [edx]
  expect_user "user read of an absent page", user_read, 14, 4
  expect_user "user write to an absent page", user_write, 14, 6
  map PAGE + PTE_P + PTE_W
  expect_user "user read of a supervisor page", user_read, 14, 5
  expect_user "user write to a supervisor page", user_write, 14, 7
  map PAGE + PTE_P + PTE_U
  expect_user "user read of a read-only page", user_read, 3, 0
  expect_user "user write to a read-only page", user_write, 14, 7
  expect_fault "write to a read-only page, WP = 1", 14, 3, mov [ebx], eax
  clear_bits cr0, CR0_WP
  expect_ok "write to a read-only page, WP = 0", mov [ebx], eax
  expect_user "user write to a read-only page, WP = 0", user_write, 14, 7
  set_bits cr0, CR0_WP
  map PAGE + RW
  expect_user "user write", user_write, 3, 0
  and byte [DIR + 4], ~PTE_U
  mov eax, cr3
  mov cr3, eax
  expect_user "user read through a supervisor PDE", user_read, 14, 5
  or byte [DIR + 4], PTE_U

  ; Accessed and dirty.
  map PAGE + RW
  mov al, [ebx]
  expect "a read sets A", [PTE], PAGE + RW + PTE_A
  mov [ebx], al
  expect "a write sets D", [PTE], PAGE + RW + PTE_A + PTE_D
  mov eax, [DIR + 4]
  and eax, PTE_A + PTE_D
  expect "A of the PDE", eax, PTE_A

  ; 4 MiB pages.
  mov edx, BIG
  mov dword [edx + 0x123450], 0x13572468
  expect "A and D of a 4 MiB page", [DIR + 8], BIG + PTE_PS + RW + PTE_A + PTE_D
  map BIG + 0x123000 + RW
  expect "4 MiB page and 4 KiB page of the same memory", [PAGE + 0x450], 0x13572468
  mov dword [DIR + 8], BIG + PTE_PS + RW + (1 << 21)
  invlpg [edx]
  expect_fault "reserved bit 21 of a 4 MiB page", 14, 9, mov eax, [edx]
  expect_fault "reserved bit 21 of a 4 MiB page, write", 14, 0xb, mov [edx], eax
  ; Without PSE, bit 7 of a PDE means nothing.
  mov dword [DIR + 8], T + PTE_PS + RW
  clear_bits cr4, CR4_PSE
  mov eax, cr3
  mov cr3, eax
  mov eax, [edx + 0x450]
  expect "PS without CR4.PSE", eax, 0x13572468
  set_bits cr4, CR4_PSE

  ; A segment base is added before paging.
  set_descriptor SPARE, 0xfff00000, 0xfffff, 0x93, 0xc
  mov ax, SPARE
  mov es, ax
  mov eax, [es:PAGE + 0x100000 + 0x450]
  expect "segment base and paging", eax, 0x13572468

  clear_bits cr0, CR0_PG
  mov eax, [BIG + 0x123450]
  expect "paging off again", eax, 0x13572468
  finish

user_read:
  mov eax, [ebx]
  int3
user_write:
  mov [ebx], eax
  int3

GUEST_ROUTINES
