; PAE paging: PDPTEs and when they are loaded, NX, 2 MiB pages, addresses above 4 GiB in entries. Source: SDM 3A 4.4.
%include "lib/guest.inc"
%include "lib/modes.inc"

PDPT32 equ PAGE_TABLES + 0x20020  ; 32-byte aligned is enough
PDA    equ PAGE_TABLES + 0x21000  ; directory of the first GiB
T      equ PAGE_TABLES + 0x22000
PDB    equ PAGE_TABLES + 0x23000  ; directory of the second GiB
PAGE   equ 0x400000
PTE    equ T
RW     equ PTE_P + PTE_W + PTE_U

%macro map 1-2 0
  mov dword [PTE], %1
  mov dword [PTE + 4], %2
  invlpg [PAGE]
%endmacro

GUEST
  start_protected32
  mov edi, PAGE_TABLES + 0x20000
  xor eax, eax
  mov ecx, 0x4000 / 4
  rep stosd
  mov dword [PDPT32], PDA + PTE_P
  mov eax, PTE_PS + RW
  mov edi, PDA
fill:
  mov [edi], eax
  add edi, 8
  add eax, 0x200000
  cmp eax, 0x4000000
  jb fill
  mov dword [PDA + (PAGE >> 21) * 8], T + RW
  mov dword [PDB], PTE_PS + RW
  set_bits cr4, CR4_PAE
  mov eax, PDPT32
  mov cr3, eax
  mov ecx, MSR_EFER
  rdmsr
  or eax, EFER_NXE
  wrmsr
  set_bits cr0, CR0_PG + CR0_WP
  jmp CODE32:paging_on
paging_on:
  mov ebx, PAGE

  map 0
  expect_fault "read of an absent page", 14, 0, mov eax, [ebx]
  expect_fault "write to an absent page", 14, 2, mov [ebx], eax
  try call ebx
  expect "fetch from an absent page: error code", [exc_err], 0x10
  map PAGE + RW
  mov byte [ebx], 0xc3
  expect_ok "call", call ebx
  map PAGE + RW, 0x80000000
  try call ebx
  expect "fetch from an NX page: vector", [exc_vec], 14
  expect "fetch from an NX page: error code", [exc_err], 0x11
  expect_user "user fetch from an NX page", user_fetch, 14, 0x15
  expect_user "user read of an NX page", user_read, 3, 0
  map PAGE + PTE_P, 0
  expect_user "user read of a supervisor page", user_read, 14, 5
  expect_user "user write to a supervisor page", user_write, 14, 7
  expect_fault "write to a read-only page", 14, 3, mov [ebx], eax
  map PAGE + RW, 1 << 30
  expect_fault "reserved bit 62 of a PTE", 14, 9, mov eax, [ebx]
  expect_fault "reserved bit 62 of a PTE, write", 14, 0xb, mov [ebx], eax
  map PAGE + RW, 0
  mov [ebx], eax
  expect "A and D", [PTE], PAGE + RW + PTE_A + PTE_D
  mov dword [PDA + 0x18], 0x600000 + PTE_PS + RW + (1 << 13)
  invlpg [0x600000]
  mov edx, 0x600000
  expect_fault "reserved bit 13 of a 2 MiB page", 14, 9, mov eax, [edx]

  ; PDPTEs are read when CR3 is loaded, not when they are used.
  mov edx, 0x40000000
  expect_fault "absent PDPTE", 14, 0, mov eax, [edx + FREE]
  mov dword [PDPT32 + 8], PDB + PTE_P
  invlpg [edx + FREE]
  expect_fault "PDPTE set, CR3 not loaded", 14, 0, mov eax, [edx + FREE]
  mov eax, cr3
  mov cr3, eax
  mov dword [PDB + 8], FREE + PTE_PS + RW
  mov dword [FREE], 0x24681357
  expect_ok "PDPTE in force", mov eax, [edx + FREE]
  expect "memory through the second GiB", eax, 0x24681357
  mov dword [PDPT32 + 8], 0
  invlpg [edx + FREE]
  expect_ok "PDPTE cleared, CR3 not loaded", mov eax, [edx + FREE]
  ; Reserved bits in a PDPTE make the load of CR3 fault, and the old ones stay.
  mov dword [PDPT32 + 8], PDB + PTE_P + PTE_W
  mov eax, cr3
  expect_fault "MOV CR3 with reserved bits in a PDPTE", 13, 0, mov cr3, eax
  mov dword [PDPT32 + 8], PTE_W  ; not present: no matter
  mov eax, cr3
  expect_ok "MOV CR3 with reserved bits in an absent PDPTE", mov cr3, eax
  expect_fault "absent PDPTE again", 14, 0, mov eax, [edx + FREE]

  ; Physical addresses beyond 4 GiB: the same page table entry reaches nothing of ours.
  mov dword [FREE], 0x11112222
  map FREE + RW, 0
  mov eax, [ebx]
  expect "page of the low 4 GiB", eax, 0x11112222
  finish

user_read:
  mov eax, [ebx]
  int3
user_write:
  mov [ebx], eax
  int3
user_fetch:
  jmp ebx

GUEST_ROUTINES
