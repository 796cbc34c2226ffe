// The x87 FPU of the soft engine: what other groups of instructions share with it (MMX, FXSAVE, XSAVE).
//
// Choices where processors differ (those of ProcessorModel::model, the same on every host; docs/vendors.md has the others):
// - FIP, FDP and FOP are updated by every non-control instruction, whether it raises an exception or not; FDP only by
//   instructions with a memory operand. FNOP, FFREE, FINCSTP and FDECSTP count as non-control. FCS and FDS are kept in
//   the legacy modes and are zero after an instruction in 64-bit mode.
// - Unmasked exceptions are reported by #MF on the next waiting instruction if CR0.NE is set. With CR0.NE clear a PC
//   would signal FERR# to IRQ 13; that line does not exist here, so pending exceptions then change nothing.
// - Transcendental functions are our own (x87_functions.h); FSIN, FCOS, FSINCOS and FPTAN reduce their operand by the
//   66-bit value of pi that SDM 1 8.3.8 documents.
// Source: SDM 1 chapter 8, and the instruction pages of SDM 2.
#pragma once

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// Bits of the status word (SDM 1 8.1.3).
namespace fsw {
inline constexpr uint16_t IE = 1 << 0, DE = 1 << 1, ZE = 1 << 2, OE = 1 << 3, UE = 1 << 4, PE = 1 << 5, SF = 1 << 6;
inline constexpr uint16_t ES = 1 << 7, C0 = 1 << 8, C1 = 1 << 9, C2 = 1 << 10, C3 = 1 << 14, B = 1 << 15;
inline constexpr uint16_t exceptions = IE | DE | ZE | OE | UE | PE;
inline constexpr uint16_t condition = C0 | C1 | C2 | C3;
inline constexpr unsigned top_shift = 11;
inline constexpr uint16_t top_mask = 7 << top_shift;
}  // namespace fsw

// Bits of the control word (SDM 1 8.1.5). The masks are in the places of the exceptions in the status word.
namespace fcw {
inline constexpr uint16_t masks = 0x3f, PC = 3 << 8, RC = 3 << 10;
inline constexpr unsigned pc_shift = 8, rc_shift = 10;
inline constexpr uint16_t writable = 0x1f3f;  // X (bit 12) can be written and does nothing
inline constexpr uint16_t fixed = 1 << 6;     // reads as one
inline constexpr uint16_t initial = 0x37f;
}  // namespace fcw

inline unsigned x87_top(const X87State& f) { return f.fsw >> fsw::top_shift & 7u; }

// Sets ES and B to what the exception flags and their masks say. To be called after FSW or FCW were loaded.
void x87_update_summary(X87State& f);

// True: nothing is pending. False: #MF is raised. Called by every waiting x87 instruction, WAIT and MMX instructions.
bool x87_check_pending(SoftCpu& cpu);

// The tag word as FSTENV stores it (0 valid, 1 zero, 2 special, 3 empty for each physical register; SDM 1 8.1.7),
// computed from the contents of the registers; and back to the abridged form.
uint16_t x87_full_tag(const X87State& f);
uint8_t x87_abridged_tag(uint16_t full);

// FNINIT: control, status, tag, pointers and opcode; register contents stay.
void x87_initialize(X87State& f);

inline void x87_clear_top(X87State& f) { f.fsw = static_cast<uint16_t>(f.fsw & ~fsw::top_mask); }
// What every MMX instruction but EMMS does to the x87 state (SDM 1 9.5.1): TOP is 0 and all registers are in use.
inline void x87_enter_mmx(X87State& f) {
  x87_clear_top(f);
  f.tag = 0xff;
}

// The control word as FLDCW and the like leave it.
constexpr uint16_t x87_control(uint16_t value) { return static_cast<uint16_t>((value & fcw::writable) | fcw::fixed); }

}  // namespace retrovisor::soft
