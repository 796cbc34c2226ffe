// x87 loads, stores, constants, exchanges and conditional moves.
#include "vmm/soft/x87_move.h"

#include "vmm/soft/x87_host.h"
#include "vmm/soft/x87_operand.h"

namespace retrovisor::soft {
namespace {

// Signaling NaNs become quiet when they change their format (SDM 2 FLD).
template <class T>
X87Result convert(T operand) {
  const X87Widened wide = x87_widen(operand);
  if (x87_classify(wide.value) == X87Class::nan) return x87_propagate_nan(wide.value);
  return {wide.value, wide.denormal ? fsw::DE : uint16_t{0}};
}

// Pushes what a load found, after its memory access. Stack overflow comes before what is wrong with the value. An
// unmasked denormal operand is pushed nevertheless: only invalid operations keep a load from completing.
bool finish_load(SoftCpu& cpu, const X87Result& loaded) {
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  if (!x87_empty(f, 7)) {
    if (x87_stack_overflow(cpu)) x87_push(f, kX87Indefinite);
    return true;
  }
  x87_raise(cpu, loaded.flags);
  if ((loaded.flags & ~f.fcw & fsw::IE) == 0) x87_push(f, loaded.value);
  return true;
}

template <class T>
bool exec_load(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  T value;
  if (!load_operand(cpu, op, value)) return false;
  x87_note_operand(cpu, op);
  return finish_load(cpu, convert(value));
}

bool exec_load_float80(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  uint8_t data[10];
  if (!x87_load_ten_bytes(cpu, op, data)) return false;
  x87_note_operand(cpu, op);
  X87Register value;
  std::memcpy(&value.mantissa, data, 8);
  std::memcpy(&value.sign_exponent, data + 8, 2);
  return finish_load(cpu, {value});
}

// Nibbles above nine are not defined; they count with their value.
bool exec_load_bcd(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  uint8_t data[10];
  if (!x87_load_ten_bytes(cpu, op, data)) return false;
  x87_note_operand(cpu, op);
  uint64_t magnitude = 0;
  for (unsigned i = 9; i-- > 0;) magnitude = magnitude * 100 + (data[i] >> 4) * 10u + (data[i] & 15);
  return finish_load(cpu, {x87_from_magnitude(magnitude, data[9] >> 7 != 0)});
}

// Kinds of stores: how to convert, and what the masked response to a stack underflow stores.
template <class T, class HostOperation>
struct FloatStore {
  using Value = T;
  static constexpr uint16_t not_stored = fsw::IE | fsw::OE | fsw::UE;  // when unmasked (SDM 1 8.5.4)
  static T indefinite() { return static_cast<T>(sizeof(T) == 4 ? 0xffc00000 : 0xfff8000000000000); }
  static uint16_t convert(const X87State& f, T& out, const X87Register& a) {
    return x87_host::run<HostOperation>(f, out, a);
  }
};
template <class T, class HostOperation>
struct IntegerStore {
  using Value = T;
  static constexpr uint16_t not_stored = fsw::IE;
  static T indefinite() { return static_cast<T>(T{1} << (8 * sizeof(T) - 1)); }
  static uint16_t convert(const X87State& f, T& out, const X87Register& a) {
    const uint16_t status = x87_host::run_masked<HostOperation>(f, out, a);
    return (status & ~f.fcw & fsw::IE) != 0 ? fsw::IE : status;
  }
};

// A store that an unmasked exception holds back still needs a place to go to: page and segment faults come first. Not on
// `intel`, where nothing of its operand is looked at (measured, both).
bool not_stored(SoftCpu& cpu, const Op& op, unsigned size) {
  if (cpu.processor_model == ProcessorModel::intel) return true;
  return x87_probe_store(cpu, op, operand_address(cpu, op, size, Access::write), size);
}

template <class Kind, bool Pop>
bool exec_store(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  X87State& f = cpu.s.x87;
  typename Kind::Value value = Kind::indefinite();
  const bool underflow = x87_empty(f, 0);
  uint16_t flags = underflow ? fsw::IE : Kind::convert(f, value, x87_st(f, 0));
  const bool stored = (flags & ~f.fcw & Kind::not_stored) == 0;
  if (!(stored ? store_operand(cpu, op, value) : not_stored(cpu, op, sizeof value))) return false;
  x87_note_operand(cpu, op);
  x87_clear_condition(f, fsw::C1);
  flags &= fsw::exceptions | fsw::C1;
  x87_raise(cpu, static_cast<uint16_t>(flags | (underflow ? fsw::SF : 0)));
  if (Pop && stored) x87_pop(f);
  return true;
}

// Ten bytes: FSTP m80 and FBSTP.
template <bool Bcd>
bool exec_store_ten_bytes(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  X87State& f = cpu.s.x87;
  struct { uint8_t byte[10]; } data = {};
  uint16_t flags = 0;
  if (!x87_empty(f, 0)) {
    if constexpr (Bcd) {
      flags = x87_host::run_masked<x87_host::StoreBcd>(f, data, x87_st(f, 0));
      flags &= (flags & ~f.fcw & fsw::IE) != 0 ? fsw::IE : fsw::exceptions | fsw::C1;
    } else {
      const X87Register& a = x87_st(f, 0);
      std::memcpy(data.byte, &a.mantissa, 8);
      std::memcpy(data.byte + 8, &a.sign_exponent, 2);
    }
  } else {
    flags = fsw::IE | fsw::SF;
    data.byte[7] = 0xc0;  // indefinite: the same bytes for real and packed BCD
    data.byte[8] = data.byte[9] = 0xff;
  }
  const bool stored = (flags & ~f.fcw & fsw::IE) == 0;
  constexpr unsigned size = sizeof data.byte;
  if (!(stored ? x87_store_ten_bytes(cpu, op, data.byte) : not_stored(cpu, op, size))) return false;
  x87_note_operand(cpu, op);
  x87_clear_condition(f, fsw::C1);
  x87_raise(cpu, flags);
  if (stored) x87_pop(f);
  return true;
}

bool exec_load_register(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  if (x87_empty(f, op.r0)) {
    if (x87_stack_underflow(cpu)) x87_push(f, kX87Indefinite);
    return true;
  }
  return finish_load(cpu, {x87_st(f, op.r0)});
}

template <bool Pop>
bool exec_store_register(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  X87Register value = kX87Indefinite;
  if (!x87_empty(f, 0)) {
    value = x87_st(f, 0);
  } else if (!x87_stack_underflow(cpu)) {
    return true;
  }
  x87_set(f, op.r0, value);
  if (Pop) x87_pop(f);
  return true;
}

// D9 D8+i. An empty ST(0) is no stack fault here: the register only is popped.
bool exec_store_quiet(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  if (!x87_empty(f, 0)) x87_set(f, op.r0, x87_st(f, 0));
  x87_pop(f);
  return true;
}

bool exec_exchange(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  const bool empty0 = x87_empty(f, 0), empty_i = x87_empty(f, op.r0);
  if ((empty0 || empty_i) && !x87_stack_underflow(cpu)) return true;
  const X87Register a = empty0 ? kX87Indefinite : x87_st(f, 0);
  const X87Register b = empty_i ? kX87Indefinite : x87_st(f, op.r0);
  x87_set(f, 0, b);
  x87_set(f, op.r0, a);
  return true;
}

// FCMOVcc: 0 CF, 1 ZF, 2 CF or ZF, 3 PF; 4 more: the negation. C1 changes only with a stack fault.
template <unsigned Condition>
bool exec_conditional_move(SoftCpu& cpu, const Op& op) {
  constexpr uint32_t kFlags[4] = {cc::CF, cc::ZF, cc::CF | cc::ZF, cc::PF};
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  if (x87_empty(f, 0) || x87_empty(f, op.r0)) {
    if (x87_stack_underflow(cpu)) x87_set(f, 0, kX87Indefinite);
    return true;
  }
  const bool holds = ((cpu.cc & kFlags[Condition & 3]) != 0) != (Condition >= 4);
  if (holds) x87_set(f, 0, x87_st(f, op.r0));
  return true;
}

// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ: rounded from more bits by the rounding control (SDM 1 8.3.7).
struct Constant {
  uint64_t mantissa;  // truncated
  uint16_t exponent;
  bool inexact;
  bool nearest_is_up;
};
constexpr Constant kConstants[7] = {
    {0x8000000000000000, 0x3fff, false, false},  // 1
    {0xd49a784bcd1b8afe, 0x4000, true, false},   // log2(10)
    {0xb8aa3b295c17f0bb, 0x3fff, true, true},    // log2(e)
    {0xc90fdaa22168c234, 0x4000, true, true},    // pi
    {0x9a209a84fbcff798, 0x3ffd, true, true},    // log10(2)
    {0xb17217f7d1cf79ab, 0x3ffe, true, true},    // ln(2)
    {0, 0, false, false},                        // 0
};

template <unsigned Index>
bool exec_constant(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  constexpr Constant c = kConstants[Index];
  const unsigned rounding = f.fcw >> fcw::rc_shift & 3;
  const bool up = c.inexact && (rounding == 2 || (rounding == 0 && c.nearest_is_up));
  return finish_load(cpu, {{c.mantissa + (up ? 1 : 0), c.exponent}});
}

template <bool Absolute>
bool exec_sign(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  if (x87_empty(f, 0)) {
    if (x87_stack_underflow(cpu)) x87_set(f, 0, kX87Indefinite);
    return true;
  }
  uint16_t& se = x87_st(f, 0).sign_exponent;
  se = static_cast<uint16_t>(Absolute ? se & kX87MaxExponent : se ^ kX87Sign);
  return true;
}

template <bool Pop>
Handler store_handler(X87Memory type) {
  switch (type) {
    case X87Memory::float32: return op_call<exec_store<FloatStore<uint32_t, x87_host::StoreFloat32>, Pop>>;
    case X87Memory::float64: return op_call<exec_store<FloatStore<uint64_t, x87_host::StoreFloat64>, Pop>>;
    case X87Memory::int16: return op_call<exec_store<IntegerStore<uint16_t, x87_host::StoreInt16>, Pop>>;
    case X87Memory::int32: return op_call<exec_store<IntegerStore<uint32_t, x87_host::StoreInt32>, Pop>>;
    case X87Memory::int64: return op_call<exec_store<IntegerStore<uint64_t, x87_host::StoreInt64>, Pop>>;
    case X87Memory::float80: return op_call<exec_store_ten_bytes<false>>;
    case X87Memory::bcd: return op_call<exec_store_ten_bytes<true>>;
  }
  return nullptr;
}

}  // namespace

Handler x87_load_handler(X87Memory type) {
  switch (type) {
    case X87Memory::float32: return op_call<exec_load<X87Float32>>;
    case X87Memory::float64: return op_call<exec_load<X87Float64>>;
    case X87Memory::float80: return op_call<exec_load_float80>;
    case X87Memory::int16: return op_call<exec_load<int16_t>>;
    case X87Memory::int32: return op_call<exec_load<int32_t>>;
    case X87Memory::int64: return op_call<exec_load<int64_t>>;
    case X87Memory::bcd: return op_call<exec_load_bcd>;
  }
  return nullptr;
}

Handler x87_store_handler(X87Memory type, bool pop) { return pop ? store_handler<true>(type) : store_handler<false>(type); }

Handler x87_store_truncating_handler(X87Memory type) {
  switch (type) {
    case X87Memory::int16: return op_call<exec_store<IntegerStore<uint16_t, x87_host::TruncateInt16>, true>>;
    case X87Memory::int32: return op_call<exec_store<IntegerStore<uint32_t, x87_host::TruncateInt32>, true>>;
    case X87Memory::int64: return op_call<exec_store<IntegerStore<uint64_t, x87_host::TruncateInt64>, true>>;
    default: return nullptr;
  }
}

Handler x87_load_register_handler() { return op_call<exec_load_register>; }
Handler x87_store_register_handler(bool pop) {
  return pop ? op_call<exec_store_register<true>> : op_call<exec_store_register<false>>;
}
Handler x87_store_quiet_handler() { return op_call<exec_store_quiet>; }
Handler x87_exchange_handler() { return op_call<exec_exchange>; }

Handler x87_conditional_move_handler(unsigned condition) {
  static constexpr Handler kHandlers[8] = {
      op_call<exec_conditional_move<0>>, op_call<exec_conditional_move<1>>, op_call<exec_conditional_move<2>>,
      op_call<exec_conditional_move<3>>, op_call<exec_conditional_move<4>>, op_call<exec_conditional_move<5>>,
      op_call<exec_conditional_move<6>>, op_call<exec_conditional_move<7>>};
  return kHandlers[condition & 7];
}

Handler x87_constant_handler(unsigned low) {
  static constexpr Handler kHandlers[8] = {op_call<exec_constant<0>>, op_call<exec_constant<1>>, op_call<exec_constant<2>>,
                                           op_call<exec_constant<3>>, op_call<exec_constant<4>>, op_call<exec_constant<5>>,
                                           op_call<exec_constant<6>>, nullptr};
  return kHandlers[low & 7];
}

Handler x87_sign_handler(bool absolute) { return absolute ? op_call<exec_sign<true>> : op_call<exec_sign<false>>; }

}  // namespace retrovisor::soft
