; Asks the RTC for one interrupt a second, at the next full second, and sleeps.
bits 16
org 0
start:
  cli
  xor ax, ax
  mov ds, ax
  mov word [0x70 * 4], 0x8000 + handler
  mov word [0x70 * 4 + 2], 0
  mov sp, 0x7000
  mov ss, ax
  ; Vectors 0x68 and 0x70; only the slave's IRQ 8 is let through.
  mov al, 0x11
  out 0x20, al
  out 0xa0, al
  mov al, 0x68
  out 0x21, al
  mov al, 0x70
  out 0xa1, al
  mov al, 4
  out 0x21, al
  mov al, 2
  out 0xa1, al
  mov al, 1
  out 0x21, al
  out 0xa1, al
  mov al, 0xfb
  out 0x21, al
  mov al, 0xfe
  out 0xa1, al
  mov al, 0x8b
  out 0x70, al
  mov al, 0x12  ; update-ended interrupt, 24 hours
  out 0x71, al
  mov al, 0x0c
  out 0x70, al
  in al, 0x71
  sti
.sleep:
  hlt
  jmp .sleep
handler:
  push ax
  mov al, 0x0c
  out 0x70, al
  in al, 0x71
  mov al, 0x20
  out 0xa0, al
  out 0x20, al
  pop ax
  iret
