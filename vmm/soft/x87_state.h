// Building blocks of x87 handlers: the register stack, exceptions, and the pointers to the last instruction.
#pragma once

#include "vmm/soft/memory.h"
#include "vmm/soft/x87.h"

namespace retrovisor::soft {

// What an instruction found out: a value, and bits of the status word (exceptions, C1, sometimes other conditions).
struct X87Result {
  X87Register value;
  uint16_t flags = 0;
};

inline constexpr X87Register kX87Indefinite{0xc000000000000000, 0xffff};  // SDM 1 4.8.3.7
inline constexpr X87Register kX87One{0x8000000000000000, 0x3fff};
inline constexpr uint64_t kX87IntegerBit = uint64_t{1} << 63;
inline constexpr uint64_t kX87QuietBit = uint64_t{1} << 62;
inline constexpr uint16_t kX87Sign = 0x8000;
inline constexpr unsigned kX87MaxExponent = 0x7fff;

inline constexpr X87Register x87_zero(bool negative) { return {0, negative ? kX87Sign : uint16_t{0}}; }
inline constexpr X87Register x87_infinity(bool negative) {
  return {kX87IntegerBit, static_cast<uint16_t>(kX87MaxExponent | (negative ? kX87Sign : 0u))};
}

enum class X87Class : uint8_t { zero, normal, denormal, infinity, nan, unsupported };
// Pseudo-denormals are denormals; unnormals, pseudo-infinities and pseudo-NaNs are unsupported (SDM 1 8.2.2).
inline X87Class x87_classify(const X87Register& v) {
  const unsigned exponent = v.sign_exponent & kX87MaxExponent;
  if (exponent == 0) return v.mantissa == 0 ? X87Class::zero : X87Class::denormal;
  if ((v.mantissa & kX87IntegerBit) == 0) return X87Class::unsupported;
  if (exponent != kX87MaxExponent) return X87Class::normal;
  return v.mantissa == kX87IntegerBit ? X87Class::infinity : X87Class::nan;
}
inline bool x87_negative(const X87Register& v) { return (v.sign_exponent & kX87Sign) != 0; }
inline bool x87_signaling(const X87Register& nan) { return (nan.mantissa & kX87QuietBit) == 0; }

// The result of an operation with a NaN or an unsupported operand (SDM 1 table 4-7).
X87Result x87_propagate_nan(const X87Register& a);
X87Result x87_propagate_nan(const X87Register& a, const X87Register& b);

inline unsigned x87_physical(const X87State& f, unsigned i) { return (x87_top(f) + i) & 7; }
inline X87Register& x87_st(X87State& f, unsigned i) { return f.r[x87_physical(f, i)]; }
inline bool x87_empty(const X87State& f, unsigned i) { return (f.tag >> x87_physical(f, i) & 1) == 0; }
inline void x87_set(X87State& f, unsigned i, const X87Register& v) {
  const unsigned p = x87_physical(f, i);
  f.r[p] = v;
  f.tag = static_cast<uint8_t>(f.tag | 1u << p);
}
inline void x87_free(X87State& f, unsigned i) { f.tag = static_cast<uint8_t>(f.tag & ~(1u << x87_physical(f, i))); }
inline void x87_move_top(X87State& f, unsigned by) {
  f.fsw = static_cast<uint16_t>((f.fsw & ~fsw::top_mask) | ((x87_top(f) + by) & 7) << fsw::top_shift);
}
inline void x87_pop(X87State& f) {
  x87_free(f, 0);
  x87_move_top(f, 1);
}
inline void x87_push(X87State& f, const X87Register& v) {
  x87_move_top(f, 7);
  x87_set(f, 0, v);
}

inline void x87_clear_condition(X87State& f, uint16_t bits) { f.fsw = static_cast<uint16_t>(f.fsw & ~bits); }
inline void x87_set_condition(X87State& f, uint16_t mask, uint16_t bits) {
  f.fsw = static_cast<uint16_t>((f.fsw & ~mask) | (bits & mask));
}

// Adds exceptions (with SF and C1) to the status word. False: one of those found before the computation is unmasked, so
// the instruction must leave its destination and the stack alone (SDM 1 8.5.1 to 8.5.3). To be called behind
// x87_note_instruction() or x87_note_operand().
inline bool x87_raise(SoftCpu& cpu, uint16_t flags) {
  X87State& f = cpu.s.x87;
  f.fsw = static_cast<uint16_t>(f.fsw | (flags & (fsw::exceptions | fsw::SF | fsw::C1)));
  const uint16_t unmasked = static_cast<uint16_t>(flags & ~f.fcw & fsw::exceptions);
  if (__builtin_expect(unmasked == 0, 1)) return true;
  f.fsw |= fsw::ES | fsw::B;
  if (cpu.processor_model == ProcessorModel::intel) {  // SDM 1 8.1.8 and 8.1.9.1
    f.fop = cpu.x87_noted.fop;
    if (cpu.x87_noted.operand) f.fdp = cpu.x87_noted.fdp;
  }
  return (unmasked & (fsw::IE | fsw::DE | fsw::ZE)) == 0;
}
// The results of these: true if the masked response is to be stored.
inline bool x87_stack_underflow(SoftCpu& cpu) {
  x87_clear_condition(cpu.s.x87, fsw::C1);
  return x87_raise(cpu, fsw::IE | fsw::SF);
}
inline bool x87_stack_overflow(SoftCpu& cpu) { return x87_raise(cpu, fsw::IE | fsw::SF | fsw::C1); }

// When exceptions that are found before the computation are unmasked, only they are reported.
inline uint16_t x87_effective_flags(const X87State& f, uint16_t flags) {
  const uint16_t early = fsw::IE | fsw::DE | fsw::ZE;
  if ((flags & ~f.fcw & early) == 0) return flags;
  return static_cast<uint16_t>(flags & early);
}

// Op fields of the x87 group: imm is the opcode as FOP holds it, r0 is i of ST(i), r1 is 1 if the operand size is 16 bits.
//
// FIP is moved by all instructions that are not control instructions. On `intel` FOP and FDP follow with unmasked exceptions
// only, and there are no selectors (CPUID 7 EBX[6] and EBX[13]). `amd` has selectors in 64-bit mode, too.
inline void x87_note_instruction(SoftCpu& cpu, const Op& op) {
  X87State& f = cpu.s.x87;
  const bool code64 = (cpu.mode & block_mode::code_mask) == block_mode::code64;
  const uint64_t ip = instruction_rip(cpu, op);
  f.fip = code64 ? ip : static_cast<uint32_t>(ip);
  if (cpu.processor_model == ProcessorModel::intel) {
    cpu.x87_noted = {0, static_cast<uint16_t>(op.imm), false};
    f.fcs = 0;
    return;
  }
  f.fop = static_cast<uint16_t>(op.imm);
  f.fcs = code64 && cpu.processor_model == ProcessorModel::model ? uint16_t{0} : cpu.s.segment[CS].selector;
}
inline void x87_note_operand(SoftCpu& cpu, const Op& op) {
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  const uint64_t offset = effective_offset(cpu, op);
  if (cpu.processor_model == ProcessorModel::intel) {
    cpu.x87_noted.fdp = offset;
    cpu.x87_noted.operand = true;
    f.fds = 0;
    return;
  }
  f.fdp = offset;
  const bool code64 = (cpu.mode & block_mode::code_mask) == block_mode::code64;
  const bool none = code64 && cpu.processor_model == ProcessorModel::model;
  f.fds = none ? uint16_t{0} : cpu.s.segment[op.ea & ea::seg_mask].selector;
}

// Operands of more than eight bytes: ten, and images of environment and state. False: cpu.fault is set; what has been stored
// then, if anything, x87.cc says.
bool x87_load_ten_bytes(SoftCpu& cpu, const Op& op, uint8_t* data);
bool x87_store_ten_bytes(SoftCpu& cpu, const Op& op, const uint8_t* data);
bool x87_load_image(SoftCpu& cpu, const Op& op, uint8_t* data, unsigned size);
bool x87_store_image(SoftCpu& cpu, const Op& op, const uint8_t* data, unsigned size);
// Makes sure that an operand at the address from operand_address() could be stored. False: cpu.fault is set.
bool x87_probe_store(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size);

}  // namespace retrovisor::soft
