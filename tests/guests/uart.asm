; The 16550A: presence and FIFO, loopback of data and modem lines, interrupts by cause and priority, input from the console.
; Source: PC16550D data sheet.
; input: hello
; console: serial says hi
%include "lib/guest.inc"
%include "lib/modes.inc"
%include "lib/pic.inc"

COM equ 0x3f8
DAT equ COM
IER equ COM + 1
IIR equ COM + 2
FCR equ COM + 2
LCR equ COM + 3
MCR equ COM + 4
LSR equ COM + 5
MSR equ COM + 6
SCR equ COM + 7

%macro uart_out 2
  mov dx, %1
  mov al, %2
  out dx, al
%endmacro
; Into EAX, zero-extended.
%macro uart_in 1
  mov dx, %1
  in al, dx
  movzx eax, al
%endmacro

GUEST
  start_long
  lapic_enable
  pic_init 0xef, 0xff               ; IRQ 4 alone
  set_handler 0x24, on_irq4

  uart_out SCR, 0xa5
  uart_in SCR
  expect "scratch register", rax, 0xa5
  uart_out LCR, 0x83                ; DLAB
  uart_out COM, 1
  uart_out IER, 0
  uart_in COM
  expect "divisor latch", rax, 1
  uart_out LCR, 3
  uart_out IER, 0
  uart_out FCR, 7
  uart_in IIR
  expect "IIR: FIFOs on, nothing pending", rax, 0xc1
  uart_in LSR
  and eax, 0x60
  expect "LSR: transmitter empty", rax, 0x60

  ; Output.
  mov esi, message
.next:
  mov al, [rsi]
  test al, al
  jz .said
  mov dx, COM
  out dx, al
.wait:
  uart_in LSR
  test al, 0x20
  jz .wait
  inc esi
  jmp .next
.said:

  ; Input from outside, by interrupt. OUT2 lets the line through on a PC.
  uart_out MCR, 0x0b
  uart_out IER, 1
  sti
.input:
  hlt
  cmp dword [received], 5
  jb .input
  cli
  mov eax, [input]
  expect "input", rax, 'hell'
  movzx eax, byte [input + 4]
  expect "input, last byte", rax, 'o'
  mov eax, [first_iir]
  and eax, 0x0f
  cmp eax, 0x0c                     ; time-out below the trigger level, or data available
  jne .no_timeout
  mov eax, 4
.no_timeout:
  expect "IIR of the receive interrupt", rax, 4
  uart_in IIR
  expect "nothing is pending when all is read", rax, 0xc1

  ; The transmitter's interrupt.
  mov dword [irqs], 0
  uart_out IER, 2
  sti
  mov ecx, 1000
.thre:
  loop .thre
  cli
  expect "transmitter empty interrupts as soon as enabled", [irqs], 1
  mov eax, [first_iir]
  and eax, 0x0f
  expect "IIR of the transmitter interrupt", rax, 2
  uart_in IIR
  expect "reading IIR cleared it", rax, 0xc1
  ; Without OUT2 nothing arrives.
  uart_out IER, 0
  uart_out MCR, 3
  mov dword [irqs], 0
  uart_out IER, 2
  sti
  mov ecx, 1000
.gated:
  loop .gated
  cli
  expect "interrupts without OUT2", [irqs], 0
  uart_out IER, 0

  ; Loopback: the transmitter feeds the receiver; nothing comes from or goes outside.
  uart_out MCR, 0x10
  uart_in MSR
  uart_out COM, 0x3c
  mov ecx, 100000
.loop_wait:
  uart_in LSR
  test al, 1
  jnz .looped
  loop .loop_wait
.looped:
  uart_in COM
  expect "looped byte", rax, 0x3c
  uart_in LSR
  and eax, 1
  expect "LSR: no more data", rax, 0
  ; Modem lines: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD; changes are told once.
  uart_in MSR
  uart_out MCR, 0x1f
  uart_in MSR
  expect "MSR: all lines on, their changes", rax, 0xfb
  uart_in MSR
  expect "MSR: changes are cleared by reading", rax, 0xf0
  uart_out MCR, 0x13
  uart_in MSR
  expect "MSR: DSR and CTS; RI's trailing edge and DCD's change", rax, 0x3c
  ; FIFO: 16 bytes, then overrun.
  uart_out FCR, 7
  mov ecx, 16
  mov bl, 0x40
.fill:
  mov dx, COM
  mov al, bl
  out dx, al
  inc bl
  mov r8d, 100000
.fill_wait:
  uart_in LSR
  test al, 0x40
  jnz .filled
  dec r8d
  jnz .fill_wait
.filled:
  loop .fill
  mov ecx, 16
  mov bl, 0x40
  xor r9d, r9d
.drain:
  uart_in COM
  cmp al, bl
  je .same
  inc r9d
.same:
  inc bl
  loop .drain
  expect "bytes that came out of the FIFO wrong", r9, 0

  finish

on_irq4:
  push rax
  push rdx
  push rcx
  uart_in IIR
  cmp dword [irqs], 0
  jne .later
  mov [first_iir], eax
.later:
  inc dword [irqs]
.data:
  uart_in LSR
  test al, 1
  jz .end
  uart_in COM
  mov [first_data], eax
  mov ecx, [received]
  and ecx, 15
  mov [input + rcx], al
  inc dword [received]
  jmp .data
.end:
  mov al, 0x20
  out 0x20, al
  pop rcx
  pop rdx
  pop rax
  iretq

in_data align 4
in_data irqs: dq 0
in_data first_iir: dd 0
in_data first_data: dd 0
in_data received: dd 0
in_data input: times 16 db 0
in_data message: db "serial says hi", 10, 0

GUEST_ROUTINES
