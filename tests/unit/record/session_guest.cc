#include "tests/unit/record/session_guest.h"

// Loaded at 0x100000; its interrupt table is at 0x180000, a count of timer ticks at 0x190000, and 256 pages that it changes
// from 0x200000 on. Its own addresses are written as distances from its begin, so that the linker has nothing to relocate.
asm(R"(
        .section .rodata
        .intel_syntax noprefix
        .code32
rv_session_guest_begin:
        mov esp, 0x9f000
        mov edi, 0x180100              # the gate of vector 0x20
        .att_syntax prefix
        movl $(rv_session_guest_tick - rv_session_guest_begin + 0x100000), %eax
        .intel_syntax noprefix
        mov word ptr [edi], ax
        mov word ptr [edi + 2], cs
        mov word ptr [edi + 4], 0x8e00
        shr eax, 16
        mov word ptr [edi + 6], ax
        mov word ptr [0x9f100], 0x7ff
        mov dword ptr [0x9f102], 0x180000
        lidt [0x9f100]
        mov al, 0x11                    # 8259: vectors from 0x20, only line 0 open
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, 0xfe
        out 0x21, al
        mov al, 0x34                    # 8254 counter 0: mode 2, about 4 kHz
        out 0x43, al
        mov al, 0x2c
        out 0x40, al
        mov al, 1
        out 0x40, al
        sti
1:      inc ecx
        rdtsc
        add ebx, eax
        rdrand eax
        xor ebx, eax
        mov eax, ecx                    # a word of one page in 256, then of the next
        and eax, 0xff
        shl eax, 12
        add dword ptr [eax + 0x200000], ebx
        mov edx, 0x3fd                  # line status of the serial port: a byte is there
        in al, dx
        test al, 1
        jz 2f
        mov edx, 0x3f8
        in al, dx
        cmp al, 0x71                    # 'q'
        je 4f
        cmp al, 0x68                    # 'h'
        je 5f
        cmp al, 0x74                    # 't'
        je 6f
        out dx, al
        movzx eax, al
        imul ebx, eax
2:      test ecx, 0x3ff
        jnz 1b
        hlt
        jmp 1b
4:      mov al, 1
        out 0xf4, al
        jmp 1b
5:      mov al, 0x30                    # 8254 counter 0: mode 0, so that it comes to an end
        out 0x43, al
        mov al, 1
        out 0x40, al
        out 0x40, al
        cli
7:      hlt
        jmp 7b
6:      mov word ptr [0x9f100], 0
        lidt [0x9f100]
        ud2
rv_session_guest_tick:
        push eax
        inc dword ptr [0x190000]
        mov al, 0x20
        out 0x20, al
        pop eax
        iretd
rv_session_guest_end:
        .code64
        .att_syntax prefix
        .text
)");

extern "C" const uint8_t rv_session_guest_begin[];
extern "C" const uint8_t rv_session_guest_end[];

namespace retrovisor {

std::vector<uint8_t> session_guest() { return {rv_session_guest_begin, rv_session_guest_end}; }

}  // namespace retrovisor
