// x87 comparisons and FXAM. They never round, so they are done on the bits.
#include "vmm/soft/x87_compare.h"

#include "vmm/soft/x87_operand.h"

namespace retrovisor::soft {
namespace {

struct Comparison {
  uint16_t condition;  // C3 (equal), C0 (less), all of C3 C2 C0 (unordered)
  uint16_t flags;
};
constexpr uint16_t kUnordered = fsw::C0 | fsw::C2 | fsw::C3;
constexpr uint16_t kOrder = kUnordered;  // the bits that tell the order

// Magnitudes of two ordered operands: -1, 0, 1. An exponent field of zero stands for the same exponent as one.
int compare_magnitudes(const X87Register& a, const X87Register& b) {
  const unsigned ea = a.sign_exponent & kX87MaxExponent, eb = b.sign_exponent & kX87MaxExponent;
  const bool za = a.mantissa == 0, zb = b.mantissa == 0;
  if (za || zb) return za == zb ? 0 : za ? -1 : 1;
  const unsigned na = ea == 0 ? 1 : ea, nb = eb == 0 ? 1 : eb;
  if (na != nb) return na < nb ? -1 : 1;
  if (a.mantissa != b.mantissa) return a.mantissa < b.mantissa ? -1 : 1;
  return 0;
}

Comparison compare(const X87Register& a, const X87Register& b, bool unordered) {
  const X87Class ca = x87_classify(a), cb = x87_classify(b);
  if (ca == X87Class::unsupported || cb == X87Class::unsupported) return {kUnordered, fsw::IE};
  if (ca == X87Class::nan || cb == X87Class::nan) {
    const bool quiet = unordered && !(ca == X87Class::nan && x87_signaling(a)) && !(cb == X87Class::nan && x87_signaling(b));
    return {kUnordered, quiet ? uint16_t{0} : fsw::IE};
  }
  const uint16_t flags = ca == X87Class::denormal || cb == X87Class::denormal ? fsw::DE : uint16_t{0};
  int order = compare_magnitudes(a, b);
  const bool negative_a = x87_negative(a), negative_b = x87_negative(b);
  if (a.mantissa == 0 && b.mantissa == 0) {
    order = 0;
  } else if (negative_a != negative_b) {
    order = negative_a ? -1 : 1;
  } else if (negative_a) {
    order = -order;
  }
  return {order < 0 ? fsw::C0 : order == 0 ? fsw::C3 : uint16_t{0}, flags};
}

// Stores the order in the condition codes, even if an exception is unmasked. True: pops are to be done.
bool finish(SoftCpu& cpu, const Comparison& c) {
  x87_set_condition(cpu.s.x87, kOrder, c.condition);
  return x87_raise(cpu, c.flags);
}
bool finish_underflow(SoftCpu& cpu) {
  x87_set_condition(cpu.s.x87, kOrder, kUnordered);
  return x87_stack_underflow(cpu);
}

template <bool Unordered, unsigned Pops>
bool exec_compare(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  const bool ok = x87_empty(f, 0) || x87_empty(f, op.r0) ? finish_underflow(cpu)
                                                         : finish(cpu, compare(x87_st(f, 0), x87_st(f, op.r0), Unordered));
  if (ok) {
    for (unsigned i = 0; i < Pops; ++i) x87_pop(f);
  }
  return true;
}

template <class T, bool Pop>
bool exec_compare_memory(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  T value;
  if (!load_operand(cpu, op, value)) return false;
  x87_note_operand(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  bool ok;
  if (x87_empty(f, 0)) {
    ok = finish_underflow(cpu);
  } else {
    const X87Widened wide = x87_widen(value);
    Comparison c = compare(x87_st(f, 0), wide.value, false);
    if (wide.denormal && c.condition != kUnordered) c.flags |= fsw::DE;
    ok = finish(cpu, c);
  }
  if (Pop && ok) x87_pop(f);
  return true;
}

bool exec_test(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  if (x87_empty(f, 0)) {
    finish_underflow(cpu);
  } else {
    finish(cpu, compare(x87_st(f, 0), x87_zero(false), false));
  }
  return true;
}

// FCOMI and relatives: the order goes to ZF, PF, CF; OF, SF and AF become zero. They change even if an exception is unmasked,
// like the condition codes of FCOM. C1 is cleared (SDM 2 FCOMI), on `amd` only by a stack fault (APM 5 FCOMI; measured).
template <bool Unordered, bool Pop>
bool exec_compare_flags(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (cpu.processor_model != ProcessorModel::amd) x87_clear_condition(f, fsw::C1);
  Comparison c{kUnordered, 0};
  bool ok;
  if (x87_empty(f, 0) || x87_empty(f, op.r0)) {
    ok = x87_stack_underflow(cpu);
  } else {
    c = compare(x87_st(f, 0), x87_st(f, op.r0), Unordered);
    ok = x87_raise(cpu, c.flags);
  }
  uint32_t flags = 1 << 9;
  if ((c.condition & fsw::C0) != 0) flags |= cc::CF;
  if ((c.condition & fsw::C2) != 0) flags |= cc::PF;
  if ((c.condition & fsw::C3) != 0) flags |= cc::ZF;
  cpu.cc = flags;
  if (Pop && ok) x87_pop(f);
  return true;
}

// C1 is the sign, C3 C2 C0 the class (SDM 2 FXAM), for empty registers, too.
bool exec_examine(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  const X87Register& a = x87_st(f, 0);
  uint16_t bits = x87_negative(a) ? fsw::C1 : uint16_t{0};
  if (x87_empty(f, 0)) {
    bits |= fsw::C3 | fsw::C0;
  } else {
    switch (x87_classify(a)) {
      case X87Class::unsupported: break;
      case X87Class::nan: bits |= fsw::C0; break;
      case X87Class::normal: bits |= fsw::C2; break;
      case X87Class::infinity: bits |= fsw::C2 | fsw::C0; break;
      case X87Class::zero: bits |= fsw::C3; break;
      case X87Class::denormal: bits |= fsw::C3 | fsw::C2; break;
    }
  }
  x87_set_condition(f, fsw::condition, bits);
  return true;
}

template <class T>
Handler memory_handler(unsigned pops) {
  return pops == 0 ? op_call<exec_compare_memory<T, false>> : op_call<exec_compare_memory<T, true>>;
}

}  // namespace

Handler x87_compare_handler(X87Form form, bool unordered, unsigned pops) {
  static constexpr Handler kRegister[2][3] = {
      {op_call<exec_compare<false, 0>>, op_call<exec_compare<false, 1>>, op_call<exec_compare<false, 2>>},
      {op_call<exec_compare<true, 0>>, op_call<exec_compare<true, 1>>, op_call<exec_compare<true, 2>>}};
  switch (form) {
    case X87Form::float32: return memory_handler<X87Float32>(pops);
    case X87Form::float64: return memory_handler<X87Float64>(pops);
    case X87Form::int16: return memory_handler<int16_t>(pops);
    case X87Form::int32: return memory_handler<int32_t>(pops);
    default: return pops < 3 ? kRegister[unordered ? 1 : 0][pops] : nullptr;
  }
}

Handler x87_compare_flags_handler(bool unordered, bool pop) {
  if (unordered) return pop ? op_call<exec_compare_flags<true, true>> : op_call<exec_compare_flags<true, false>>;
  return pop ? op_call<exec_compare_flags<false, true>> : op_call<exec_compare_flags<false, false>>;
}

Handler x87_test_handler() { return op_call<exec_test>; }
Handler x87_examine_handler() { return op_call<exec_examine>; }

}  // namespace retrovisor::soft
