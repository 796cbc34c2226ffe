; BIOS services for real-mode code: what boot sectors and the real-mode parts of kernels and hypervisors ask firmware for.
; Assembled at build time; vmm/boot/bios.cc writes it to F000:E000 and fills the interrupt vectors. The screen is the serial port
; and so is the keyboard. Numbers and registers: Ralf Brown's Interrupt List; IBM PC/AT Technical Reference; ACPI 6.5, 15.
; A change of these bytes is a change of the machine model.
bits 16
cpu 686
org 0xe000

SEGMENT_BIOS equ 0xf000
BDA          equ 0x40
%define bda(address) ((address) - 0x400)
TICKS_A_DAY  equ 0x1800b0
MAX_MEMORY   equ 8         ; entries of the memory map
TIMER_HZ     equ 1193182

; What the loader reads and fills in: struct BiosHeader in bios.cc.
header:
  dw start, vectors, memory_count, memory_map, extended, start_at, disk
extended: dd 0                          ; KiB of memory from 1M on
memory_count: dw 0
memory_map: times MAX_MEMORY * 20 db 0  ; as E820h gives them
; Where `start` goes: IP, CS, flags, SP, the data and stack segments, DX.
start_at: dw 0, 0, 0, 0, 0, 0
; A disk in memory: address, sectors, sectors a track, heads, drive number; no sectors: none.
disk: dd 0, 0
disk_sectors: dw 0
disk_heads: dw 0
disk_drive: dw 0

; Offsets of the handlers of vectors 0 to 7f. Others, and those that are programs' own (60 to 67), stay empty.
vectors:
  dw fault_0, done, done, done, done, done, fault_6, fault_7
  dw irq_0, irq_master, irq_master, irq_b, irq_c, irq_d, irq_master, irq_7
  dw int_10, int_11, int_12, int_13, int_14, int_15, int_16, int_17
  dw int_18, int_19, int_1a, done, done, 0, 0, 0
  times 0x40 dw done
  times 8 dw 0
  times 8 dw done
  times 8 dw irq_slave
  times 8 dw done
vectors_end:
%if vectors_end - vectors != 0x100
%error "128 vectors"
%endif

%macro outb 2
  mov al, %2
  out %1, al
%endmacro
; Handlers begin with `enter_handler`: BP points at the caller's BP, IP, CS and flags; DS at the data area.
%macro enter_handler 0
  push bp
  mov bp, sp
  push ds
  push BDA
  pop ds
%endmacro
%define caller_flags byte [bp + 6]
%macro leave_handler 0
  pop ds
  pop bp
  iret
%endmacro

; ---- Start: the devices as firmware leaves them, then the guest.
start:
  jmp SEGMENT_BIOS:.here
.here:
  cli
  cld
  mov ss, [cs:start_at + 8]
  mov sp, [cs:start_at + 6]
  push BDA
  pop ds
  ; The interrupt controllers: vectors 08 and 70, only the timer enabled.
  outb 0x20, 0x11
  outb 0xa0, 0x11
  outb 0x21, 0x08
  outb 0xa1, 0x70
  outb 0x21, 0x04
  outb 0xa1, 0x02
  outb 0x21, 0x01
  outb 0xa1, 0x01
  outb 0x21, 0xfa
  outb 0xa1, 0xff
  ; The timer: counter 0, rate generator, 65536: 18.2 times a second.
  outb 0x43, 0x34
  xor al, al
  out 0x40, al
  out 0x40, al
  ; COM1: 115200 8N1, no interrupts, DTR and RTS.
  mov dx, [bda(0x400)]
  call serial_setup
  ; Ticks since midnight by the clock: seconds * TIMER_HZ / 65536.
  mov al, 4
  call cmos_number
  imul ecx, eax, 3600
  mov al, 2
  call cmos_number
  imul eax, eax, 60
  add ecx, eax
  xor al, al
  call cmos_number
  add eax, ecx
  mov ecx, TIMER_HZ
  mul ecx
  shrd eax, edx, 16
  mov [bda(0x46c)], eax
  ; Off: through IRET, with cleared registers.
  push word [cs:start_at + 4]
  push word [cs:start_at + 2]
  push word [cs:start_at]
  mov ax, [cs:start_at + 8]
  mov ds, ax
  mov es, ax
  mov fs, ax
  mov gs, ax
  xor eax, eax
  xor ebx, ebx
  xor ecx, ecx
  xor edx, edx
  xor esi, esi
  xor edi, edi
  xor ebp, ebp
  mov dx, [cs:start_at + 10]
  iret

; EAX: the number that CMOS register AL holds in BCD.
cmos_number:
  call cmos_read
  mov dl, al
  and dl, 15
  shr al, 4
  mov ah, 10
  mul ah
  add al, dl
  movzx eax, al
  ret

cmos_read:
  out 0x70, al
  in al, 0x71
  ret

; The clock does not change under the reader's hands: wait until no update is in progress.
clock_wait:
  push cx
  mov cx, 0xffff
.again:
  mov al, 0x0a
  call cmos_read
  test al, 0x80
  loopnz .again
  pop cx
  ret

serial_setup:
  add dx, 3
  outb dx, 0x80
  sub dx, 3
  outb dx, 1
  inc dx
  outb dx, 0
  add dx, 2
  outb dx, 3
  inc dx
  outb dx, 3
  sub dx, 3
  outb dx, 0
  ret

; ---- The screen, which is COM1.
%include "bios_screen.inc"

; ---- Small questions.
int_11:
  push ds
  push BDA
  pop ds
  mov ax, [bda(0x410)]
  pop ds
  iret

int_12:
  push ds
  push BDA
  pop ds
  mov ax, [bda(0x413)]
  pop ds
  iret

int_14:
int_17:
  mov ah, 0x80             ; timed out: there is neither a serial service nor a printer
done:
  iret

int_18:
int_19:
  push cs
  pop ss
  mov sp, stack_none
  push BDA
  pop ds
  mov si, text_nothing
  jmp stop

; ---- INT 13h: a disk in memory, if there is one.
%include "bios_disk.inc"

; ---- INT 15h: memory, A20, waiting.
%include "bios_memory.inc"

; ---- INT 16h: the keyboard, which is what comes in at COM1.
%include "bios_keys.inc"

; ---- INT 1Ah: time.
int_1a:
  enter_handler
  cmp ah, 0x00
  je .ticks
  cmp ah, 0x01
  je .set_ticks
  cmp ah, 0x02
  je .time
  cmp ah, 0x04
  je .date
  or caller_flags, 1
  leave_handler
.ticks:
  mov dx, [bda(0x46c)]
  mov cx, [bda(0x46e)]
  mov al, 0
  xchg al, [bda(0x470)]    ; midnight has passed
  mov ah, 0
  jmp .good
.set_ticks:
  mov [bda(0x46c)], dx
  mov [bda(0x46e)], cx
  mov byte [bda(0x470)], 0
  mov ah, 0
  jmp .good
.time:                     ; CH hours, CL minutes, DH seconds, in BCD
  push ax
  call clock_wait
  mov al, 4
  call cmos_read
  mov ch, al
  mov al, 2
  call cmos_read
  mov cl, al
  mov al, 0
  call cmos_read
  mov dh, al
  mov dl, 0
  pop ax
  jmp .good
.date:                     ; CX year, DH month, DL day, in BCD
  push ax
  call clock_wait
  mov al, 0x32
  call cmos_read
  mov ch, al
  mov al, 9
  call cmos_read
  mov cl, al
  mov al, 8
  call cmos_read
  mov dh, al
  mov al, 7
  call cmos_read
  mov dl, al
  pop ax
.good:
  and caller_flags, ~1
  leave_handler

; ---- Interrupts of devices, and exceptions.
irq_0:
  push ds
  push eax
  push BDA
  pop ds
  mov eax, [bda(0x46c)]
  inc eax
  cmp eax, TICKS_A_DAY
  jb .today
  xor eax, eax
  mov byte [bda(0x470)], 1
.today:
  mov [bda(0x46c)], eax
  int 0x1c
  outb 0x20, 0x20
  pop eax
  pop ds
  iret

irq_slave:
  push ax
  outb 0xa0, 0x20
  jmp irq_master.end
irq_master:
  push ax
.end:
  outb 0x20, 0x20
  pop ax
  iret
irq_7:                     ; spurious, unless it is in service
  push ax
  outb 0x20, 0x0b
  in al, 0x20
  test al, 0x80
  jnz irq_master.end
  pop ax
  iret

; Vectors that exceptions share with interrupt lines: it is one if the line is in service.
%macro irq_or_fault 2
  push ax
  outb 0x20, 0x0b
  in al, 0x20
  test al, 1 << (%1 - 8)
  jnz irq_master.end
  pop ax
  push %2
  jmp fault
%endmacro
irq_b: irq_or_fault 0xb, 0x0b
irq_c: irq_or_fault 0xc, 0x0c
irq_d: irq_or_fault 0xd, 0x0d

; Going on behind these would only repeat them.
fault_0:
  push 0
  jmp fault
fault_6:
  push 6
  jmp fault
fault_7:
  push 7
fault:
  mov bp, sp
  push BDA
  pop ds
  cld
  mov si, text_exception
  call put_string
  mov ax, [bp]
  call put_hex
  mov si, text_at
  call put_string
  mov ax, [bp + 4]
  call put_hex
  mov al, ':'
  call put_char
  mov ax, [bp + 2]
  call put_hex
  mov si, text_end
stop:
  cld
  call put_string
.halt:
  cli
  hlt
  jmp .halt

text_exception: db 13, 10, "BIOS: exception ", 0
text_at:        db " at ", 0
text_end:       db ": stopped", 13, 10, 0
text_nothing:   db 13, 10, "BIOS: nothing more to boot from: stopped", 13, 10, 0

; What INT 15h, C0h gives: size, model, submodel, revision, features (a clock, a second interrupt controller).
machine: dw 8
  db 0xfc, 0, 0, 0x60, 0, 0, 0, 0

; A stack for those who need one and may not trust the caller's: the segment is RAM.
align 2
  times 128 db 0
stack_none:

reset:
  mov dx, 0xcf9
  outb dx, 0x06
.halt:
  cli
  hlt
  jmp .halt

; ---- Where processors start, the date, the model (IBM PC/AT Technical Reference).
  times 0xfff0 - 0xe000 - ($ - $$) db 0
  jmp SEGMENT_BIOS:reset
  db "01/01/26", 0
  db 0xfc, 0
