; Console input by interrupt and by polling. Every byte is echoed with a digit of a state that also knows the timer's ticks
; and how often the polling loop went round.
;   p    go on by polling (computing in between)
;   i    go on by interrupts (asleep in between)
;   Q    end
; Without input it ends after LIMIT ticks of 1 ms.
%include "common.inc"

LIMIT equ 3000

GUEST
  start_long
  lapic_enable
  pic_init 0xee, 0xff
  set_handler 0x20, on_pit
  set_handler 0x24, on_serial
  mov dx, COM1 + 2  ; FIFO on
  mov al, 7
  out dx, al
  mov dx, COM1 + 4  ; OUT2
  mov al, 0x0b
  out dx, al
  mov dx, COM1 + 1
  mov al, 1
  out dx, al
  pit_start 2, 1193
  says "ready> "
asleep:
  sti
  hlt
  cli
  call limit
  cmp byte [polling], 0
  je asleep
  ; Polls; the serial port's interrupt is off.
  mov dx, COM1 + 1
  xor eax, eax
  out dx, al
  sti
.poll:
  mov ecx, 200
.compute:
  imul rbx, rbx, 0x5851f42d
  add rbx, rcx
  mov edx, ebx
  and edx, 0x1ff8
  add [SCRATCH + rdx], rbx
  dec ecx
  jnz .compute
  mov edx, COM1 + 5
  in al, dx
  inc dword [polls]
  test al, 1
  jz .none
  cli
  call take
  sti
.none:
  cli
  call limit
  sti
  cmp byte [polling], 0
  jne .poll
  mov edx, COM1 + 1
  mov al, 1
  out dx, al
  jmp asleep

; A byte waits: takes, mixes and echoes it. Interrupts are off.
take:
  push rax
  push rcx
  push rdx
  mov edx, COM1
  in al, dx
  movzx eax, al
  mov ecx, eax
  mix_in rax
  mov eax, [ticks]
  mix_in rax
  mov eax, [polls]
  mix_in rax
  mix_in rbx
  mov eax, ecx
  call serial_byte
  mov rax, [mixed]
  shr rax, 40
  and eax, 15
  mov al, [digits + rax]
  call serial_byte
  inc dword [bytes]
  cmp cl, 'Q'
  je quit
  cmp cl, 'p'
  jne .not_p
  mov byte [polling], 1
.not_p:
  cmp cl, 'i'
  jne .not_i
  mov byte [polling], 0
.not_i:
  pop rdx
  pop rcx
  pop rax
  ret

limit:
  cmp dword [ticks], LIMIT
  jae quit
  ret

quit:
  says 10, "bye: bytes "
  mov eax, [bytes]
  call serial_number
  end_with_state

on_serial:
  push rax
  push rdx
  push r10
.again:
  mov edx, COM1 + 5
  in al, dx
  test al, 1
  jz .done
  call take
  cmp byte [polling], 0
  je .again
.done:
  mov al, 0x20
  out 0x20, al
  pop r10
  pop rdx
  pop rax
  iretq

on_pit:
  push rax
  push r10
  inc dword [ticks]
  mix_in rbx
  mov al, 0x20
  out 0x20, al
  pop r10
  pop rax
  iretq

in_data digits: db "0123456789abcdef"
in_data align 8
in_data ticks: dd 0
in_data polls: dd 0
in_data bytes: dd 0
in_data polling: db 0
COMMON_ROUTINES
