; Small kernels, one for each way of being started: with -DBITS=32 or 16 images of the Linux boot protocol without a 64-bit entry (16:
; real mode only), with -DMULTIBOOT a multiboot kernel. Each prints what it was started with and ends.
KERNEL equ 0x100000

%ifdef MULTIBOOT
bits 32
org KERNEL
multiboot:
  dd 0x1badb002, 0x10003, -(0x1badb002 + 0x10003)
  dd multiboot, multiboot, end, end, start
start:
  mov esp, KERNEL
  cmp eax, 0x2badb002
  jne bad
  mov esi, [ebx + 16]      ; the command line
  call line
  mov ecx, [ebx + 20]      ; modules
  mov edx, [ebx + 24]
.module:
  jecxz .done
  mov esi, [edx + 8]
  call line
  add edx, 16
  dec ecx
  jmp .module
.done:
  mov al, 0
  out 0xf4, al
%else
bits 16
org 0
  times 0x1f1 - ($ - $$) db 0
  db 1                     ; setup_sects
  dw 0
  dd (end - setup_end + 15) / 16
  dw 0, 0, 0
  dw 0xaa55
  jmp short setup
  db "HdrS"
%if BITS == 32
  dw 0x20c
%else
  dw 0x207
%endif
  dd 0
  dw 0, 0
  db 0, 1                  ; type_of_loader, loadflags: loaded high
  dw 0
%if BITS == 32
  dd KERNEL + start - setup_end
%else
  dd 0
%endif
  dd 0, 0, 0               ; ramdisk_image, ramdisk_size, bootsect_kludge
  dw 0, 0                  ; heap_end_ptr, ext_loader
  dd 0                     ; cmd_line_ptr
  dd 0x7fffffff            ; initrd_addr_max
  dd 0x1000                ; kernel_alignment
  db 0, 0
  dw 0                     ; xloadflags
  dd 255                   ; cmdline_size
  times 0x258 - ($ - $$) db 0
  dq KERNEL                ; pref_address
  dd 0x10000               ; init_size
setup:
%if BITS == 32
  times 8 int3             ; this is not where such a kernel begins
%else
  pushf
  pop ax
  test ax, 0x200           ; interrupts are off
  jnz .bad
  mov ax, cs
  sub ax, 0x20             ; the setup code is behind the boot sector
  mov bx, ds
  cmp ax, bx
  jne .bad
  mov bx, ss
  cmp ax, bx
  jne .bad
  test byte [0x211], 0x80  ; there is a heap, which ends below the stack
  jz .bad
  mov ax, [0x224]
  add ax, 0x200
  cmp ax, sp
  ja .bad
  mov eax, [0x228]
  shr eax, 4
  mov ds, ax
  mov si, [cs:0x228 - 0x200]
  and si, 15
.next:
  lodsb
  test al, al
  jz .end
  mov ah, 0x0e
  int 0x10
  jmp .next
.end:
  mov ax, 0x0e0a
  int 0x10
  mov al, 0
  out 0xf4, al
.bad:
  mov al, 1
  out 0xf4, al
%endif
  times 1024 - ($ - $$) db 0
setup_end:
bits 32
start:
  mov esp, 0x90000
  cmp dword [esi + 0x202], "HdrS"
  jne bad
  mov edi, esi
  mov esi, [edi + 0x228]
  call line
%endif
  mov al, 0
  out 0xf4, al
bad:
  mov al, 1
  out 0xf4, al

; Prints the string at ESI and a line's end.
line:
  push edx
  mov edx, 0x3f8
.next:
  lodsb
  test al, al
  jz .end
  out dx, al
  jmp .next
.end:
  mov al, 10
  out dx, al
  pop edx
  ret
end:
  times 64 db 0
