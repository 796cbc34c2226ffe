; A boot sector that asks the BIOS for everything: prints by INT 10h, memory by INT 12h and INT 15h, time by INT 1Ah.
; load: kernel
; console: ^\r\nbase 027F, extended FC00, map 0005, a tick later\r\n$
bits 16
org 0x7c00
  cmp dx, 0x80             ; the drive
  jne failed
  mov si, text_base
  call puts
  int 0x12
  call hex
  mov si, text_extended
  call puts
  mov ah, 0x88
  int 0x15
  jc failed
  call hex
  mov si, text_map
  call puts
  xor ebx, ebx
  xor bp, bp
.entry:
  mov eax, 0xe820
  mov edx, 'PAMS'
  mov ecx, 20
  mov di, buffer
  int 0x15
  jc failed
  inc bp
  test ebx, ebx
  jnz .entry
  mov ax, bp
  call hex
  mov ah, 0
  int 0x1a
  mov bx, dx
.tick:
  hlt                      ; interrupts are on
  mov ah, 0
  int 0x1a
  sub dx, bx
  jz .tick
  cmp dx, 1
  jne failed
  mov si, text_tick
  call puts
  mov ah, 2                ; no disk behind this sector
  mov al, 1
  mov cx, 1
  mov dx, 0x80
  mov bx, buffer
  int 0x13
  jnc failed
  cmp ah, 1
  jne failed
  mov al, 0
  out 0xf4, al
failed:
  mov al, 1
  out 0xf4, al

puts:
  lodsb
  test al, al
  jz .end
  mov ah, 0x0e
  mov bx, 7
  int 0x10
  jmp puts
.end:
  ret
hex:
  mov cx, 4
.next:
  rol ax, 4
  push ax
  and al, 15
  add al, '0'
  cmp al, '9'
  jbe .digit
  add al, 'A' - '9' - 1
.digit:
  mov ah, 0x0e
  mov bx, 7
  int 0x10
  pop ax
  loop .next
  ret

text_base: db 13, 10, "base ", 0
text_extended: db ", extended ", 0
text_map: db ", map ", 0
text_tick: db ", a tick later", 13, 10, 0
  times 510 - ($ - $$) db 0
  dw 0xaa55
buffer equ 0x8000
