// x87 arithmetic: basic operations on the host, functions by x87_functions.h.
#include "vmm/soft/x87_arith.h"

#include "vmm/soft/x87_functions.h"
#include "vmm/soft/x87_host.h"
#include "vmm/soft/x87_trig.h"

namespace retrovisor::soft {
namespace {

constexpr uint16_t kResultFlags = fsw::exceptions | fsw::C1;

template <class Operation, bool ToSti, bool Pop>
bool exec_arith(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  const unsigned destination = ToSti ? op.r0 : 0;
  if (x87_empty(f, 0) || x87_empty(f, op.r0)) {
    if (!x87_stack_underflow(cpu)) return true;
    x87_set(f, destination, kX87Indefinite);
  } else {
    X87Register value;
    const uint16_t status = x87_host::run<typename Operation::Stack>(f, value, x87_st(f, 0), x87_st(f, op.r0));
    if (!x87_raise(cpu, status & kResultFlags)) return true;
    x87_st(f, destination) = value;
  }
  if (Pop) x87_pop(f);
  return true;
}

template <class HostOperation, class T>
bool exec_arith_memory(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  T operand;
  if (!load_operand(cpu, op, operand)) return false;
  x87_note_operand(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  if (x87_empty(f, 0)) {
    if (x87_stack_underflow(cpu)) x87_set(f, 0, kX87Indefinite);
    return true;
  }
  X87Register value;
  const uint16_t status = x87_host::run<HostOperation>(f, value, x87_st(f, 0), operand);
  if (x87_raise(cpu, status & kResultFlags)) x87_st(f, 0) = value;
  return true;
}

// The start of instructions without an explicit operand: clears condition bits. False: stack underflow, because one of
// the `needs` registers from ST(0) on is empty.
bool begin(X87State& f, unsigned needs, uint16_t clear) {
  x87_clear_condition(f, clear);
  return !x87_empty(f, 0) && (needs == 1 || !x87_empty(f, 1));
}

// ST(0) = f(ST(0)) on the host.
template <class HostOperation>
bool exec_host_unary(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (!begin(f, 1, fsw::C1)) {
    if (x87_stack_underflow(cpu)) x87_set(f, 0, kX87Indefinite);
    return true;
  }
  X87Register value;
  const uint16_t status = x87_host::run<HostOperation>(f, value, x87_st(f, 0), kX87One);
  if (x87_raise(cpu, status & kResultFlags)) x87_st(f, 0) = value;
  return true;
}

// FPREM and FPREM1. Where the exponents differ by 64 or more, the SDM leaves open by how many bits (32 to 63) one step
// reduces; here as many as the low five bits of the difference say, plus 32. Such a step is an FPREM by a divisor that is
// scaled up, which the host completes.
template <class HostOperation>
bool exec_remainder(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (!begin(f, 2, fsw::C1 | fsw::C2)) {
    if (x87_stack_underflow(cpu)) x87_set(f, 0, kX87Indefinite);
    return true;
  }
  const X87Register a = x87_st(f, 0);
  X87Register b = x87_st(f, 1);
  const auto finite = [](const X87Register& v) {  // and not zero
    const X87Class c = x87_classify(v);
    return c == X87Class::normal || c == X87Class::denormal;
  };
  const auto exponent = [](const X87Register& v) {
    const int e = v.sign_exponent & static_cast<int>(kX87MaxExponent);
    return (e == 0 ? 1 : e) - __builtin_clzll(v.mantissa);
  };
  uint16_t denormal = 0;
  bool partial = false;
  // There is a quotient, whose bits go to C0, C3 and C1.
  const bool quotient =
      (finite(a) || x87_classify(a) == X87Class::zero) && (finite(b) || x87_classify(b) == X87Class::infinity);
  if (finite(a) && finite(b)) {
    const int difference = exponent(a) - exponent(b);
    if (difference >= 64) {
      partial = true;
      if (x87_classify(b) == X87Class::denormal) denormal = fsw::DE;
      const int scaled = exponent(b) + difference - ((difference & 31) | 32);
      const uint64_t mantissa = b.mantissa << __builtin_clzll(b.mantissa);
      const uint16_t sign = b.sign_exponent & kX87Sign;
      b = scaled > 0 ? X87Register{mantissa, static_cast<uint16_t>(sign | scaled)}
                     : X87Register{mantissa >> (1 - scaled), sign};
    }
  }
  X87Register value;
  uint16_t status = partial ? x87_host::run<x87_host::Remainder>(f, value, a, b)
                            : x87_host::run<HostOperation>(f, value, a, b);
  if (partial) {
    if ((denormal & ~f.fcw) != 0) {
      x87_raise(cpu, denormal);
      return true;
    }
    status = static_cast<uint16_t>((status & ~fsw::condition) | fsw::C2 | denormal);
  }
  if (!x87_raise(cpu, status & fsw::exceptions)) return true;
  x87_st(f, 0) = value;
  if (quotient) x87_set_condition(f, fsw::condition, status);  // else C0 and C3 stay
  return true;
}

using Unary = X87Result (*)(const X87Register&, uint16_t);
using Binary = X87Result (*)(const X87Register&, const X87Register&, uint16_t);
using BinaryByModel = X87Result (*)(const X87Register&, const X87Register&, uint16_t, ProcessorModel);
X87Result apply(Binary f, SoftCpu& cpu) { return f(x87_st(cpu.s.x87, 0), x87_st(cpu.s.x87, 1), cpu.s.x87.fcw); }
X87Result apply(BinaryByModel f, SoftCpu& cpu) {
  return f(x87_st(cpu.s.x87, 0), x87_st(cpu.s.x87, 1), cpu.s.x87.fcw, cpu.processor_model);
}

// FSIN, FCOS, F2XM1: ST(0) = F(ST(0)).
template <Unary F, uint16_t Clear>
bool exec_unary(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (!begin(f, 1, Clear)) {
    if (x87_stack_underflow(cpu)) x87_set(f, 0, kX87Indefinite);
    return true;
  }
  const X87Result result = F(x87_st(f, 0), f.fcw);
  if (!x87_raise(cpu, x87_effective_flags(f, result.flags))) return true;
  f.fsw = static_cast<uint16_t>(f.fsw | (result.flags & fsw::C2));
  x87_st(f, 0) = result.value;
  return true;
}

// FSCALE: ST(0) = F(ST(0), ST(1)); with Pop, FYL2X and the like: ST(1) = F(ST(0), ST(1)), pop.
template <auto F, bool Pop>
bool exec_binary(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  X87Register value = kX87Indefinite;
  if (!begin(f, 2, fsw::C1)) {
    if (!x87_stack_underflow(cpu)) return true;
  } else {
    const X87Result result = apply(F, cpu);
    if (!x87_raise(cpu, x87_effective_flags(f, result.flags))) return true;
    value = result.value;
  }
  x87_set(f, Pop ? 1 : 0, value);
  if (Pop) x87_pop(f);
  return true;
}

// The stack faults of instructions that replace ST(0) and push: both results are the indefinite. True: none.
bool begin_push(SoftCpu& cpu, uint16_t clear) {
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, clear);
  const bool underflow = x87_empty(f, 0);
  if (!underflow && x87_empty(f, 7)) return true;
  if (underflow ? x87_stack_underflow(cpu) : x87_stack_overflow(cpu)) {
    x87_set(f, 0, kX87Indefinite);
    x87_push(f, kX87Indefinite);
  }
  return false;
}

// FPTAN pushes 1.0, or the NaN once more.
bool exec_tangent(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (!begin_push(cpu, fsw::C1 | fsw::C2)) return true;
  const X87Result result = x87_fptan(x87_st(f, 0), f.fcw);
  if (!x87_raise(cpu, x87_effective_flags(f, result.flags))) return true;
  if ((result.flags & fsw::C2) != 0) {
    f.fsw |= fsw::C2;
    return true;
  }
  x87_st(f, 0) = result.value;
  x87_push(f, x87_classify(result.value) == X87Class::nan ? result.value : kX87One);
  return true;
}

bool exec_sincos(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (!begin_push(cpu, fsw::C1 | fsw::C2)) return true;
  const X87SinCos result = x87_fsincos(x87_st(f, 0), f.fcw);
  if (!x87_raise(cpu, x87_effective_flags(f, result.flags))) return true;
  if ((result.flags & fsw::C2) != 0) {
    f.fsw |= fsw::C2;
    return true;
  }
  x87_st(f, 0) = result.sine;
  x87_push(f, result.cosine);
  return true;
}

bool exec_extract(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (!begin_push(cpu, fsw::C1)) return true;
  const X87Parts parts = x87_fxtract(x87_st(f, 0));
  if (!x87_raise(cpu, parts.flags)) return true;
  x87_st(f, 0) = parts.exponent;
  x87_push(f, parts.significand);
  return true;
}

template <class Operation>
Handler arith_handler(X87Form form) {
  switch (form) {
    case X87Form::st0_sti: return op_call<exec_arith<Operation, false, false>>;
    case X87Form::sti_st0: return op_call<exec_arith<Operation, true, false>>;
    case X87Form::sti_st0_pop: return op_call<exec_arith<Operation, true, true>>;
    case X87Form::float32: return op_call<exec_arith_memory<typename Operation::Float32, uint32_t>>;
    case X87Form::float64: return op_call<exec_arith_memory<typename Operation::Float64, uint64_t>>;
    case X87Form::int16: return op_call<exec_arith_memory<typename Operation::Int16, uint16_t>>;
    case X87Form::int32: return op_call<exec_arith_memory<typename Operation::Int32, uint32_t>>;
  }
  return nullptr;
}

}  // namespace

Handler x87_arith_handler(X87Form form, unsigned reg) {
  switch (reg) {
    case 0: return arith_handler<x87_host::Add>(form);
    case 1: return arith_handler<x87_host::Mul>(form);
    case 4: return arith_handler<x87_host::Sub>(form);
    case 5: return arith_handler<x87_host::Subr>(form);
    case 6: return arith_handler<x87_host::Div>(form);
    case 7: return arith_handler<x87_host::Divr>(form);
    default: return nullptr;
  }
}

Handler x87_d9_handler(unsigned low) {
  switch (low) {
    case 0x0: return op_call<exec_unary<x87_f2xm1, fsw::C1>>;
    case 0x1: return op_call<exec_binary<x87_fyl2x, true>>;
    case 0x2: return op_call<exec_tangent>;
    case 0x3: return op_call<exec_binary<x87_fpatan, true>>;
    case 0x4: return op_call<exec_extract>;
    case 0x5: return op_call<exec_remainder<x87_host::RemainderIeee>>;
    case 0x8: return op_call<exec_remainder<x87_host::Remainder>>;
    case 0x9: return op_call<exec_binary<x87_fyl2xp1, true>>;
    case 0xa: return op_call<exec_host_unary<x87_host::Sqrt>>;
    case 0xb: return op_call<exec_sincos>;
    case 0xc: return op_call<exec_host_unary<x87_host::RoundToInteger>>;
    case 0xd: return op_call<exec_binary<x87_fscale, false>>;
    case 0xe: return op_call<exec_unary<x87_fsin, fsw::C1 | fsw::C2>>;
    case 0xf: return op_call<exec_unary<x87_fcos, fsw::C1 | fsw::C2>>;
    default: return nullptr;
  }
}

}  // namespace retrovisor::soft
