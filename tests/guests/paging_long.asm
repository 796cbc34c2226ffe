; 4-level paging: every page fault error code, NX, WP, SMEP, SMAP, reserved bits, A and D, 4K, 2M and 1G pages, INVLPG.
; Source: SDM 3A 4.5 to 4.10.
%include "lib/guest.inc"
%include "lib/modes.inc"

T     equ PAGE_TABLES + 0x20000  ; table for the 2 MiB from PAGE on
PAGE  equ 0x400000
ALIAS equ 0x401000
PTE   equ pte_of(PAGE, T)
RW    equ PTE_P + PTE_W + PTE_U

; map entry bits: PAGE's entry becomes `bits` (low dword) and the TLB forgets it.
%macro map 1
  mov dword [PTE], %1
  mov dword [PTE + 4], 0
  invlpg [PAGE]
%endmacro

GUEST
  start_long
  mov ecx, MSR_EFER
  rdmsr
  or eax, EFER_NXE
  wrmsr
  split_2m PAGE, T
  set_bits cr0, CR0_WP
  mov ebx, PAGE

  ; Supervisor accesses.
  map 0
  expect_fault "read of an absent page", 14, 0, mov rax, [rbx + 0x123]
  expect "CR2", [exc_cr2], PAGE + 0x123
  expect_fault "write to an absent page", 14, 2, mov [rbx], rax
  expect_fault "read-modify-write of an absent page", 14, 2, inc dword [rbx]
  try call rbx
  expect "fetch from an absent page: vector", [exc_vec], 14
  expect "fetch from an absent page: error code", [exc_err], 0x10
  expect "fetch from an absent page: rip", [exc_rip], PAGE
  expect "fetch from an absent page: CR2", [exc_cr2], PAGE
  map PAGE + PTE_P + PTE_U
  expect_ok "read of a read-only page", mov rax, [rbx]
  expect_fault "write to a read-only page, WP = 1", 14, 3, mov [rbx], rax
  clear_bits cr0, CR0_WP
  expect_ok "write to a read-only page, WP = 0", mov [rbx], rax
  map PAGE + PTE_P
  expect_ok "write to a read-only supervisor page, WP = 0", mov [rbx], rax
  set_bits cr0, CR0_WP
  expect_fault "write to a read-only supervisor page, WP = 1", 14, 3, mov [rbx], rax

  ; User accesses.
  map 0
  expect_user "user read of an absent page", user_read, 14, 4
  expect_user "user write to an absent page", user_write, 14, 6
  expect_user "user fetch from an absent page", user_fetch, 14, 0x14
  map PAGE + PTE_P + PTE_W
  expect_user "user read of a supervisor page", user_read, 14, 5
  expect_user "user write to a supervisor page", user_write, 14, 7
  expect_user "user fetch from a supervisor page", user_fetch, 14, 0x15
  map PAGE + PTE_P + PTE_U
  expect_user "user read of a read-only page", user_read, 3, 0
  expect_user "user write to a read-only page", user_write, 14, 7
  clear_bits cr0, CR0_WP
  expect_user "user write to a read-only page, WP = 0", user_write, 14, 7
  set_bits cr0, CR0_WP
  map PAGE + RW
  expect_user "user write to a user page", user_write, 3, 0
  mov byte [PAGE], 0xcc
  expect_user "user fetch from a user page", user_fetch, 3, 0
  expect "the breakpoint lies in that page", [exc_rip], PAGE + 1
  ; Rights are the conjunction over all levels: a supervisor PDE makes the user PTE of no use.
  and byte [PD0 + (PAGE >> 21) * 8], ~PTE_U
  mov rax, cr3
  mov cr3, rax
  expect_user "user read through a supervisor PDE", user_read, 14, 5
  or byte [PD0 + (PAGE >> 21) * 8], PTE_U
  and byte [PD0 + (PAGE >> 21) * 8], ~PTE_W
  mov rax, cr3
  mov cr3, rax
  expect_fault "write through a read-only PDE", 14, 3, mov [rbx], rax
  or byte [PD0 + (PAGE >> 21) * 8], PTE_W
  mov rax, cr3
  mov cr3, rax

  ; NX.
  mov byte [PAGE], 0xc3  ; RET
  map PAGE + RW
  expect_ok "call into a page without NX", call rbx
  mov dword [PTE + 4], 0x80000000
  invlpg [rbx]
  expect_ok "read of an NX page", mov rax, [rbx]
  try call rbx
  expect "fetch from an NX page: vector", [exc_vec], 14
  expect "fetch from an NX page: error code", [exc_err], 0x11
  expect_user "user fetch from an NX page", user_fetch, 14, 0x15
  map PAGE + RW
  mov dword [PD0 + (PAGE >> 21) * 8 + 4], 0x80000000
  mov rax, cr3
  mov cr3, rax
  try call rbx
  expect "fetch through an NX PDE: error code", [exc_err], 0x11
  mov dword [PD0 + (PAGE >> 21) * 8 + 4], 0
  ; Without NXE the bit is reserved.
  mov dword [PTE + 4], 0x80000000
  mov ecx, MSR_EFER
  rdmsr
  and eax, ~EFER_NXE
  wrmsr
  mov rax, cr3
  mov cr3, rax
  expect_fault "bit 63 with NXE = 0", 14, 9, mov rax, [rbx]
  expect_fault "bit 63 with NXE = 0, write", 14, 0xb, mov [rbx], rax
  map 0
  try call rbx
  expect "fetch from an absent page without NXE and SMEP: error code", [exc_err], 0
  mov ecx, MSR_EFER
  rdmsr
  or eax, EFER_NXE
  wrmsr

  ; Reserved bits. MAXPHYADDR from CPUID; bit 51 is reserved below 52.
  mov eax, 0x80000008
  cpuid
  mov ebx, PAGE
  cmp al, 52
  jae .no_high_reserved
  map PAGE + RW
  mov dword [PTE + 4], 1 << 19
  invlpg [rbx]
  expect_fault "reserved address bit in a PTE", 14, 9, mov rax, [rbx]
  expect_fault "reserved address bit in a PTE, write", 14, 0xb, mov [rbx], rax
  expect_user "reserved address bit in a PTE, user", user_read, 14, 0xd
  mov dword [PTE], 0
  invlpg [rbx]
  expect_fault "reserved bit in an absent PTE is no matter", 14, 0, mov rax, [rbx]
.no_high_reserved:
  map PAGE + RW
  or dword [PML4 + 8], PDPT + RW + PTE_PS  ; entry 1: 512 GiB up
  mov rdx, 1 << 39
  expect_fault "PS in a PML4 entry", 14, 9, mov rax, [rdx]
  mov dword [PML4 + 8], PDPT + RW
  mov rax, cr3
  mov cr3, rax
  expect_ok "the same without PS", mov rax, [rdx]
  mov dword [PD0 + 0x18], 0x600000 + PTE_PS + RW + (1 << 13)
  invlpg [0x600000]
  mov edx, 0x600000
  expect_fault "address bit 13 in a 2 MiB page", 14, 9, mov rax, [rdx]
  mov dword [PD0 + 0x18], 0x600000 + PTE_PS + RW
  invlpg [rdx]
  expect_ok "the same without bit 13", mov rax, [rdx]

  ; Accessed and dirty.
  map PAGE + RW
  mov al, [rbx]
  expect "a read sets A", [PTE], PAGE + RW + PTE_A
  mov [rbx], al
  expect "a write sets D", [PTE], PAGE + RW + PTE_A + PTE_D
  map PAGE + RW
  mov [rbx], al
  expect "a first write sets A and D", [PTE], PAGE + RW + PTE_A + PTE_D
  map PAGE + PTE_P
  expect_fault "write that faults", 14, 3, mov [rbx], al
  mov rax, [PTE]
  and eax, PTE_D
  expect "a write that faults leaves D", rax, 0
  map PAGE + RW + PTE_A
  and byte [PD0 + (PAGE >> 21) * 8], ~PTE_A
  and byte [PML4], ~PTE_A
  mov rax, cr3
  mov cr3, rax
  mov al, [rbx]
  mov rax, [PD0 + (PAGE >> 21) * 8]
  and eax, PTE_A + PTE_D
  expect "A of the PDE, and no D", rax, PTE_A
  mov rax, [PML4]
  and eax, PTE_A
  expect "A of the PML4 entry", rax, PTE_A
  mov dword [PD0 + 0x18], 0x600000 + PTE_PS + RW
  invlpg [rdx]
  mov [rdx], al
  mov rax, [PD0 + 0x18]
  expect "A and D of a 2 MiB page", rax, 0x600000 + PTE_PS + RW + PTE_A + PTE_D

  ; Two linear addresses of one page; INVLPG, MOV CR3 and global pages.
  map 0x7ff000 + RW
  mov dword [pte_of(ALIAS, T)], 0x7ff000 + RW
  invlpg [ALIAS]
  mov dword [PAGE + 8], 0x11223344
  mov eax, [ALIAS + 8]
  expect "alias", rax, 0x11223344
  mov dword [0x7fe008], 0x55667788
  mov dword [PTE], 0x7fe000 + RW
  invlpg [rbx]
  mov eax, [rbx + 8]
  expect "INVLPG makes the new mapping seen", rax, 0x55667788
  mov dword [PTE], 0x7ff000 + RW
  mov rax, cr3
  mov cr3, rax
  mov eax, [rbx + 8]
  expect "MOV CR3 makes the new mapping seen", rax, 0x11223344
  set_bits cr4, CR4_PGE
  map 0x7ff000 + RW + PTE_G
  mov eax, [rbx + 8]
  mov dword [PTE], 0x7fe000 + RW + PTE_G
  invlpg [rbx]
  mov eax, [rbx + 8]
  expect "INVLPG of a global page", rax, 0x55667788
  mov dword [PTE], 0x7ff000 + RW + PTE_G
  clear_bits cr4, CR4_PGE
  set_bits cr4, CR4_PGE
  mov eax, [rbx + 8]
  expect "toggling CR4.PGE flushes global pages", rax, 0x11223344
  clear_bits cr4, CR4_PGE
  map PAGE + RW
  ; A write to a page table through its own mapping.
  mov dword [T + 8 * 5], 0x7fe000 + RW
  invlpg [PAGE + 0x5000]
  mov eax, [PAGE + 0x5008]
  expect "page mapped by a write to the table", rax, 0x55667788

  ; 1 GiB pages.
  mov eax, 0x80000001
  cpuid
  mov ebx, PAGE
  mov dword [PDPT + 3 * 8 + 0x800], 0
  mov dword [PML4 + 16], T + 0x1000 + RW
  mov dword [T + 0x1000], PTE_PS + RW
  mov dword [T + 0x1004], 0
  mov dword [FREE + 0x40], 0xcafe1234
  mov rsi, 2 << 39
  test edx, 1 << 26
  jz .no_1g
  mov eax, [rsi + FREE + 0x40]
  expect "1 GiB page", rax, 0xcafe1234
  mov eax, [T + 0x1000]
  expect "A of a 1 GiB page", rax, PTE_PS + RW + PTE_A
  mov [rsi + FREE + 0x44], eax
  mov eax, [T + 0x1000]
  expect "D of a 1 GiB page", rax, PTE_PS + RW + PTE_A + PTE_D
  mov dword [T + 0x1000], PTE_PS + RW + (1 << 13)
  invlpg [rsi + FREE]
  expect_fault "address bit 13 in a 1 GiB page", 14, 9, mov rax, [rsi + FREE]
  jmp .canonical
.no_1g:
  expect_fault "PS in a PDPT entry without 1 GiB pages", 14, 9, mov rax, [rsi]

.canonical:
  mov rax, 0x0000800000000000
  expect_fault "non-canonical read", 13, 0, mov rcx, [rax]
  expect_fault "non-canonical write", 13, 0, mov [rax], rcx
  mov rbp, rax
  expect_fault "non-canonical read by RBP", 12, 0, mov rcx, [rbp]
  try jmp rax
  expect "jump to a non-canonical address", [exc_vec], 13
  mov rbp, 0xffff800000000000
  expect_fault "absent page in the upper half", 14, 0, mov rcx, [rbp]
  expect "CR2 in the upper half", [exc_cr2], rbp

  ; SMEP and SMAP: our own pages become supervisor pages first.
  mov eax, 7
  xor ecx, ecx
  cpuid
  mov r12d, ebx
  mov ebx, PAGE
  and byte [PD0], ~PTE_U
  mov rax, cr3
  mov cr3, rax
  map PAGE + RW
  mov byte [PAGE], 0xc3
  bt r12d, 7
  jnc .no_smep
  set_bits cr4, CR4_SMEP
  try call rbx
  expect "SMEP: fetch from a user page: vector", [exc_vec], 14
  expect "SMEP: fetch from a user page: error code", [exc_err], 0x11
  expect_ok "SMEP: read of a user page", mov rax, [rbx]
  map PAGE + PTE_P + PTE_W
  expect_ok "SMEP: fetch from a supervisor page", call rbx
  clear_bits cr4, CR4_SMEP
.no_smep:
  bt r12d, 20
  jnc .no_smap
  map PAGE + RW
  set_bits cr4, CR4_SMAP
  clac
  expect_fault "SMAP: read of a user page, AC = 0", 14, 1, mov rax, [rbx]
  expect_fault "SMAP: write to a user page, AC = 0", 14, 3, mov [rbx], rax
  stac
  expect_ok "SMAP: read of a user page, AC = 1", mov rax, [rbx]
  expect_ok "SMAP: write to a user page, AC = 1", mov [rbx], eax
  ; The processor's own accesses are never excused by AC: here a descriptor in a user page. (LDT, not GDT: the fault's
  ; handler
  ; needs the GDT.)
  set_descriptor SPARE, PAGE, 0xf, 0x82, 0
  mov dword [gdt + SPARE + 8], 0
  mov dword [gdt + SPARE + 12], 0
  mov rcx, [gdt + DATA]
  mov [rbx + 8], rcx
  mov eax, SPARE
  lldt ax
  mov eax, 0xc
  expect_fault "SMAP: descriptor in a user page, AC = 1", 14, 1, mov fs, ax
  map PAGE + PTE_P + PTE_W
  stac
  expect_ok "SMAP: descriptor in a supervisor page", mov fs, ax
  clac
  clear_bits cr4, CR4_SMAP
.no_smap:
  finish

user_read:
  mov rax, [rbx]
  int3
user_write:
  mov [rbx], rax
  int3
user_fetch:
  jmp rbx

GUEST_ROUTINES
