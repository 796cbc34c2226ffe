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
; Sends AL. DS: data area. Keeps all registers.
serial_send:
  push ax
  push cx
  push dx
  mov dx, [bda(0x400)]
  test dx, dx
  jz .end
  mov ah, al
  xor cx, cx
  add dx, 5
.wait:
  in al, dx
  test al, 0x20
  loopz .wait
  sub dx, 5
  mov al, ah
  out dx, al
.end:
  pop dx
  pop cx
  pop ax
  ret

; Prints AL and moves the cursor. DS: data area. Keeps all registers.
put_char:
  call serial_send
  push dx
  mov dx, [bda(0x450)]
  cmp al, 7
  je .end
  cmp al, 8
  je .back
  cmp al, 10
  je .line
  cmp al, 13
  je .return
  inc dl
  cmp dl, [bda(0x44a)]
  jb .set
  mov dl, 0
.line:
  cmp dh, [bda(0x484)]
  adc dh, 0                ; one down, unless it is the last line
  jmp .set
.back:
  sub dl, 1
  adc dl, 0
  jmp .set
.return:
  mov dl, 0
.set:
  mov [bda(0x450)], dx
.end:
  pop dx
  ret

; Prints the string at CS:SI. DS: data area.
put_string:
  cs lodsb
  test al, al
  jz .end
  call put_char
  jmp put_string
.end:
  ret

; Prints AX in hexadecimal.
put_hex:
  mov cx, 4
.next:
  rol ax, 4
  push ax
  and al, 15
  cmp al, 10
  sbb al, 0x69
  das
  call put_char
  pop ax
  loop .next
  ret

int_10:
  cld
  enter_handler
  cmp ah, 0x0e
  je .teletype
  cmp ah, 0x13
  je .string
  cmp ah, 0x02
  je .set_cursor
  cmp ah, 0x03
  je .get_cursor
  cmp ah, 0x0f
  je .get_mode
  cmp ah, 0x08
  je .read
  cmp ah, 0x01
  je .shape
  jmp .end                 ; modes, scrolling, colours: nothing that a serial port can do
.teletype:
  call put_char
  jmp .end
.set_cursor:
  mov [bda(0x450)], dx
  jmp .end
.get_cursor:
  mov dx, [bda(0x450)]
  mov cx, [bda(0x460)]
  jmp .end
.shape:
  mov [bda(0x460)], cx
  jmp .end
.get_mode:
  mov al, [bda(0x449)]
  mov ah, [bda(0x44a)]
  mov bh, 0
  jmp .end
.read:
  mov ax, 0x0720           ; a blank, light grey
  jmp .end
.string:                   ; AL bit 1: each character is followed by its attribute; bit 0: move the cursor. CX at ES:[BP]
  pusha
  push word [bda(0x450)]
  mov [bda(0x450)], dx
  mov si, [bp]             ; the caller's BP
  mov ah, al
  jcxz .string_end
.next:
  es lodsb
  call put_char
  test ah, 2
  jz .plain
  inc si
.plain:
  loop .next
.string_end:
  pop dx
  test ah, 1
  jnz .moved
  mov [bda(0x450)], dx
.moved:
  popa
.end:
  leave_handler

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
int_13:
  enter_handler
  cld
  cmp word [cs:disk + 4], 0
  jne .some
  cmp word [cs:disk + 6], 0
  je .fail
.some:
  cmp dl, [cs:disk_drive]
  jne .fail
  test ah, ah
  jz .good
  cmp ah, 0x01
  je .status
  cmp ah, 0x02
  je .read
  cmp ah, 0x04
  je .good
  cmp ah, 0x08
  je .geometry
  cmp ah, 0x15
  je .type
  cmp ah, 0x41
  je .extensions
  cmp ah, 0x42
  je .read_extended
  cmp ah, 0x48
  je .parameters
.fail:
  mov ah, 1                ; no such function, no such drive
.failed:
  mov [bda(0x441)], ah
  or caller_flags, 1
  leave_handler
.good:
  mov ah, 0
.ended:
  mov [bda(0x441)], ah
  and caller_flags, ~1
  leave_handler
.status:
  mov ah, [bda(0x441)]
  and caller_flags, ~1
  leave_handler
.type:
  mov ah, 3                ; a fixed disk of CX:DX sectors
  mov dx, [cs:disk + 4]
  mov cx, [cs:disk + 6]
  test byte [cs:disk_drive], 0x80
  jnz .type_end
  mov ah, 1                ; a floppy without change line
.type_end:
  and caller_flags, ~1
  leave_handler
.extensions:
  cmp bx, 0x55aa
  jne .fail
  mov bx, 0xaa55
  mov cx, 1                ; reading by packets
  mov ah, 0x21
  and caller_flags, ~1
  leave_handler
.parameters:
  push ds
  mov ds, [bp - 2]         ; the caller's
  cmp word [si], 26
  jb .parameters_bad
  push eax
  mov word [si], 26
  mov word [si + 2], 2     ; the geometry is valid
  xor eax, eax
  mov ax, [cs:disk_heads]
  mov [si + 8], eax
  mov ax, [cs:disk_sectors]
  mov [si + 12], eax
  push ecx
  push edx
  call cylinders
  mov [si + 4], eax
  pop edx
  pop ecx
  mov eax, [cs:disk + 4]
  mov [si + 16], eax
  mov dword [si + 20], 0
  mov word [si + 24], 512
  pop eax
  pop ds
  jmp .good
.parameters_bad:
  pop ds
  jmp .fail
.geometry:
  push eax
  call cylinders
  cmp eax, 1024
  jbe .fits
  mov ax, 1024
.fits:
  dec ax
  mov ch, al
  shl ah, 6
  mov cl, [cs:disk_sectors]
  or cl, ah
  pop eax
  mov dh, [cs:disk_heads]
  dec dh
  mov dl, 1                ; one drive
  mov bl, 4                ; 1.44M, if it is a floppy
  jmp .good
.read:                     ; AL sectors from cylinder CH and CL 7-6, sector CL 5-0, head DH, to ES:BX
  pushad
  mov bp, sp
  movzx ebx, bx
  movzx esi, al            ; count
  mov al, cl
  shr al, 6
  mov ah, al
  mov al, ch               ; cylinder
  push cx
  push dx
  mul word [cs:disk_heads]
  pop cx                   ; head in CH
  movzx cx, ch
  add ax, cx
  adc dx, 0
  push dx
  push ax
  pop eax
  movzx ecx, word [cs:disk_sectors]
  mul ecx
  pop cx
  and ecx, 0x3f
  jz .read_bad
  dec ecx
  add eax, ecx             ; the first sector
  mov ecx, esi
  call disk_read
  jc .read_bad
  popad
  jmp .good
.read_bad:
  mov sp, bp
  popad
  mov al, 0
  mov ah, 4                ; sector not found
  jmp .failed
.read_extended:            ; DS:SI: size, count, offset, segment, sector (64 bits)
  pushad
  push es
  mov bp, sp
  mov ds, [bp + 34]        ; the caller's
  cmp byte [si], 16
  jb .extended_bad
  cmp dword [si + 12], 0
  jne .extended_bad
  movzx ecx, word [si + 2]
  movzx ebx, word [si + 4]
  mov es, [si + 6]
  mov eax, [si + 8]
  call disk_read
  jc .extended_bad
  pop es
  popad
  push BDA
  pop ds
  jmp .good
.extended_bad:
  mov sp, bp
  pop es
  popad
  push BDA
  pop ds
  mov ah, 4
  jmp .failed

; EAX: how many cylinders the disk has, at least one. Clobbers ECX, EDX.
cylinders:
  movzx eax, word [cs:disk_heads]
  movzx ecx, word [cs:disk_sectors]
  mul ecx
  mov ecx, eax
  mov eax, [cs:disk + 4]
  xor edx, edx
  div ecx
  cmp eax, 1
  adc eax, 0
  ret

; Copies ECX sectors from sector EAX on to ES:BX. CF: they are not on the disk. Clobbers EAX, ECX, EDX, ESI, EDI.
disk_read:
  mov edx, eax
  add edx, ecx
  jc .bad
  cmp edx, [cs:disk + 4]
  ja .bad
  shl eax, 9
  add eax, [cs:disk]
  mov esi, eax
  mov di, es
  movzx edi, di
  shl edi, 4
  movzx ebx, bx
  add edi, ebx
  shl ecx, 8
  call copy_words
  clc
  ret
.bad:
  stc
  ret

; Copies ECX words from linear address ESI to EDI, wherever they are. Keeps the segment registers and GDTR; clobbers EAX, ECX,
; ESI, EDI.
copy_words:
  pushf
  push ds
  push es
  sub sp, 8
  push bp
  mov bp, sp
  sgdt [bp + 2]
  cli
  cld
  o32 lgdt [cs:gdt_pointer]
  mov eax, cr0
  or al, 1
  mov cr0, eax
  jmp 0x08:.protected
.protected:
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  a32 rep movsw
  mov ax, 0x18
  mov ds, ax
  mov es, ax
  mov eax, cr0
  and al, 0xfe
  mov cr0, eax
  jmp SEGMENT_BIOS:.real
.real:
  o32 lgdt [bp + 2]
  pop bp
  add sp, 8
  pop es
  pop ds
  popf
  ret

align 8
gdt:
  dq 0
  dq 0x00009b0f0000ffff    ; code: the BIOS segment
  dq 0x00cf93000000ffff    ; data: all of memory
  dq 0x000093000000ffff    ; data as real mode has it
gdt_pointer:
  dw $ - gdt - 1
  dd 0xf0000 + gdt

; ---- INT 15h: memory, A20, waiting.
int_15:
  cld
  enter_handler
  cmp ax, 0xe820
  je .map
  cmp ax, 0xe801
  je .large
  cmp ah, 0x88
  je .extended
  cmp ah, 0x87
  je .move
  cmp ah, 0x86
  je .wait
  cmp ah, 0xc0
  je .table
  cmp ah, 0x24
  je .a20
.unknown:
  mov ah, 0x86
.failed:
  or caller_flags, 1
  leave_handler
.good:
  mov ah, 0
.ended:
  and caller_flags, ~1
  leave_handler

.map:                      ; entry EBX to ES:DI, ECX bytes, EDX "SMAP"
  cmp edx, 'PAMS'
  jne .unknown
  cmp ecx, 20
  jb .unknown
  movzx eax, word [cs:memory_count]
  cmp ebx, eax
  jae .unknown
  push si
  push di
  imul si, bx, 20
  add si, memory_map
  mov cx, 10
  cs rep movsw
  pop di
  pop si
  mov ecx, 20
  inc ebx
  cmp ebx, eax
  jb .more
  xor ebx, ebx
.more:
  mov eax, 'PAMS'
  jmp .ended

.extended:                 ; AX: KiB, 63M at most
  mov ax, 0xfc00
  cmp dword [cs:extended], 0xfc00
  jae .extended_end
  mov ax, [cs:extended]
.extended_end:
  and caller_flags, ~1
  leave_handler
.large:                    ; AX, CX: KiB from 1M to 16M; BX, DX: 64 KiB blocks above 16M
  push eax
  mov eax, [cs:extended]
  mov bx, 0
  mov cx, ax
  sub eax, 0x3c00
  jb .below_16m
  shr eax, 6
  mov bx, ax
  mov cx, 0x3c00
.below_16m:
  pop eax
  mov ax, cx
  mov dx, bx
  and caller_flags, ~1
  leave_handler

.move:                     ; CX words by the descriptors at ES:SI + 10h (from) and + 18h (to)
  cmp cx, 0x8000
  ja .move_bad
  pushad
  movzx ecx, cx
  mov eax, [es:si + 0x12]
  and eax, 0xffffff
  mov edx, [es:si + 0x14]
  and edx, 0xff000000
  or eax, edx
  mov edi, [es:si + 0x1a]
  and edi, 0xffffff
  mov edx, [es:si + 0x1c]
  and edx, 0xff000000
  or edi, edx
  mov esi, eax
  call copy_words
  popad
  jmp .good
.move_bad:
  mov ah, 2
  jmp .failed

.wait:                     ; CX:DX microseconds, by the power management timer (3.579545 MHz)
  pushad
  push cx
  push dx
  pop eax
  mov ecx, 3666            ; 3.579545 * 1024, rounded up
  mul ecx
  shrd eax, edx, 10
  mov ecx, eax
  mov dx, 0x608
  in eax, dx
  mov ebx, eax
.tick:
  in eax, dx
  sub eax, ebx
  cmp eax, ecx
  jb .tick
  popad
  jmp .good

.table:                    ; ES:BX: what kind of machine
  push cs
  pop es
  mov bx, machine
  jmp .good

.a20:                      ; through the gate of port 92h, whose bit 1 it is
  cmp al, 3
  je .a20_how
  cmp al, 2
  je .a20_status
  ja .unknown
  push ax
  mov ah, al
  in al, 0x92
  and al, 0xfc
  add ah, ah
  or al, ah
  out 0x92, al
  pop ax
  jmp .good
.a20_status:
  in al, 0x92
  shr al, 1
  and al, 1
  jmp .good
.a20_how:
  mov bx, 2
  jmp .good

; ---- INT 16h: the keyboard, which is what comes in at COM1.
; Takes what has come into the buffer at 40:1E. DS: data area. Keeps all registers.
poll_keys:
  push ax
  push bx
  push dx
.again:
  mov dx, [bda(0x400)]
  test dx, dx
  jz .end
  mov bx, [bda(0x41c)]
  add bx, 2
  cmp bx, [bda(0x482)]
  jb .no_wrap
  mov bx, [bda(0x480)]
.no_wrap:
  cmp bx, [bda(0x41a)]
  je .end                  ; full
  add dx, 5
  in al, dx
  test al, 1
  jz .end
  sub dx, 5
  in al, dx
  call key
  xchg bx, [bda(0x41c)]
  mov [bx], ax
  jmp .again
.end:
  pop dx
  pop bx
  pop ax
  ret

; AX: scan code and character of the byte AL. Those that are letters have no scan code.
key:
  mov ah, 0
  cmp al, 10
  je .enter
  cmp al, 13
  je .enter
  cmp al, 27
  je .escape
  cmp al, 9
  je .tab
  cmp al, 32
  je .space
  cmp al, 8
  je .back
  cmp al, 127
  je .back
  ret
.enter:
  mov ax, 0x1c0d
  ret
.escape:
  mov ah, 0x01
  ret
.tab:
  mov ah, 0x0f
  ret
.space:
  mov ah, 0x39
  ret
.back:
  mov ax, 0x0e08
  ret

int_16:
  cld
  enter_handler
  cmp ah, 0x02
  je .shift
  cmp ah, 0x12
  je .shift
  cmp ah, 0x05
  je .store
  push ax
  and ah, 0xef             ; the same for enhanced keyboards: 10, 11
  cmp ah, 0x01
  pop ax
  je .look
  test ah, 0xef
  jz .get
  leave_handler
.shift:
  mov al, [bda(0x417)]
  leave_handler
.store:
  mov al, 1                ; the buffer is full
  leave_handler
.look:
  call poll_keys
  and caller_flags, ~0x40
  push bx
  mov bx, [bda(0x41a)]
  cmp bx, [bda(0x41c)]
  je .none
  mov ax, [bx]
  pop bx
  leave_handler
.none:
  pop bx
  or caller_flags, 0x40    ; ZF: no key
  leave_handler
.get:
  push bx
.wait:
  call poll_keys
  mov bx, [bda(0x41a)]
  cmp bx, [bda(0x41c)]
  jne .there
  in al, 0x21
  test al, 1
  jnz .wait                ; the timer does not interrupt: look again at once
  sti
  hlt
  cli
  jmp .wait
.there:
  mov ax, [bx]
  add bx, 2
  cmp bx, [bda(0x482)]
  jb .get_end
  mov bx, [bda(0x480)]
.get_end:
  mov [bda(0x41a)], bx
  pop bx
  leave_handler

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
