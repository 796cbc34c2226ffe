// Floating point under the guest's MXCSR. Source: SDM 1 10.2.3, 11.5.
#pragma once

#include "vmm/soft/sse_common.h"

namespace retrovisor::soft {

// Arithmetic under MXCSR. Emit::unknown for what is not of this group.
Emit emit_sse_fp(const SseForm& f);

namespace mxcsr {
inline constexpr uint32_t IE = 1 << 0, DE = 1 << 1, ZE = 1 << 2, OE = 1 << 3, UE = 1 << 4, PE = 1 << 5, DAZ = 1 << 6,
                          IM = 1 << 7, DM = 1 << 8, ZM = 1 << 9, OM = 1 << 10, UM = 1 << 11, PM = 1 << 12, RC = 3 << 13,
                          FZ = 1 << 15;
inline constexpr uint32_t flags = IE | DE | ZE | OE | UE | PE;
inline constexpr uint32_t masks = IM | DM | ZM | OM | UM | PM;
inline constexpr unsigned mask_shift = 7;  // from a flag to its mask
inline constexpr unsigned rc_shift = 13;
inline constexpr uint32_t writable = 0xffff;  // MXCSR_MASK of FXSAVE
inline constexpr uint32_t initial = 0x1f80;   // also what the host runs with outside of guest operations
}  // namespace mxcsr

// The guest asked to be told about `unmasked`, some of the exceptions `raised`: sets its MXCSR flags and raises #XM, or
// #UD if CR4.OSXMMEXCPT is clear. Always false.
bool sse_raise_fp(SoftCpu& cpu, uint32_t raised, uint32_t unmasked);

inline bool no_tiny() { return false; }

// Does `run` (host instructions in volatile asm statements) with the rounding, DAZ and FZ of `control` on the host, all
// exceptions masked, and adds the exceptions found, less those of `ignored`, to the guest's MXCSR. False: one of them is
// unmasked; the fault is raised, and the caller must not store its result.
// `tiny` tells whether a result is denormal: with underflow unmasked that counts even if the result is exact (SDM
// 1 4.9.1.5).
template <class Run, class Tiny = bool (*)()>
[[gnu::always_inline]] inline bool with_mxcsr(SoftCpu& cpu, uint32_t control, uint32_t ignored, Run run,
                                              Tiny tiny = no_tiny) {
  const uint32_t guest = cpu.s.mxcsr;
  uint32_t work = (control & ~mxcsr::flags) | mxcsr::masks;
  if (__builtin_expect((guest & mxcsr::UM) == 0, 0)) work &= ~mxcsr::FZ;  // FZ counts only while underflow is masked
  uint32_t after;
  asm volatile("ldmxcsr %0" : : "m"(work));
  run();
  asm volatile("stmxcsr %0" : "=m"(after));
  if (__builtin_expect(work != mxcsr::initial, 0)) asm volatile("ldmxcsr %0" : : "m"(mxcsr::initial));
  uint32_t raised = after & mxcsr::flags & ~ignored;
  if (__builtin_expect((guest & mxcsr::UM) == 0, 0) && tiny()) raised |= mxcsr::UE;
  const uint32_t unmasked = raised & ~(guest >> mxcsr::mask_shift);
  if (__builtin_expect(unmasked != 0, 0)) return sse_raise_fp(cpu, raised, unmasked);
  cpu.s.mxcsr = guest | raised;
  return true;
}
template <class Run, class Tiny = bool (*)()>
[[gnu::always_inline]] inline bool with_mxcsr(SoftCpu& cpu, Run run, Tiny tiny = no_tiny) {
  return with_mxcsr(cpu, cpu.s.mxcsr, 0, run, tiny);
}

// The part of a result that can be tiny. Size: bytes of the memory source operand (16: packed, aligned).
struct TinyNone {
  static bool found(Vec) { return false; }
};
struct TinyPs {
  static bool found(Vec v) {
    const Vec magnitude = _mm_and_si128(v, _mm_set1_epi32(0x7fffffff));
    const Vec small = _mm_cmplt_epi32(magnitude, _mm_set1_epi32(0x00800000));
    return _mm_movemask_epi8(_mm_andnot_si128(_mm_cmpeq_epi32(magnitude, _mm_setzero_si128()), small)) != 0;
  }
};
struct TinySs {
  static bool found(Vec v) { return TinyPs::found(_mm_and_si128(v, _mm_cvtsi32_si128(-1))); }
};
constexpr bool tiny_double(uint64_t bits) {
  const uint64_t magnitude = bits & 0x7fffffffffffffff;
  return magnitude != 0 && magnitude < 0x0010000000000000;
}
struct TinySd {
  static bool found(Vec v) { return tiny_double(low_of(v)); }
};
struct TinyPd {
  static bool found(Vec v) { return tiny_double(low_of(v)) || tiny_double(high_of(v)); }
};

// K::run(destination, source) is the operation, K::Tiny one of the above.
template <class K>
[[gnu::always_inline]] inline bool fp_apply(SoftCpu& cpu, const Op& op, Vec source) {
  Vec value = get_xmm(cpu, op.r0);
  if (!with_mxcsr(
          cpu, [&] { K::run(value, source); }, [&] { return K::Tiny::found(value); }))
    return false;
  set_xmm(cpu, op.r0, value);
  return true;
}
template <class K>
bool exec_fp_reg(SoftCpu& cpu, const Op& op) {
  return fp_apply<K>(cpu, op, get_xmm(cpu, op.r1));
}
template <class K, unsigned Size, class Ea>
bool exec_fp_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  return load_source<Size, Ea>(cpu, op, source) && fp_apply<K>(cpu, op, source);
}
template <class K, unsigned Size, Heat H = Heat::cold>
Emit emit_fp(const SseForm& f) {
  f.xmm_registers();
  if (!f.memory()) return f.sse(&op_call<exec_fp_reg<K>>);
  if constexpr (H == Heat::hot) {
    return f.sse(RV_SSE_EA(f.op, exec_fp_mem, K, Size));
  } else {
    return f.sse(&op_call<exec_fp_mem<K, Size, EaAny>>);
  }
}

// A kernel of the host instruction `name`.
#define RV_SSE_FP_KERNEL(name, tiny)                                                            \
  struct F_##name {                                                                             \
    using Tiny = tiny;                                                                          \
    static void run(Vec& d, const Vec& s) { asm volatile(#name " %1, %0" : "+x"(d) : "x"(s)); } \
  }

}  // namespace retrovisor::soft
