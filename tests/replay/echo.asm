; A guest that lives on interrupts and input: the timer ticks at 100 Hz, the serial port interrupts for every byte; between
; interrupts it sleeps. What it computes depends on everything that differs from run to run: at which instruction interrupts
; land, the time stamp counter, the clock, and what is typed. It echoes each byte with a digit of that state.
; 'Q' ends it through the debug-exit port with code 1 ((0 << 1) | 1); 'P' prints a line like a panicking kernel's; 'T'
; triple-faults; 'B' begins to compute without ever sleeping again; 'H' halts for ever.
; A flat binary for --flat-address 0x100000 --flat-mode protected32.
        bits 32
        org 0x100000

%define PIC1 0x20
%define PIC2 0xa0
%define COM1 0x3f8
TABLE   equ 0x200000            ; 64 KiB of memory that every tick changes
TABLE_SIZE equ 0x10000

start:
        mov     esp, 0x9f000
        ; interrupt table: every vector to `ignore`, then the two that matter
        mov     edi, idt
        mov     ecx, 256
.fill:  mov     eax, ignore
        call    gate
        loop    .fill
        mov     edi, idt + 0x20 * 8
        mov     eax, timer
        call    gate
        mov     edi, idt + 0x24 * 8
        mov     eax, serial
        call    gate
        lidt    [idt_register]
        ; local APIC: on, its LINT0 passes the 8259s' interrupts on (SDM 3A 11.5.1; what a PC's firmware does)
        mov     dword [0xfee000f0], 0x1ff
        mov     dword [0xfee00350], 0x700
        ; 8259s: vectors 0x20 and 0x28, only IRQ 0 and 4 open
        mov     al, 0x11
        out     PIC1, al
        out     PIC2, al
        mov     al, 0x20
        out     PIC1 + 1, al
        mov     al, 0x28
        out     PIC2 + 1, al
        mov     al, 4
        out     PIC1 + 1, al
        mov     al, 2
        out     PIC2 + 1, al
        mov     al, 1
        out     PIC1 + 1, al
        out     PIC2 + 1, al
        mov     al, 0xee
        out     PIC1 + 1, al
        mov     al, 0xff
        out     PIC2 + 1, al
        ; 8254 counter 0, mode 2, 100 Hz
        mov     al, 0x34
        out     0x43, al
        mov     al, 11932 & 0xff
        out     0x40, al
        mov     al, 11932 >> 8
        out     0x40, al
        ; 16550: FIFO on, interrupt for received bytes, OUT2 lets it through
        mov     dx, COM1 + 2
        mov     al, 7
        out     dx, al
        mov     dx, COM1 + 4
        mov     al, 0x0b
        out     dx, al
        mov     dx, COM1 + 1
        mov     al, 1
        out     dx, al
        ; the clock goes into the state
        mov     al, 0
        out     0x70, al
        in      al, 0x71
        call    mix
        mov     esi, ready
        call    print

main:   sti
        hlt
        cli
        call    work
        jmp     main

; Changes some of the table, 32 entries for each count of the state's low byte, and folds the time stamp counter in.
work:   rdtsc
        xor     eax, [state]
        mov     ebx, eax
        movzx   ecx, al
        inc     ecx
        shl     ecx, 5
.next:  imul    ebx, ebx, 1664525
        add     ebx, 1013904223
        mov     edx, ebx
        shr     edx, 16
        add     [TABLE + edx], bl
        adc     byte [TABLE + edx], 0
        loop    .next
        mov     al, bl
        call    mix
        ret

; state = rotate(state, 5) * 33 + al
mix:    push    eax
        movzx   eax, al
        push    ebx
        mov     ebx, [state]
        rol     ebx, 5
        imul    ebx, ebx, 33
        add     ebx, eax
        mov     [state], ebx
        pop     ebx
        pop     eax
        ret

timer:  push    eax
        inc     dword [ticks]
        mov     al, 0xa5
        call    mix
        mov     al, 0x20
        out     PIC1, al
        pop     eax
        iret

serial: pusha
.again: mov     dx, COM1 + 5
        in      al, dx
        test    al, 1
        jz      .done
        mov     dx, COM1
        in      al, dx
        call    mix
        cmp     al, 'Q'
        je      quit
        cmp     al, 'P'
        je      panic
        cmp     al, 'T'
        je      triple
        cmp     al, 'B'
        je      burn
        cmp     al, 'H'
        je      halt
        call    put
        mov     eax, [state]
        call    digit
        jmp     .again
.done:  mov     al, 0x20
        out     PIC1, al
        popa
        iret

ignore: push    eax
        mov     al, 0x20
        out     PIC2, al
        out     PIC1, al
        pop     eax
        iret

quit:   mov     esi, bye
        call    print
        mov     ecx, 8
.hex:   rol     dword [state], 4
        mov     eax, [state]
        call    digit
        loop    .hex
        mov     al, 10
        call    put
        mov     al, 0
        out     0xf4, al
.gone:  jmp     .gone

panic:  mov     esi, panicked
        call    print
.gone:  hlt
        jmp     .gone

triple: lidt    [no_idt]
        int3

burn:   mov     al, 0x20
        out     PIC1, al
        sti
.on:    call    work
        jmp     .on

halt:   mov     al, 0x30        ; counter 0, mode 0, no count: the timer is silent too
        out     0x43, al
        cli
.gone:  hlt
        jmp     .gone

; al to the serial port
put:    push    edx
        push    eax
        mov     dx, COM1 + 5
.wait:  in      al, dx
        test    al, 0x20
        jz      .wait
        pop     eax
        mov     dx, COM1
        out     dx, al
        pop     edx
        ret

; low four bits of al as a hexadecimal digit
digit:  and     eax, 15
        mov     al, [digits + eax]
        jmp     put

print:  lodsb
        test    al, al
        jz      .end
        call    put
        jmp     print
.end:   ret

; gate at edi for handler eax; edi moves on
gate:   mov     [edi], ax
        mov     [edi + 2], cs
        mov     word [edi + 4], 0x8e00
        push    eax
        shr     eax, 16
        mov     [edi + 6], ax
        pop     eax
        add     edi, 8
        ret

digits: db      "0123456789abcdef"
ready:  db      "ready> ", 0
bye:    db      10, "bye ", 0
panicked: db    10, "---[ end Kernel panic - not syncing: the user typed P ]---", 10, 0
        align 8
idt_register: dw 256 * 8 - 1
        dd      idt
no_idt: dw      0
        dd      0
        align 8
state:  dd      0x12345678
ticks:  dd      0
idt:    times 256 * 8 db 0
