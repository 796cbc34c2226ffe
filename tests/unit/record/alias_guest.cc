#include "tests/unit/record/alias_guest.h"

asm(R"(
        .section .rodata
        .intel_syntax noprefix
        .code32
rv_alias_guest_begin:
        mov esp, 0x9f000
        cld
        mov edi, 0x300000               # directory, its tables, the second directory and its table: 5 pages
        xor eax, eax
        mov ecx, 0x1400
        rep stosd
        mov dword ptr [0x300000], 0x301003
        mov dword ptr [0x300004], 0x302003
        mov dword ptr [0x303000], 0x301003
        mov dword ptr [0x303004], 0x304003
        mov edi, 0x301000
        mov eax, 3
1:      stosd
        add eax, 0x1000
        cmp eax, 0x400003
        jb 1b
        mov edi, 0x302000               # the first address space
        call rv_alias_guest_map
        mov edi, 0x304000               # the second
        call rv_alias_guest_map
        mov dword ptr [0x304000], 0x205003
        mov eax, 0x300000
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000001
        mov cr0, eax
        mov eax, cr4
        or eax, 0x200                   # OSFXSR
        mov cr4, eax

        mov dword ptr [0x400f00], 0x11111111
        nop
        mov dword ptr [0x401f00], 0x22222222
        nop
        mov dword ptr [0x200f00], 0x33333333
        nop
        mov dword ptr [0x400f10], 0x44444444
        mov eax, 0x303000
        mov cr3, eax
        mov dword ptr [0x400f10], 0x55555555
        mov eax, 0x300000
        mov cr3, eax
        mov ebx, 1
        mov ebp, 1500
2:      imul ebx, ebx, 1103515245
        add ebx, 12345
        mov esi, ebx
        shr esi, 8
        mov edx, ebx
        shr edx, 28
        and esi, 0x30ff                 # around the ends of the pages, and behind the bytes at 0xf00
        add esi, 0xf80
        lea edi, [esi + 0x400000]
        cmp edx, 1
        je 11f
        cmp edx, 2
        je 12f
        cmp edx, 3
        je 13f
        cmp edx, 4
        je 14f
        cmp edx, 5
        je 15f
        cmp edx, 6
        je 16f
        cmp edx, 7
        je 17f
        cmp edx, 8
        je 18f
        cmp edx, 9
        je 19f
        mov dword ptr [edi], ebx        # may go across pages
        jmp 9f
11:     add byte ptr [edi], 1
        jmp 9f
12:     mov ecx, 5
        mov eax, ebx
        rep stosb
        jmp 9f
13:     lea esp, [edi + 0x10]           # 32 bytes
        pushad
        mov esp, 0x9f000
        jmp 9f
14:     mov eax, [edi]                  # stores what is there
        lock cmpxchg [edi], eax
        jmp 9f
15:     mov eax, cr3                    # the other address space
        xor eax, 0x3000
        mov cr3, eax
        jmp 9f
16:     xor dword ptr [0x302008], 0x7000   # B, or D
        xor dword ptr [0x304008], 0x7000
        invlpg [0x402000]
        jmp 9f
17:     mov dword ptr [esi + 0x200000], ebx
        jmp 9f
18:     and dword ptr [0x302000], 0xffffff9f   # A and D
        and dword ptr [0x304008], 0xffffff9f
        invlpg [0x400000]
        invlpg [0x402000]
        jmp 9f
19:     and edi, 0xfffff7f0             # 512 bytes
        fxsave [edi]
9:      dec ebp
        jnz 2b
        mov al, 1
        out 0xf4, al
        hlt
rv_alias_guest_map:
        mov dword ptr [edi], 0x200003
        mov dword ptr [edi + 4], 0x200003
        mov dword ptr [edi + 8], 0x201003
        mov dword ptr [edi + 12], 0x202003
        mov dword ptr [edi + 16], 0x200003
        ret
rv_alias_guest_end:
        .code64
        .att_syntax prefix
        .text
)");

extern "C" const uint8_t rv_alias_guest_begin[];
extern "C" const uint8_t rv_alias_guest_end[];

namespace retrovisor {

std::vector<uint8_t> alias_guest() { return {rv_alias_guest_begin, rv_alias_guest_end}; }

}  // namespace retrovisor
