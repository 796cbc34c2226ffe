; What the BIOS answers to a program that it has started from a disk. Source: Ralf Brown's Interrupt List.
; load: kernel
; console: ^Ab\r\nstring\r\n[^]*PASS
; input: xy
%include "lib/guest.inc"
BUFFER equ 0x20000         ; here and from 1 MiB on

; The first sector reads the others, one after the other until there is none.
  mov [boot_drive], dl
  mov word [sector], 2
  mov ax, 0x7e0
  mov es, ax
.read:
  mov ax, 0x0201
  xor bx, bx
  mov cx, [sector]
  mov dl, [boot_drive]
  mov dh, 0
  int 0x13
  jc .all
  mov ax, es
  add ax, 0x20
  mov es, ax
  inc word [sector]
  jmp .read
.all:
  jmp main
sector: dw 0
boot_drive: db 0
  times 510 - ($ - $$) db 0
  dw 0xaa55

%macro expect_carry 2      ; what, 0 or 1
  setc [carry]
  expect %1, [carry], %2
%endmacro
in_data carry: dd 0
in_data ticks: dd 0
in_data values: times 8 dd 0
in_data packet: dw 16, 1, 0, BUFFER >> 4
in_data   dq 1
in_data parameters: dw 26
in_data   times 24 db 0
in_data align 16
in_data move_table: times 2 dq 0
in_data   dw 0xffff, BUFFER & 0xffff
in_data   db BUFFER >> 16, 0x93, 0, 0
in_data   dw 0xffff, 0x2345
in_data   db 0x10, 0x93, 0, 0x00
in_data   times 2 dq 0
in_data text_string: db 13, 10, "string", 13, 10
TEXT_STRING equ 10

main:
  GUEST
  movzx eax, byte [boot_drive]
  expect "the drive", eax, 0x80
  ; Data area, and what answers from it.
  movzx eax, word [0x413]
  expect "base memory", eax, 639
  movzx eax, word [0x40e]
  expect "segment of the extended data area", eax, 0x9fc0
  mov fs, ax
  movzx eax, byte [fs:0]
  expect "its size", eax, 1
  xor eax, eax
  int 0x12
  expect "INT 12h", eax, 639
  xor eax, eax
  int 0x11
  expect "INT 11h", eax, 0x222
  movzx eax, byte [0x475]
  expect "disks", eax, 1

  ; Memory.
  mov eax, 0x12348801
  mov ah, 0x88
  int 0x15
  expect_carry "88h", 0
  and eax, 0xffff
  expect "88h: KiB, without the pages of the disk", eax, (63 << 10) - 8
  mov ax, 0xe801
  int 0x15
  expect_carry "E801h", 0
  movzx eax, ax
  movzx ecx, cx
  expect "E801h: KiB to 16M", eax, 0x3c00
  expect "E801h: the same again", ecx, 0x3c00
  movzx ebx, bx
  expect "E801h: blocks above", ebx, (48 << 4) - 1
  ; The map: ascending, and the disk's place is reserved.
  xor ebx, ebx
  xor esi, esi             ; end of the last entry
  mov dword [values], 0    ; RAM
.entry:
  mov eax, 0xe820
  mov edx, 'PAMS'
  mov ecx, 24
  mov di, 0x6000
  int 0x15
  jc .map_bad
  cmp eax, 'PAMS'
  jne .map_bad
  cmp ecx, 20
  jne .map_bad
  cmp [0x6000], esi
  jb .map_bad
  mov esi, [0x6000]
  add esi, [0x6008]
  cmp dword [0x6010], 1
  jne .reserved
  mov eax, [0x6008]
  add [values], eax
.reserved:
  test ebx, ebx
  jnz .entry
  jmp .map_end
.map_bad:
  failed "E820h"
.map_end:
  movzx eax, word [sector]
  dec eax
  shl eax, 9
  add eax, [values]
  expect "E820h: RAM, but for the disk", eax, (64 << 20) - 0x60400
  mov eax, 0xe820
  mov edx, 'PAMS'
  mov ecx, 20
  mov ebx, 99
  int 0x15
  expect_carry "E820h beyond the end", 1
  mov ax, 0x5300
  int 0x15
  expect_carry "no APM", 1
  movzx eax, ah
  expect "unsupported", eax, 0x86
  mov ax, 0x2401
  int 0x15
  expect_carry "A20 on", 0
  mov ax, 0x2402
  int 0x15
  movzx eax, ax
  expect "A20 is on", eax, 1
  mov ah, 0xc0
  int 0x15
  expect_carry "C0h", 0
  movzx eax, byte [es:bx + 2]
  expect "an AT", eax, 0xfc

  ; A block move to above 1 MiB and back.
  xor ax, ax
  mov es, ax
  mov ax, BUFFER >> 4
  mov fs, ax
  mov dword [fs:0], 0x11223344
  mov dword [fs:4], 0x55667788
  mov si, move_table
  mov cx, 4
  mov ah, 0x87
  int 0x15
  expect_carry "87h", 0
  expect "real mode again", [fs:4], 0x55667788
  mov eax, 0xffff          ; FFFF:2355 is 102345h
  mov fs, ax
  expect "moved", [fs:0x2355], 0x11223344
  expect "moved, second part", [fs:0x2359], 0x55667788

  ; The screen.
  mov ax, 0x0003
  int 0x10
  mov ah, 2
  mov bh, 0
  mov dx, 0x0500
  int 0x10
  mov ax, 0x0e41
  int 0x10
  mov ax, 0x0e62
  int 0x10
  mov ah, 3
  mov bh, 0
  int 0x10
  movzx edx, dx
  expect "cursor behind two characters", edx, 0x0502
  mov ax, 0x1301
  mov bx, 7
  mov cx, TEXT_STRING
  mov dx, 0x0700
  push bp
  mov bp, text_string
  int 0x10
  pop bp
  mov ah, 3
  mov bh, 0
  int 0x10
  movzx edx, dx
  expect "cursor behind the string", edx, 0x0900
  mov ah, 0x0f
  int 0x10
  movzx eax, ax
  expect "the mode", eax, 0x5003

  ; Time: the clock's, and ticks with a user's handler.
  mov ah, 2
  int 0x1a
  expect_carry "the time", 0
  movzx ecx, cx
  expect "hours and minutes", ecx, 0x2213
  mov ah, 4
  int 0x1a
  movzx ecx, cx
  movzx edx, dx
  expect "the year", ecx, 0x2023
  expect "month and day", edx, 0x1114
  mov ah, 0
  int 0x1a
  ; 22:13:20 are 80000 s of 18.2065 ticks.
  movzx ecx, cx
  movzx edx, dx
  shl ecx, 16
  or edx, ecx
  sub edx, 1456518
  xor eax, eax
  cmp edx, 3
  seta al
  expect "ticks since midnight", eax, 0
  mov ah, 1
  mov cx, 0x0018
  mov dx, 0x00af           ; the last tick of the day
  int 0x1a
  mov word [0x1c * 4], on_tick
  mov word [0x1c * 4 + 2], 0
  sti
.tick:
  hlt
  cmp dword [ticks], 2
  jb .tick
  cli
  mov ah, 0
  int 0x1a
  movzx eax, al
  movzx edx, dx
  expect "midnight has passed", eax, 1
  expect "ticks begin again", edx, 1
  ; Waiting for 1 ms, by the power management timer.
  mov dx, 0x608
  in eax, dx
  mov [values], eax
  mov ah, 0x86
  mov cx, 0
  mov dx, 1000
  int 0x15
  expect_carry "86h", 0
  mov dx, 0x608
  in eax, dx
  sub eax, [values]
  mov [values], eax
  xor eax, eax
  cmp dword [values], 3580
  setae al
  expect "time has passed", eax, 1
  xor eax, eax
  cmp dword [values], 3680
  setb al
  expect "but not much more", eax, 1

  ; Keys, from the serial port.
.no_key:
  mov ah, 1
  int 0x16
  jz .no_key
  movzx eax, al
  expect "the key that is there", eax, 'x'
  mov ah, 0
  int 0x16
  movzx eax, al
  expect "it, taken", eax, 'x'
  mov ah, 0x10
  int 0x16
  movzx eax, al
  expect "the next", eax, 'y'
  mov ah, 1
  int 0x16
  setz [carry]
  expect "no other", [carry], 1

  ; The disk.
  mov ah, 0x41
  mov bx, 0x55aa
  mov dl, 0x80
  int 0x13
  expect_carry "41h", 0
  movzx ebx, bx
  expect "extensions", ebx, 0xaa55
  mov ah, 0x42
  mov dl, 0x80
  mov si, packet
  int 0x13
  expect_carry "42h", 0
  mov ax, BUFFER >> 4
  mov fs, ax
  expect "the second sector", [fs:0], [0x7e00]
  mov dword [packet + 8], 1000
  mov ah, 0x42
  mov dl, 0x80
  mov si, packet
  int 0x13
  expect_carry "a sector behind the end", 1
  movzx eax, ah
  expect "is not found", eax, 4
  mov ah, 0x48
  mov dl, 0x80
  mov si, parameters
  int 0x13
  expect_carry "48h", 0
  movzx eax, word [sector]
  dec eax
  expect "sectors", [parameters + 16], eax
  mov ah, 8
  mov dl, 0x80
  int 0x13
  expect_carry "08h", 0
  movzx ecx, cl
  movzx edx, dx
  expect "sectors a track", ecx, 63
  expect "heads and drives", edx, 0x0f01
  mov ah, 2
  mov dl, 0x81
  int 0x13
  expect_carry "another drive", 1
  mov ax, 0x0201
  mov cx, 0                ; sectors count from 1
  mov dx, 0x80
  mov bx, 0x6000
  int 0x13
  expect_carry "sector 0", 1
  mov ax, 0x0301
  mov cx, 1
  mov dx, 0x80
  int 0x13
  expect_carry "writing", 1
  finish

on_tick:
  inc dword [cs:ticks]
  iret
