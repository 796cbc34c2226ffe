// Floating point arithmetic of SSE, SSE2 and SSE3 under MXCSR. Source: SDM 2A/2B; SDM 1 11.5 (exceptions).
#include "vmm/soft/sse_fp.h"

namespace retrovisor::soft {

bool sse_raise_fp(SoftCpu& cpu, uint32_t raised, uint32_t unmasked) {
  // Exceptions found before the computation keep it from happening, in all elements (SDM 1 11.5.2, 11.5.3).
  constexpr uint32_t early = mxcsr::IE | mxcsr::DE | mxcsr::ZE;
  if ((unmasked & early) != 0) raised &= early;
  cpu.s.mxcsr |= raised;
  return raise(cpu, (cpu.s.cr4 & cr4::OSXMMEXCPT) != 0 ? vec::XM : vec::UD);
}

namespace {

// The four forms; those whose results may be tiny, and those that return an operand or cannot get that small.
#define RV_FP_ARITHMETIC(name)        \
  RV_SSE_FP_KERNEL(name##ps, TinyPs); \
  RV_SSE_FP_KERNEL(name##pd, TinyPd); \
  RV_SSE_FP_KERNEL(name##ss, TinySs); \
  RV_SSE_FP_KERNEL(name##sd, TinySd)
#define RV_FP_NEVER_TINY(name)          \
  RV_SSE_FP_KERNEL(name##ps, TinyNone); \
  RV_SSE_FP_KERNEL(name##pd, TinyNone); \
  RV_SSE_FP_KERNEL(name##ss, TinyNone); \
  RV_SSE_FP_KERNEL(name##sd, TinyNone)
RV_FP_ARITHMETIC(add);
RV_FP_ARITHMETIC(sub);
RV_FP_ARITHMETIC(mul);
RV_FP_ARITHMETIC(div);
RV_FP_NEVER_TINY(sqrt);
RV_FP_NEVER_TINY(min);
RV_FP_NEVER_TINY(max);
#undef RV_FP_ARITHMETIC
#undef RV_FP_NEVER_TINY
RV_SSE_FP_KERNEL(addsubps, TinyPs);
RV_SSE_FP_KERNEL(addsubpd, TinyPd);

// Horizontal operations go through the vertical ones, even elements first: which of two NaNs comes out then does not
// depend on how the host splits the instruction.
template <class Vertical>
struct HorizontalPs {
  using Tiny = TinyPs;
  static void run(Vec& d, const Vec& s) {
    const __m128 a = _mm_castsi128_ps(d);
    const __m128 b = _mm_castsi128_ps(s);
    Vec even = _mm_castps_si128(_mm_shuffle_ps(a, b, 0x88));
    const Vec odd = _mm_castps_si128(_mm_shuffle_ps(a, b, 0xdd));
    Vertical::run(even, odd);
    d = even;
  }
};
template <class Vertical>
struct HorizontalPd {
  using Tiny = TinyPd;
  static void run(Vec& d, const Vec& s) {
    Vec even = _mm_unpacklo_epi64(d, s);
    const Vec odd = _mm_unpackhi_epi64(d, s);
    Vertical::run(even, odd);
    d = even;
  }
};

// The four forms of an opcode: packed single and double, scalar single and double.
template <class Ps, class Pd, class Ss, class Sd>
Emit emit_four(const SseForm& f) {
  constexpr Heat hot = Heat::hot;
  switch (f.prefix) {
    case SsePrefix::none: return emit_fp<Ps, 16, hot>(f);
    case SsePrefix::p66: return emit_fp<Pd, 16, hot>(f);
    case SsePrefix::f3: return emit_fp<Ss, 4, hot>(f);
    case SsePrefix::f2: return emit_fp<Sd, 8, hot>(f);
  }
  return Emit::unknown;
}

// SSE3: 66 is packed double, F2 packed single.
template <class Pd, class Ps>
Emit emit_sse3(const SseForm& f) {
  if (f.is(SsePrefix::p66)) return emit_fp<Pd, 16>(f);
  if (f.is(SsePrefix::f2)) return emit_fp<Ps, 16>(f);
  return Emit::unknown;
}

}  // namespace

Emit emit_sse_fp(const SseForm& f) {
  if (f.insn.map != OpMap::map_0f) return Emit::unknown;
  switch (f.insn.opcode) {
    case 0x51: return emit_four<F_sqrtps, F_sqrtpd, F_sqrtss, F_sqrtsd>(f);
    case 0x58: return emit_four<F_addps, F_addpd, F_addss, F_addsd>(f);
    case 0x59: return emit_four<F_mulps, F_mulpd, F_mulss, F_mulsd>(f);
    case 0x5c: return emit_four<F_subps, F_subpd, F_subss, F_subsd>(f);
    case 0x5d: return emit_four<F_minps, F_minpd, F_minss, F_minsd>(f);
    case 0x5e: return emit_four<F_divps, F_divpd, F_divss, F_divsd>(f);
    case 0x5f: return emit_four<F_maxps, F_maxpd, F_maxss, F_maxsd>(f);
    case 0x7c: return emit_sse3<HorizontalPd<F_addpd>, HorizontalPs<F_addps>>(f);
    case 0x7d: return emit_sse3<HorizontalPd<F_subpd>, HorizontalPs<F_subps>>(f);
    case 0xd0: return emit_sse3<F_addsubpd, F_addsubps>(f);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
