; Page tables changed without INVLPG or a load of CR3. A real CPU may notice or not; here every access behaves as if it walked
; the tables, so that no run depends on what a TLB happens to hold.
%include "lib/guest.inc"
%include "lib/modes.inc"

T     equ PAGE_TABLES + 0x20000  ; table for the 2 MiB from PAGE on
PD2   equ PAGE_TABLES + 0x30000  ; another page directory
TOP2  equ PAGE_TABLES + 0x31000  ; another top-level table
PAGE  equ 0x400000
OTHER equ 0x401000
PTE   equ pte_of(PAGE, T)
RW    equ PTE_P + PTE_W + PTE_U

; entry ADDRESS: RAX becomes the table entry there.
%macro entry 1
  mov rax, [%1]
%endmacro

GUEST
  start_long
  split_2m PAGE, T
  mov ecx, MSR_EFER
  rdmsr
  or eax, EFER_NXE
  wrmsr
  set_bits cr0, CR0_WP
  mov ebx, PAGE
  mov dword [PAGE], 0x1111
  mov dword [OTHER], 0x2222

  ; Another page at once, in the same block.
  mov ecx, [rbx]
  mov dword [PTE], OTHER + RW
  mov edx, [rbx]
  expect "before", rcx, 0x1111
  expect "after the entry has changed", rdx, 0x2222
  mov eax, PAGE + RW
  xchg [PTE], eax
  mov edx, [rbx]
  expect "after an exchange", rdx, 0x1111
  lock and dword [PTE], ~PTE_P
  expect_fault "read of a page just unmapped", 14, 0, mov rax, [rbx]
  mov dword [PTE], PAGE + RW
  expect_ok "read of a page just mapped", mov rax, [rbx]

  ; A and D come back when they were cleared.
  mov [rbx], ecx
  entry PTE
  and eax, PTE_A + PTE_D
  expect "A and D after a write", rax, PTE_A + PTE_D
  mov dword [PTE], PAGE + RW
  mov eax, [rbx]
  entry PTE
  and eax, PTE_A + PTE_D
  expect "A after a read", rax, PTE_A
  mov [rbx], ecx
  entry PTE
  and eax, PTE_A + PTE_D
  expect "D after a write", rax, PTE_A + PTE_D
  and byte [PTE], ~PTE_D
  mov [rbx], ecx
  entry PTE
  and eax, PTE_A + PTE_D
  expect "D after it was cleared alone", rax, PTE_A + PTE_D
  and byte [PD0 + (PAGE >> 21) * 8], ~PTE_A
  mov eax, [rbx]
  entry PD0 + (PAGE >> 21) * 8
  and eax, PTE_A
  expect "A of a directory entry", rax, PTE_A

  ; Rights taken away.
  and byte [PTE], ~PTE_W
  expect_fault "write to a page just made read-only", 14, 3, mov [rbx], rax
  or byte [PTE], PTE_W
  expect_ok "write to a page just made writable", mov [rbx], rax
  and byte [PD0 + (PAGE >> 21) * 8], ~PTE_W
  expect_fault "write through a directory entry just made read-only", 14, 3, mov [rbx], rax
  or byte [PD0 + (PAGE >> 21) * 8], PTE_W

  ; An entry that the instruction writes in two parts, and a string operation over many.
  mov dword [OTHER], 0x2222
  mov dword [PAGE], 0x1111
  mov eax, [rbx]
  mov rax, (OTHER + RW) >> 8
  mov byte [PTE], RW
  mov [PTE + 1], rax  ; reaches into the next entry: put that right again
  mov dword [PTE + 8], OTHER + RW
  mov dword [PTE + 12], 0
  mov eax, [rbx]
  expect "after a write at an odd address", rax, 0x2222
  mov edi, T
  mov ecx, 512
  mov eax, PAGE + RW
.fill:
  mov [rdi], rax
  add rdi, 8
  loop .fill
  mov eax, [rbx + 0x1ff000]
  expect "a table all of whose entries are one page", rax, 0x1111
  mov esi, T
  mov edi, T + 8
  mov ecx, 511
  mov qword [T], OTHER + RW
  rep movsq
  mov eax, [rbx + 0x1ff000]
  expect "after a string operation over the table", rax, 0x2222

  ; Code: the page that runs is exchanged under its feet. Both pages hold the same but for one constant.
  mov qword [T], PAGE + RW
  mov qword [T + 8], OTHER + RW
  mov edi, PAGE
  mov esi, code
  mov ecx, code.end - code
  rep movsb
  mov edi, OTHER
  mov esi, code
  mov ecx, code.end - code
  rep movsb
  mov dword [OTHER + code.constant - code], 0x2222
  mov r8d, OTHER + RW
  call rbx
  expect "code of the page just mapped", rax, 0x2222
  mov r8d, PAGE + RW
  call rbx
  expect "code of the page mapped back", rax, 0x1111
  mov rax, (1 << 63) | (PAGE + RW)
  mov [PTE], rax
  try call rbx
  expect "fetch from a page just made NX: error code", [exc_err], 0x11
  mov qword [PTE], PAGE + RW

  ; Another directory, through the entry above it; another top-level table, through CR3.
  mov edi, PD2
  mov esi, PD0
  mov ecx, 512
  rep movsq
  mov dword [PD2 + (PAGE >> 21) * 8], 0x600000 + RW + PTE_PS
  mov dword [0x600000], 0x6666
  mov dword [PAGE], 0x1111
  mov eax, [rbx]
  mov dword [PDPT], PD2 + RW
  mov eax, [rbx]
  expect "after the entry of a page directory has changed", rax, 0x6666
  mov dword [PDPT], PD0 + RW
  mov eax, [rbx]
  expect "and back", rax, 0x1111
  ; The upper half: entry 511 of the top-level table maps what entry 0 does, as global pages.
  set_bits cr4, CR4_PGE
  or dword [PD0 + (PAGE >> 21) * 8], PTE_G
  mov eax, [PML4]
  mov [PML4 + 511 * 8], eax
  mov edi, TOP2
  mov esi, PML4
  mov ecx, 512
  rep movsq
  mov rdx, 0xffffff8000000000 + PAGE
  mov eax, [rdx]
  expect "through the upper half", rax, 0x1111
  mov eax, TOP2
  mov cr3, rax
  mov eax, [rdx]
  expect "through the upper half of another table", rax, 0x1111
  mov dword [TOP2 + 511 * 8], 0
  expect_fault "the other table's entry is gone", 14, 0, mov rax, [rdx]
  mov eax, PML4
  mov cr3, rax
  mov eax, [rdx]
  expect "the first table still has it", rax, 0x1111
  mov eax, TOP2
  mov cr3, rax
  expect_fault "which the other does not", 14, 0, mov rax, [rdx]
  mov eax, PML4
  mov cr3, rax

  finish

; Exchanges the page it lies in: the entry becomes R8.
code:
  mov [PTE], r8
  db 0xb8
.constant:
  dd 0x1111  ; mov eax, 0x1111
  ret
.end:

GUEST_ROUTINES
