// A guest of two processors, for tests of turns.
#pragma once

#include "vmm/boot/loader.h"

namespace retrovisor::two_processors {

// Two processors that count. The first starts the second, and ends the machine when it has counted to 120000. A turn is
// 100000 instructions, so the first runs from 0, the second from 100000, the first from 200000, ...
inline constexpr uint64_t kFirst = 0x100047, kFirstStore = 0x100048, kSecond = 0x10005a, kSecondStore = 0x10005b;
inline constexpr uint64_t kFirstCount = 0x180000, kSecondStart = 100'012;

// With `first_halts` the first one halts for ever instead of counting, and the second one's only turn begins at 52.
inline BootImages images(bool first_halts = false) {
  BootImages images;
  images.kernel = {0x0f, 0x01, 0x05, 0x00, 0x50, 0x00, 0x00,                    // 100000  sgdt [0x5000]
                   0xbe, 0x63, 0x00, 0x10, 0x00,                                // 100007  mov esi, 0x100063
                   0xbf, 0x00, 0x60, 0x00, 0x00,                                // 10000c  mov edi, 0x6000
                   0xb9, 0x29, 0x00, 0x00, 0x00,                                // 100011  mov ecx, 0x29
                   0xf3, 0xa4,                                                  // 100016  rep movsb
                   0xbb, 0x00, 0x00, 0xe0, 0xfe,                                // 100018  mov ebx, 0xfee00000
                   0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00,  // 10001d  the local APIC, on
                   0xc7, 0x83, 0x10, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,  // 100027  to the second processor:
                   0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x00, 0x00,  // 100031  INIT
                   0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x06, 0x46, 0x00, 0x00,  // 10003b  start at 0x6000
                   0x31, 0xc9,                                                  // 100045  xor ecx, ecx
                   0x41,                                                        // 100047  inc ecx
                   0x89, 0x0d, 0x00, 0x00, 0x18, 0x00,                          // 100048  mov [0x180000], ecx
                   0x81, 0xf9, 0xc0, 0xd4, 0x01, 0x00,                          // 10004e  cmp ecx, 120000
                   0x72, 0xf1,                                                  // 100054  jb 0x100047
                   0x31, 0xc0,                                                  // 100056  xor eax, eax
                   0xe6, 0xf4,                                                  // 100058  out 0xf4, al
                   0x42,                                                        // 10005a  inc edx
                   0x89, 0x15, 0x08, 0x00, 0x18, 0x00,                          // 10005b  mov [0x180008], edx
                   0xeb, 0xf7,                                                  // 100061  jmp 0x10005a
                   0x31, 0xc0,                                                  // 6000    xor ax, ax
                   0x8e, 0xd8,                                                  // 6002    mov ds, ax
                   0x66, 0x0f, 0x01, 0x16, 0x00, 0x50,                          // 6004    lgdt [0x5000]
                   0x0f, 0x20, 0xc0,                                            // 600a    mov eax, cr0
                   0x0c, 0x01,                                                  // 600d    or al, 1
                   0x0f, 0x22, 0xc0,                                            // 600f    mov cr0, eax
                   0x66, 0xea, 0x1a, 0x60, 0x00, 0x00, 0x10, 0x00,              // 6012    jmp 0x10:0x601a
                   0x66, 0xb8, 0x18, 0x00,                                      // 601a    mov ax, 0x18
                   0x8e, 0xd8,                                                  // 601e    mov ds, ax
                   0x31, 0xd2,                                                  // 6020    xor edx, edx
                   0xb8, 0x5a, 0x00, 0x10, 0x00,                                // 6022    mov eax, 0x10005a
                   0xff, 0xe0};                                                 // 6027    jmp eax
  if (first_halts) images.kernel[kFirst - 0x100000] = 0xf4;
  images.flat_address = 0x100000;
  images.flat_mode = FlatMode::protected32;
  return images;
}

}  // namespace retrovisor::two_processors
