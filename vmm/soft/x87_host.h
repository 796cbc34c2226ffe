// Exactly defined x87 operations, executed by the host's x87: the result, its rounding and its exceptions are what
// IEEE 754 and the SDM say, so every host gives the same bits.
//
// The host's control word is the default one (0x37f) outside of these functions, its register stack is empty, and its
// status is anything. With all of the guest's exceptions masked the operation runs with the guest's control word as is.
// Otherwise it does so too, but the status is taken and cleared by instructions that do not wait, so that the host
// never traps; the destination is read after that. The destination then holds the guest's unmasked response
// (operand unchanged, or a result with adjusted exponent).
#pragma once

#include "vmm/soft/x87_state.h"

namespace retrovisor::soft::x87_host {

#define RV_X87_CLOBBERS "ax", "memory", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"

inline void load_control(uint16_t control) { asm volatile("fldcw %0" : : "m"(control) : "memory"); }
inline bool all_masked(const X87State& f) { return (f.fcw & fcw::masks) == fcw::masks; }

// Exception flags that earlier operations left in the host's status must not be taken for the guest's. FNCLEX takes
// longer than everything else here together. But exception flags are sticky: with all exceptions masked, a flag that the
// guest has set already may stay set in the host, because to find it raised again changes nothing.
inline void clear_exceptions(const X87State& f) {
  uint16_t status;
  asm volatile("fnstsw %0" : "=a"(status));
  const unsigned keep = all_masked(f) ? f.fsw & fsw::exceptions : 0u;
  if ((status & fsw::exceptions & ~keep) != 0) asm volatile("fnclex" : : : RV_X87_CLOBBERS);
}

// Runs Operation with the guest's control word; it returns the host's status. Its exceptions are those of the operation
// and, if all are masked, perhaps others that the guest's status has already. C1 is that of the operation: it is set
// if the result was rounded up, otherwise clear.
template <class Operation, class Out, class... Operand>
inline uint16_t run(const X87State& f, Out& out, const Operand&... operand) {
  clear_exceptions(f);
  if (__builtin_expect(f.fcw == fcw::initial, 1)) return Operation::masked(out, operand...);
  load_control(f.fcw);
  const uint16_t status = all_masked(f) ? Operation::masked(out, operand...) : Operation::trapping(out, operand...);
  load_control(fcw::initial);
  return status;
}
// The same for operations whose result does not depend on the exception masks.
template <class Operation, class Out, class... Operand>
inline uint16_t run_masked(const X87State& f, Out& out, const Operand&... operand) {
  clear_exceptions(f);
  const uint16_t control = f.fcw | fcw::masks;
  if (__builtin_expect(control == fcw::initial, 1)) return Operation::masked(out, operand...);
  load_control(control);
  const uint16_t status = Operation::masked(out, operand...);
  load_control(fcw::initial);
  return status;
}

// out = INSN(ST(0) = a), with b in ST(1).
#define RV_X87_STACK_BODY(INSN, CLEAR)                                                                              \
  uint16_t status;                                                                                                  \
  asm volatile("fldt %[b]\n\tfldt %[a]\n\t" INSN "\n\tfnstsw %[sw]\n\t" CLEAR "fstpt %[out]\n\tfstp %%st(0)"        \
               : [out] "=m"(out), [sw] "=m"(status)                                                                 \
               : [a] "m"(a), [b] "m"(b)                                                                             \
               : RV_X87_CLOBBERS);                                                                                  \
  return status;
#define RV_X87_STACK(NAME, INSN)                                                                                    \
  struct NAME {                                                                                                     \
    static uint16_t masked(X87Register& out, const X87Register& a, const X87Register& b) {                          \
      RV_X87_STACK_BODY(INSN, "")                                                                                   \
    }                                                                                                               \
    static uint16_t trapping(X87Register& out, const X87Register& a, const X87Register& b) {                        \
      RV_X87_STACK_BODY(INSN, "fnclex\n\t")                                                                         \
    }                                                                                                               \
  };

// out = INSN(ST(0) = a), with the operand b in memory.
#define RV_X87_MEMORY_BODY(INSN, CLEAR)                                                                             \
  uint16_t status;                                                                                                  \
  asm volatile("fldt %[a]\n\t" INSN " %[b]\n\tfnstsw %[sw]\n\t" CLEAR "fstpt %[out]"                                \
               : [out] "=m"(out), [sw] "=m"(status)                                                                 \
               : [a] "m"(a), [b] "m"(b)                                                                             \
               : RV_X87_CLOBBERS);                                                                                  \
  return status;
#define RV_X87_MEMORY(NAME, INSN)                                                                                   \
  struct NAME {                                                                                                     \
    template <class T>                                                                                              \
    static uint16_t masked(X87Register& out, const X87Register& a, const T& b) { RV_X87_MEMORY_BODY(INSN, "") }     \
    template <class T>                                                                                              \
    static uint16_t trapping(X87Register& out, const X87Register& a, const T& b) {                                  \
      RV_X87_MEMORY_BODY(INSN, "fnclex\n\t")                                                                        \
    }                                                                                                               \
  };

// One arithmetic operation in all its operand forms.
#define RV_X87_ARITHMETIC(NAME, STEM)            \
  struct NAME {                                  \
    RV_X87_STACK(Stack, "f" STEM " %%st(1), %%st") \
    RV_X87_MEMORY(Float32, "f" STEM "s")         \
    RV_X87_MEMORY(Float64, "f" STEM "l")         \
    RV_X87_MEMORY(Int16, "fi" STEM "s")          \
    RV_X87_MEMORY(Int32, "fi" STEM "l")          \
  };
RV_X87_ARITHMETIC(Add, "add")
RV_X87_ARITHMETIC(Mul, "mul")
RV_X87_ARITHMETIC(Sub, "sub")
RV_X87_ARITHMETIC(Subr, "subr")
RV_X87_ARITHMETIC(Div, "div")
RV_X87_ARITHMETIC(Divr, "divr")
RV_X87_STACK(Sqrt, "fsqrt")
RV_X87_STACK(RoundToInteger, "frndint")
RV_X87_STACK(Remainder, "fprem")
RV_X87_STACK(RemainderIeee, "fprem1")

// Stores of ST(0) = a. Where the guest's unmasked response is not to store, `out` keeps its value.
#define RV_X87_STORE_BODY(INSN, CLEAR)                                                             \
  uint16_t status;                                                                                 \
  asm volatile("fldt %[a]\n\t" INSN " %[out]\n\tfnstsw %[sw]\n\t" CLEAR "fstp %%st(0)"             \
               : [out] "+m"(out), [sw] "=m"(status)                                                \
               : [a] "m"(a)                                                                        \
               : RV_X87_CLOBBERS);                                                                 \
  return status;
#define RV_X87_STORE(NAME, INSN)                                                                   \
  struct NAME {                                                                                    \
    template <class T>                                                                             \
    static uint16_t masked(T& out, const X87Register& a) { RV_X87_STORE_BODY(INSN, "") }           \
    template <class T>                                                                             \
    static uint16_t trapping(T& out, const X87Register& a) { RV_X87_STORE_BODY(INSN, "fnclex\n\t") } \
  };
RV_X87_STORE(StoreFloat32, "fsts")
RV_X87_STORE(StoreFloat64, "fstl")

// Stores that pop, for run_masked: their unmasked response is the masked one, or not to store.
#define RV_X87_STORE_POP(NAME, INSN)                                            \
  struct NAME {                                                                 \
    template <class T>                                                          \
    static uint16_t masked(T& out, const X87Register& a) {                      \
      uint16_t status;                                                          \
      asm volatile("fldt %[a]\n\t" INSN " %[out]\n\tfnstsw %[sw]"               \
                   : [out] "=m"(out), [sw] "=m"(status)                         \
                   : [a] "m"(a)                                                 \
                   : RV_X87_CLOBBERS);                                          \
      return status;                                                            \
    }                                                                           \
  };
RV_X87_STORE_POP(StoreInt16, "fistps")
RV_X87_STORE_POP(StoreInt32, "fistpl")
RV_X87_STORE_POP(StoreInt64, "fistpll")
RV_X87_STORE_POP(TruncateInt16, "fisttps")
RV_X87_STORE_POP(TruncateInt32, "fisttpl")
RV_X87_STORE_POP(TruncateInt64, "fisttpll")
RV_X87_STORE_POP(StoreBcd, "fbstp")

#undef RV_X87_STACK_BODY
#undef RV_X87_STACK
#undef RV_X87_MEMORY_BODY
#undef RV_X87_MEMORY
#undef RV_X87_ARITHMETIC
#undef RV_X87_STORE_BODY
#undef RV_X87_STORE
#undef RV_X87_STORE_POP
#undef RV_X87_CLOBBERS

}  // namespace retrovisor::soft::x87_host
