// What the MMX and SSE groups share: operand access, kernels' calling convention, and how an emitter picks a handler.
//
// A guest instruction is executed by the host instruction of the same name, written as inline assembly so that it does
// not depend on compiler options. MMX operations run in the low half of host XMM registers: host MMX (and with it the host's
// x87 state) is never touched. In these groups Op::r0 and Op::r1 hold register numbers, or slot offsets for general
// registers.
#pragma once

#include <emmintrin.h>

#include <type_traits>

#include "vmm/soft/emit.h"
#include "vmm/soft/memory.h"
#include "vmm/soft/x87.h"

namespace retrovisor::soft {

using Vec = __m128i;

// The mandatory prefix that counts: F3 and F2 (the last of them) beat 66 (SDM 2A 2.1.2, 2B 4.1.4).
enum class SsePrefix : uint8_t { none, p66, f3, f2 };

// An instruction on its way through the emitters.
struct SseForm {
  const Insn& insn;
  Op& op;
  FpuClass& fpu;
  SsePrefix prefix;

  bool is(SsePrefix p) const { return prefix == p; }
  bool memory() const { return insn.memory; }
  bool rex_w() const { return (insn.rex & 8) != 0; }
  // Operands are XMM registers (r0: ModRM.reg, r1: ModRM.rm).
  void xmm_registers() const {
    op.r0 = insn.reg;
    op.r1 = insn.rm;
  }
  // Operands are MMX registers: REX.R and REX.B do not count (SDM 2A 2.2.1.2).
  void mmx_registers() const {
    op.r0 = insn.reg & 7;
    op.r1 = insn.rm & 7;
  }
  Emit use(FpuClass fpu_class, Handler handler) const {
    fpu = fpu_class;
    op.fn = handler;
    return Emit::next;
  }
  Emit sse(Handler handler) const { return use(FpuClass::sse, handler); }
  Emit mmx(Handler handler) const { return use(FpuClass::mmx, handler); }
};

// ---- Effective addresses ----

// Any form of memory operand, through one out-of-line call: for instructions that need not be fast.
struct EaAny {
  static uint64_t linear(SoftCpu* cpu, const Op* op, unsigned size, Access access) {
    return operand_address(*cpu, *op, size, access);
  }
};

inline Handler choose_ea(const Op& op, Handler base, Handler general, Handler slow) {
  switch (ea_form(op)) {
    case EaForm::base: return base;
    case EaForm::general: return general;
    default: return slow;
  }
}
// The handler of `exec<args..., Ea>` for the address form of `o`.
#define RV_SSE_EA(o, exec, ...)                                                                                           \
  choose_ea((o), &op_call<exec<__VA_ARGS__ __VA_OPT__(, ) EaBase>>, &op_call<exec<__VA_ARGS__ __VA_OPT__(, ) EaGeneral>>, \
            &op_call<exec<__VA_ARGS__ __VA_OPT__(, ) EaSlow>>)

// ---- Registers ----

[[gnu::always_inline]] inline Vec vec_of(const Xmm& x) { return _mm_load_si128(reinterpret_cast<const Vec*>(&x)); }
[[gnu::always_inline]] inline Vec vec_of(uint64_t low) { return _mm_cvtsi64_si128(static_cast<long long>(low)); }
[[gnu::always_inline]] inline Xmm xmm_of(Vec v) {
  Xmm x;
  _mm_store_si128(reinterpret_cast<Vec*>(&x), v);
  return x;
}
[[gnu::always_inline]] inline uint64_t low_of(Vec v) { return static_cast<uint64_t>(_mm_cvtsi128_si64(v)); }
[[gnu::always_inline]] inline uint64_t high_of(Vec v) { return low_of(_mm_unpackhi_epi64(v, v)); }
[[gnu::always_inline]] inline Vec get_xmm(const SoftCpu& cpu, unsigned n) { return vec_of(cpu.s.xmm[n]); }
[[gnu::always_inline]] inline void set_xmm(SoftCpu& cpu, unsigned n, Vec v) {
  _mm_store_si128(reinterpret_cast<Vec*>(&cpu.s.xmm[n]), v);
}

// MMX registers. One that is written gets ones for its sign and exponent (SDM 3A 12.2, table 12-2). set_mmx and mmx_touch
// put the x87 state into MMX use; call them when nothing can fault any more.
inline void mmx_touch(SoftCpu& cpu) { x87_enter_mmx(cpu.s.x87); }
inline uint64_t get_mmx(const SoftCpu& cpu, unsigned n) { return cpu.s.x87.r[n].mantissa; }
inline void set_mmx(SoftCpu& cpu, unsigned n, uint64_t value) {
  mmx_touch(cpu);
  cpu.s.x87.r[n] = {value, 0xffff};
}

// ---- Memory operands ----

// Raises the fault of a misaligned operand: #GP(0), unless its address is at fault first (not canonical, segment check
// failed).
void sse_misaligned(SoftCpu& cpu, const Op& op, uint64_t linear, Access access);

enum class Align : bool { any, natural };

// The 16-byte memory operand.
template <class Ea, Align A>
[[gnu::always_inline]] inline bool load_vec(SoftCpu& cpu, const Op& op, Vec& out) {
  const uint64_t linear = Ea::linear(&cpu, &op, 16, Access::read);
  if constexpr (A == Align::natural) {
    if (__builtin_expect((linear & 15) != 0, 0)) {
      sse_misaligned(cpu, op, linear, Access::read);
      return false;
    }
  }
  // As load<Xmm>(), but the value stays in a register on a TLB hit.
  const TlbEntry& e = cpu.tlb->entry[(linear >> kPageShift) % kTlbEntries];
  if (__builtin_expect(((linear + 15) & kPageMask) == e.read_tag, 1)) {
    out = _mm_loadu_si128(reinterpret_cast<const Vec*>(linear + e.addend));
    return true;
  }
  Xmm slow;
  if (!mem_access(cpu, op, linear, &slow, 16, Access::read)) return false;
  out = vec_of(slow);
  return true;
}

template <class Ea, Align A>
[[gnu::always_inline]] inline bool store_vec(SoftCpu& cpu, const Op& op, const Xmm& value) {
  const uint64_t linear = Ea::linear(&cpu, &op, 16, Access::write);
  if constexpr (A == Align::natural) {
    if (__builtin_expect((linear & 15) != 0, 0)) {
      sse_misaligned(cpu, op, linear, Access::write);
      return false;
    }
  }
  return store(&cpu, &op, linear, value);
}

// Smaller operands, which need no alignment.
template <class T, class Ea>
[[gnu::always_inline]] inline bool load_scalar(SoftCpu& cpu, const Op& op, T& out) {
  return load(&cpu, &op, Ea::linear(&cpu, &op, sizeof(T), Access::read), out);
}
template <class T, class Ea>
[[gnu::always_inline]] inline bool store_scalar(SoftCpu& cpu, const Op& op, T value) {
  return store(&cpu, &op, Ea::linear(&cpu, &op, sizeof(T), Access::write), value);
}

// A memory source operand of `Size` bytes, zero-extended; 16-byte ones must be aligned.
template <unsigned Size, class Ea>
[[gnu::always_inline]] inline bool load_source(SoftCpu& cpu, const Op& op, Vec& out) {
  if constexpr (Size == 16) {
    return load_vec<Ea, Align::natural>(cpu, op, out);
  } else {
    static_assert(Size == 8 || Size == 4 || Size == 2);
    using T = std::conditional_t<Size == 8, uint64_t, std::conditional_t<Size == 4, uint32_t, uint16_t>>;
    T value = 0;
    if (!load_scalar<T, Ea>(cpu, op, value)) return false;
    out = vec_of(uint64_t{value});
    return true;
  }
}

// ---- Two-operand instructions: K::xmm(a, b) and K::mmx(a, b) are the operation, on values ----

template <class K>
bool exec_xmm_reg(SoftCpu& cpu, const Op& op) {
  set_xmm(cpu, op.r0, K::xmm(get_xmm(cpu, op.r0), get_xmm(cpu, op.r1)));
  return true;
}
template <class K, unsigned Size, class Ea>
bool exec_xmm_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!load_source<Size, Ea>(cpu, op, source)) return false;
  set_xmm(cpu, op.r0, K::xmm(get_xmm(cpu, op.r0), source));
  return true;
}
template <class K>
bool exec_mmx_reg(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r0, low_of(K::mmx(vec_of(get_mmx(cpu, op.r0)), vec_of(get_mmx(cpu, op.r1)))));
  return true;
}
template <class K, unsigned Size>
bool exec_mmx_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!x87_check_pending(cpu) || !load_source<Size, EaAny>(cpu, op, source)) return false;
  set_mmx(cpu, op.r0, low_of(K::mmx(vec_of(get_mmx(cpu, op.r0)), source)));
  return true;
}

// How much an instruction is worth: `hot` ones get a handler for each address form.
enum class Heat : bool { cold, hot };

// The XMM form, whatever the prefix.
template <class K, Heat H = Heat::cold, unsigned Size = 16>
Emit emit_xmm(const SseForm& f) {
  f.xmm_registers();
  if (!f.memory()) return f.sse(&op_call<exec_xmm_reg<K>>);
  if constexpr (H == Heat::hot) {
    return f.sse(RV_SSE_EA(f.op, exec_xmm_mem, K, Size));
  } else {
    return f.sse(&op_call<exec_xmm_mem<K, Size, EaAny>>);
  }
}
template <class K, unsigned Size = 8>
Emit emit_mmx(const SseForm& f) {
  f.mmx_registers();
  return f.mmx(f.memory() ? &op_call<exec_mmx_mem<K, Size>> : &op_call<exec_mmx_reg<K>>);
}
// The usual pair: no prefix is MMX, 66 is SSE2.
template <class K, Heat H = Heat::cold, unsigned MmxSize = 8>
Emit emit_mmx_or_xmm(const SseForm& f) {
  if (f.is(SsePrefix::none)) return emit_mmx<K, MmxSize>(f);
  if (f.is(SsePrefix::p66)) return emit_xmm<K, H>(f);
  return Emit::unknown;
}

// A kernel of the host instruction `name`: destination operated with source. MMX: the low halves do the same.
#define RV_SSE_KERNEL(name)                            \
  struct K_##name {                                    \
    static Vec xmm(Vec a, Vec b) {                     \
      asm(#name " %1, %0" : "+x"(a) : "x"(b));         \
      return a;                                        \
    }                                                  \
    static Vec mmx(Vec a, Vec b) { return xmm(a, b); } \
  }
// The same where the old destination is not read.
#define RV_SSE_UNARY_KERNEL(name)                      \
  struct K_##name {                                    \
    static Vec xmm(Vec, Vec b) {                       \
      Vec a;                                           \
      asm(#name " %1, %0" : "=x"(a) : "x"(b));         \
      return a;                                        \
    }                                                  \
    static Vec mmx(Vec a, Vec b) { return xmm(a, b); } \
  }
// The same for operations that go over one operand after the other (packs, horizontal adds): the MMX form is the
// low half of the XMM form applied to both operands side by side.
#define RV_SSE_CONCAT_KERNEL(name)               \
  struct K_##name {                              \
    static Vec xmm(Vec a, Vec b) {               \
      asm(#name " %1, %0" : "+x"(a) : "x"(b));   \
      return a;                                  \
    }                                            \
    static Vec mmx(Vec a, Vec b) {               \
      const Vec both = _mm_unpacklo_epi64(a, b); \
      return xmm(both, both);                    \
    }                                            \
  }

}  // namespace retrovisor::soft
