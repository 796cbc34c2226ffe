// Names of the architectural bits and numbers both engines share. Source: Intel SDM volumes 3A 2.5, 3A 6.15, 4; AMD APM volume 2.
#pragma once

#include <cstdint>

namespace retrovisor {

// General registers, in encoding order.
enum Gpr : unsigned { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
// Segment registers, in encoding order.
enum SegReg : unsigned { ES, CS, SS, DS, FS, GS };

namespace flag {
inline constexpr uint64_t CF = 1 << 0, PF = 1 << 2, AF = 1 << 4, ZF = 1 << 6, SF = 1 << 7, TF = 1 << 8, IF = 1 << 9, DF = 1 << 10,
                          OF = 1 << 11, IOPL = 3 << 12, NT = 1 << 14, RF = 1 << 16, VM = 1 << 17, AC = 1 << 18, VIF = 1 << 19,
                          VIP = 1 << 20, ID = 1 << 21;
inline constexpr uint64_t fixed = 1 << 1;  // reads as one
inline constexpr uint64_t arithmetic = CF | PF | AF | ZF | SF | OF;
inline constexpr uint64_t all = arithmetic | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}  // namespace flag

namespace cr0 {
inline constexpr uint64_t PE = 1 << 0, MP = 1 << 1, EM = 1 << 2, TS = 1 << 3, ET = 1 << 4, NE = 1 << 5, WP = 1 << 16, AM = 1 << 18,
                          NW = 1 << 29, CD = 1 << 30, PG = uint64_t{1} << 31;
inline constexpr uint64_t all = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}  // namespace cr0

namespace cr4 {
inline constexpr uint64_t VME = 1 << 0, PVI = 1 << 1, TSD = 1 << 2, DE = 1 << 3, PSE = 1 << 4, PAE = 1 << 5, MCE = 1 << 6, PGE = 1 << 7,
                          PCE = 1 << 8, OSFXSR = 1 << 9, OSXMMEXCPT = 1 << 10, UMIP = 1 << 11, FSGSBASE = 1 << 16, PCIDE = 1 << 17,
                          OSXSAVE = 1 << 18, SMEP = 1 << 20, SMAP = 1 << 21;
}  // namespace cr4

namespace efer {
inline constexpr uint64_t SCE = 1 << 0, LME = 1 << 8, LMA = 1 << 10, NXE = 1 << 11, FFXSR = 1 << 14;
}  // namespace efer

// Exception vectors.
namespace vec {
inline constexpr uint8_t DE = 0, DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, TS = 10, NP = 11, SS = 12, GP = 13,
                         PF = 14, MF = 16, AC = 17, MC = 18, XM = 19;
}  // namespace vec

// #PF error code bits.
namespace pf {
inline constexpr uint32_t P = 1, W = 2, U = 4, RSVD = 8, I = 16;
}  // namespace pf

namespace dr6 {
inline constexpr uint64_t B0 = 1, BD = 1 << 13, BS = 1 << 14, BT = 1 << 15;
inline constexpr uint64_t writable = 15 | BD | BS | BT;
inline constexpr uint64_t fixed = 0xffff0ff0;  // bits that read as one
}  // namespace dr6
namespace dr7 {
inline constexpr uint64_t GD = 1 << 13, fixed = 0x400;
inline constexpr uint64_t writable = 0xffff03ff | GD;
}  // namespace dr7

// Page table entry bits.
namespace pte {
inline constexpr uint64_t P = 1, RW = 2, US = 4, A = 32, D = 64, PS = 128, G = 256, NX = uint64_t{1} << 63;
}  // namespace pte

namespace msr {
inline constexpr uint32_t TSC = 0x10, APIC_BASE = 0x1b, TSC_ADJUST = 0x3b, BIOS_SIGN_ID = 0x8b, MTRRCAP = 0xfe,
                          SYSENTER_CS = 0x174, SYSENTER_ESP = 0x175, SYSENTER_EIP = 0x176, MCG_CAP = 0x179, MCG_STATUS = 0x17a,
                          MISC_ENABLE = 0x1a0, MTRR_PHYSBASE0 = 0x200, MTRR_FIX64K = 0x250, PAT = 0x277, MTRR_DEF_TYPE = 0x2ff,
                          TSC_DEADLINE = 0x6e0, X2APIC_FIRST = 0x800, X2APIC_LAST = 0x8ff, XSS = 0xda0, EFER = 0xc0000080,
                          STAR = 0xc0000081, LSTAR = 0xc0000082, CSTAR = 0xc0000083, SFMASK = 0xc0000084, FS_BASE = 0xc0000100,
                          GS_BASE = 0xc0000101, KERNEL_GS_BASE = 0xc0000102, TSC_AUX = 0xc0000103;
}  // namespace msr

// Segment attributes, as the upper dword of a descriptor holds them in bits 8-15 and 20-23, moved to bits 0-11 without
// the limit bits (the "access rights" of VMX, SDM 3C 24.4.1): type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, DB 14, G 15.
namespace seg {
inline constexpr uint32_t type_mask = 0xf, S = 1 << 4, DPL = 3 << 5, P = 1 << 7, AVL = 1 << 12, L = 1 << 13, DB = 1 << 14, G = 1 << 15;
inline constexpr uint32_t unusable = 1 << 16;  // loaded with a null selector
inline constexpr uint32_t code = 8, conforming_or_down = 4, readable_or_writable = 2, accessed = 1;  // bits of type when S is set
constexpr unsigned dpl(uint32_t attributes) { return (attributes >> 5) & 3; }
}  // namespace seg

}  // namespace retrovisor
