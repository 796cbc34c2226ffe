// Floating point compares, rounding to integers, dot products, and the reciprocal approximations.
// Source: SDM 2A/2B: CMPPS, COMISS, ROUNDPS, DPPS, RCPPS, RSQRTPS.
#include "vmm/soft/sse_fp_misc.h"

#include <array>
#include <bit>

#include "vmm/soft/sse_fp.h"

namespace retrovisor::soft {
namespace {

// ---- CMPxx: three bits of the immediate choose the predicate; the others are ignored ----

#define RV_COMPARE(name)                                                                                            \
  template <unsigned Predicate>                                                                                     \
  struct F_##name {                                                                                                 \
    using Tiny = TinyNone;                                                                                          \
    static void run(Vec& d, const Vec& s) { asm volatile(#name " %2, %1, %0" : "+x"(d) : "x"(s), "i"(Predicate)); } \
  }
RV_COMPARE(cmpps);
RV_COMPARE(cmppd);
RV_COMPARE(cmpss);
RV_COMPARE(cmpsd);
#undef RV_COMPARE

template <template <unsigned> class K, unsigned Size>
Emit emit_compare(const SseForm& f) {
  switch (f.insn.imm & 7) {
    case 0: return emit_fp<K<0>, Size>(f);
    case 1: return emit_fp<K<1>, Size>(f);
    case 2: return emit_fp<K<2>, Size>(f);
    case 3: return emit_fp<K<3>, Size>(f);
    case 4: return emit_fp<K<4>, Size>(f);
    case 5: return emit_fp<K<5>, Size>(f);
    case 6: return emit_fp<K<6>, Size>(f);
    default: return emit_fp<K<7>, Size>(f);
  }
}

// ---- COMISx, UCOMISx ----

#define RV_COMPARE_FLAGS(name)                                                               \
  struct F_##name {                                                                          \
    static uint32_t run(const Vec& d, const Vec& s) {                                        \
      uint32_t ax;                                                                           \
      asm volatile(#name " %2, %1\n\tlahf\n\tseto %%al" : "=a"(ax) : "x"(d), "x"(s) : "cc"); \
      return ax & 0xffff;                                                                    \
    }                                                                                        \
  }
RV_COMPARE_FLAGS(ucomiss);
RV_COMPARE_FLAGS(ucomisd);
RV_COMPARE_FLAGS(comiss);
RV_COMPARE_FLAGS(comisd);
#undef RV_COMPARE_FLAGS

template <class K>
[[gnu::always_inline]] inline bool compare_flags(SoftCpu& cpu, const Op& op, Vec source) {
  const Vec first = get_xmm(cpu, op.r0);
  uint32_t cc = 0;
  if (!with_mxcsr(cpu, [&] { cc = K::run(first, source); })) return false;
  cpu.cc = cc;
  return true;
}
template <class K>
bool exec_comis_reg(SoftCpu& cpu, const Op& op) {
  return compare_flags<K>(cpu, op, get_xmm(cpu, op.r1));
}
template <class K, unsigned Size, class Ea>
bool exec_comis_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  return load_source<Size, Ea>(cpu, op, source) && compare_flags<K>(cpu, op, source);
}
template <class Single, class Double>
Emit emit_comis(const SseForm& f) {
  f.xmm_registers();
  if (f.is(SsePrefix::none)) {
    return f.sse(f.memory() ? RV_SSE_EA(f.op, exec_comis_mem, Single, 4) : &op_call<exec_comis_reg<Single>>);
  }
  if (f.is(SsePrefix::p66)) {
    return f.sse(f.memory() ? RV_SSE_EA(f.op, exec_comis_mem, Double, 8) : &op_call<exec_comis_reg<Double>>);
  }
  return Emit::unknown;
}

// ---- ROUNDxx: the host takes the rounding mode from MXCSR (immediate 4), which is loaded as the guest's immediate says
// ----

#define RV_ROUND(name)                                                                              \
  struct F_##name {                                                                                 \
    static void run(Vec& d, const Vec& s) { asm volatile(#name " $4, %1, %0" : "+x"(d) : "x"(s)); } \
  }
RV_ROUND(roundps);
RV_ROUND(roundpd);
RV_ROUND(roundss);
RV_ROUND(roundsd);
#undef RV_ROUND

template <class K>
bool round_apply(SoftCpu& cpu, const Op& op, Vec source) {
  const auto imm = static_cast<uint8_t>(op.imm);
  uint32_t control = cpu.s.mxcsr;
  if ((imm & 4) == 0) control = (control & ~mxcsr::RC) | (imm & 3u) << mxcsr::rc_shift;
  const uint32_t ignored = (imm & 8) != 0 ? mxcsr::PE : 0;  // inexact results are not reported
  Vec value = get_xmm(cpu, op.r0);
  if (!with_mxcsr(cpu, control, ignored, [&] { K::run(value, source); })) return false;
  set_xmm(cpu, op.r0, value);
  return true;
}
template <class K>
bool exec_round_reg(SoftCpu& cpu, const Op& op) {
  return round_apply<K>(cpu, op, get_xmm(cpu, op.r1));
}
template <class K, unsigned Size>
bool exec_round_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  return load_source<Size, EaAny>(cpu, op, source) && round_apply<K>(cpu, op, source);
}
template <class K, unsigned Size>
Emit emit_round(const SseForm& f) {
  f.xmm_registers();
  return f.sse(f.memory() ? &op_call<exec_round_mem<K, Size>> : &op_call<exec_round_reg<K>>);
}

// ---- DPPS, DPPD: products, then sums, each step with its own exceptions (SDM 2A: DPPS, operation) ----
// The order of the operands of a sum shows when both are NaNs: the first one's is the result. The manual's operation, which is the
// model's and AMD's (measured): (t0 + t1) + (t2 + t3), the same for all elements. Intel's (measured) add to each element its
// neighbour within the pair, then the other pair's: each element has an order of its own.

RV_SSE_FP_KERNEL(mulps, TinyPs);
RV_SSE_FP_KERNEL(mulpd, TinyPd);
RV_SSE_FP_KERNEL(addps, TinyPs);
RV_SSE_FP_KERNEL(addss, TinySs);
RV_SSE_FP_KERNEL(addsd, TinySd);
RV_SSE_FP_KERNEL(addpd, TinyPd);

template <class K>
bool fp_step(SoftCpu& cpu, Vec& value, Vec other) {
  return with_mxcsr(
      cpu, [&] { K::run(value, other); }, [&] { return K::Tiny::found(value); });
}

// All ones in the elements whose bit in `bits` is set.
Vec dword_mask(unsigned bits) {
  const auto m = [bits](unsigned i) { return (bits >> i & 1) != 0 ? -1 : 0; };
  return _mm_set_epi32(m(3), m(2), m(1), m(0));
}
Vec qword_mask(unsigned bits) {
  const auto m = [bits](unsigned i) { return (bits >> i & 1) != 0 ? -1 : 0; };
  return _mm_set_epi32(m(1), m(1), m(0), m(0));
}

template <ProcessorModel U>
struct Dpps {
  static bool run(SoftCpu& cpu, const Op& op, Vec source) {
    const auto imm = static_cast<uint8_t>(op.imm);
    const Vec chosen = dword_mask(imm >> 4);
    Vec product = _mm_and_si128(get_xmm(cpu, op.r0), chosen);
    if (!fp_step<F_mulps>(cpu, product, _mm_and_si128(source, chosen))) return false;
    if constexpr (U == ProcessorModel::intel) {
      Vec sums = _mm_shuffle_epi32(product, 0xb1);  // 1, 0, 3, 2
      if (!fp_step<F_addps>(cpu, sums, product)) return false;
      Vec total = sums;
      if (!fp_step<F_addps>(cpu, total, _mm_shuffle_epi32(sums, 0x4e))) return false;  // 2, 3, 0, 1
      set_xmm(cpu, op.r0, _mm_and_si128(total, dword_mask(imm & 15u)));
      return true;
    }
    // Elements 0 and 2, plus 1 and 3. The upper two are zero, so their sum raises nothing.
    Vec sums = _mm_move_epi64(_mm_shuffle_epi32(product, 0x08));
    if (!fp_step<F_addps>(cpu, sums, _mm_move_epi64(_mm_shuffle_epi32(product, 0x0d)))) return false;
    Vec total = sums;
    if (!fp_step<F_addss>(cpu, total, _mm_shuffle_epi32(sums, 0x01))) return false;
    set_xmm(cpu, op.r0, _mm_and_si128(_mm_shuffle_epi32(total, 0), dword_mask(imm & 15u)));
    return true;
  }
};
template <ProcessorModel U>
struct Dppd {
  static bool run(SoftCpu& cpu, const Op& op, Vec source) {
    const auto imm = static_cast<uint8_t>(op.imm);
    const Vec chosen = qword_mask(imm >> 4 & 3u);
    Vec product = _mm_and_si128(get_xmm(cpu, op.r0), chosen);
    if (!fp_step<F_mulpd>(cpu, product, _mm_and_si128(source, chosen))) return false;
    Vec total = product;
    if constexpr (U == ProcessorModel::intel) {
      if (!fp_step<F_addpd>(cpu, total, _mm_shuffle_epi32(product, 0x4e))) return false;
      set_xmm(cpu, op.r0, _mm_and_si128(total, qword_mask(imm & 3u)));
      return true;
    }
    if (!fp_step<F_addsd>(cpu, total, _mm_unpackhi_epi64(product, product))) return false;
    set_xmm(cpu, op.r0, _mm_and_si128(_mm_unpacklo_epi64(total, total), qword_mask(imm & 3u)));
    return true;
  }
};
template <class F>
bool exec_dot_reg(SoftCpu& cpu, const Op& op) {
  return F::run(cpu, op, get_xmm(cpu, op.r1));
}
template <class F>
bool exec_dot_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  return load_vec<EaAny, Align::natural>(cpu, op, source) && F::run(cpu, op, source);
}
template <template <ProcessorModel> class F>
Emit emit_dot(const SseForm& f) {
  f.xmm_registers();
  if (f.insn.processor_model == ProcessorModel::intel) {
    return f.sse(f.memory() ? &op_call<exec_dot_mem<F<ProcessorModel::intel>>> : &op_call<exec_dot_reg<F<ProcessorModel::intel>>>);
  }
  return f.sse(f.memory() ? &op_call<exec_dot_mem<F<ProcessorModel::model>>> : &op_call<exec_dot_reg<F<ProcessorModel::model>>>);
}

// ---- RCPxx, RSQRTxx. Processors differ in the bits they return; here they are correctly rounded (to nearest), which is
// within the permitted error. Denormal sources are zeros, tiny results are zeros; MXCSR is neither used nor changed. ----

struct ReciprocalKernel {
  static Vec packed(Vec source) {
    Vec value = _mm_set1_epi32(0x3f800000);
    // Round to nearest, flush to zero, denormals are zero, all masked.
    constexpr uint32_t control = mxcsr::initial | mxcsr::FZ | mxcsr::DAZ;
    asm volatile("ldmxcsr %2\n\tdivps %1, %0\n\tldmxcsr %3" : "+x"(value) : "x"(source), "m"(control), "m"(mxcsr::initial));
    return value;
  }
};

constexpr uint64_t floor_sqrt(uint64_t v) {
  uint64_t root = 0;
  for (uint64_t bit = uint64_t{1} << 31; bit != 0; bit >>= 1) {
    if ((root + bit) * (root + bit) <= v) root += bit;
  }
  return root;
}

// 1 / sqrt(x) of a single precision number, in integers.
uint32_t reciprocal_sqrt(uint32_t x) {
  const uint32_t sign = x & 0x80000000;
  const uint32_t magnitude = x & 0x7fffffff;
  if (magnitude > 0x7f800000) return x | 0x00400000;     // NaN: quieted
  if (magnitude < 0x00800000) return sign | 0x7f800000;  // zero, denormal
  if (sign != 0) return 0xffc00000;                      // the default NaN
  if (magnitude == 0x7f800000) return 0;
  // x = m * 2^e with e even and m of 24 or 25 bits.
  int exponent = static_cast<int>(magnitude >> 23) - 150;
  uint64_t m = (magnitude & 0x7fffff) | 0x800000;
  if ((exponent & 1) != 0) {
    m <<= 1;
    exponent -= 1;
  }
  // 1/sqrt(x) = 2^(-e/2) / sqrt(m). q = floor(2^37 / sqrt(m)) has 25 or 26 bits: sqrt(m) is in [2^11.5, 2^12.5).
  // 2^74 / m is computed in two digits of 2^37.
  const uint64_t high = (uint64_t{1} << 37) / m;
  const uint64_t low = (((uint64_t{1} << 37) % m) << 37) / m;
  const uint64_t q = floor_sqrt((high << 37) + low);
  // To 24 bits. A tie cannot be: the quotient has a finite expansion only if m is a power of four, then q is one of two.
  const int drop = static_cast<int>(std::bit_width(q)) - 24;
  const uint64_t mantissa = (q + (uint64_t{1} << (drop - 1))) >> drop;
  // value = mantissa * 2^(drop - 37 - e/2); a carry out of the mantissa moves into the exponent by itself.
  const int biased = drop - 37 - exponent / 2 + 150;
  return (static_cast<uint32_t>(biased - 1) << 23) + static_cast<uint32_t>(mantissa);
}
struct ReciprocalSqrtKernel {
  static Vec packed(Vec source) {
    alignas(16) std::array<uint32_t, 4> v;
    std::memcpy(v.data(), &source, 16);
    for (uint32_t& x : v) x = reciprocal_sqrt(x);
    return _mm_load_si128(reinterpret_cast<const Vec*>(v.data()));
  }
};

template <class K>
struct ApproximatePs {
  static Vec xmm(Vec, Vec source) { return K::packed(source); }
};
template <class K>
struct ApproximateSs {
  static Vec xmm(Vec d, Vec source) {
    return _mm_castps_si128(_mm_move_ss(_mm_castsi128_ps(d), _mm_castsi128_ps(K::packed(source))));
  }
};
template <class K>
Emit emit_approximate(const SseForm& f) {
  if (f.is(SsePrefix::none)) return emit_xmm<ApproximatePs<K>>(f);
  if (f.is(SsePrefix::f3)) return emit_xmm<ApproximateSs<K>, Heat::cold, 4>(f);
  return Emit::unknown;
}

}  // namespace

Emit emit_sse_fp_misc(const SseForm& f) {
  if (f.insn.map == OpMap::map_0f) {
    switch (f.insn.opcode) {
      case 0x2e: return emit_comis<F_ucomiss, F_ucomisd>(f);
      case 0x2f: return emit_comis<F_comiss, F_comisd>(f);
      case 0x52: return emit_approximate<ReciprocalSqrtKernel>(f);
      case 0x53: return emit_approximate<ReciprocalKernel>(f);
      case 0xc2:
        switch (f.prefix) {
          case SsePrefix::none: return emit_compare<F_cmpps, 16>(f);
          case SsePrefix::p66: return emit_compare<F_cmppd, 16>(f);
          case SsePrefix::f3: return emit_compare<F_cmpss, 4>(f);
          case SsePrefix::f2: return emit_compare<F_cmpsd, 8>(f);
        }
        return Emit::unknown;
      default: return Emit::unknown;
    }
  }
  if (f.insn.map != OpMap::map_0f3a || !f.is(SsePrefix::p66)) return Emit::unknown;
  switch (f.insn.opcode) {
    case 0x08: return emit_round<F_roundps, 16>(f);
    case 0x09: return emit_round<F_roundpd, 16>(f);
    case 0x0a: return emit_round<F_roundss, 4>(f);
    case 0x0b: return emit_round<F_roundsd, 8>(f);
    case 0x40: return emit_dot<Dpps>(f);
    case 0x41: return emit_dot<Dppd>(f);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
