// Conversions between floating point formats, integers, MMX and general registers, under MXCSR. Source: SDM 2A: CVTxx.
#include "vmm/soft/sse_convert.h"

#include "vmm/soft/sse_fp.h"

namespace retrovisor::soft {
namespace {

// ---- XMM to XMM ----

RV_SSE_FP_KERNEL(cvtps2pd, TinyNone);
RV_SSE_FP_KERNEL(cvtpd2ps, TinyPs);  // the upper half of the result is zero
RV_SSE_FP_KERNEL(cvtss2sd, TinyNone);
RV_SSE_FP_KERNEL(cvtsd2ss, TinySs);
RV_SSE_FP_KERNEL(cvtdq2ps, TinyNone);
RV_SSE_FP_KERNEL(cvtps2dq, TinyNone);
RV_SSE_FP_KERNEL(cvttps2dq, TinyNone);
RV_SSE_FP_KERNEL(cvtdq2pd, TinyNone);
RV_SSE_FP_KERNEL(cvtpd2dq, TinyNone);
RV_SSE_FP_KERNEL(cvttpd2dq, TinyNone);

// ---- General register to XMM: CVTSI2SS, CVTSI2SD ----

#define RV_FROM_INTEGER(name, type, mnemonic)                                                   \
  struct F_##name {                                                                             \
    using Integer = type;                                                                       \
    static void run(Vec& d, Integer v) { asm volatile(mnemonic " %1, %0" : "+x"(d) : "r"(v)); } \
  }
RV_FROM_INTEGER(cvtsi2ss32, uint32_t, "cvtsi2ssl");
RV_FROM_INTEGER(cvtsi2ss64, uint64_t, "cvtsi2ssq");
RV_FROM_INTEGER(cvtsi2sd32, uint32_t, "cvtsi2sdl");
RV_FROM_INTEGER(cvtsi2sd64, uint64_t, "cvtsi2sdq");
#undef RV_FROM_INTEGER

template <class K>
[[gnu::always_inline]] inline bool from_integer(SoftCpu& cpu, const Op& op, typename K::Integer source) {
  Vec value = get_xmm(cpu, op.r0);
  if (!with_mxcsr(cpu, [&] { K::run(value, source); })) return false;
  set_xmm(cpu, op.r0, value);
  return true;
}
template <class K>
bool exec_from_integer_reg(SoftCpu& cpu, const Op& op) {
  return from_integer<K>(cpu, op, get<typename K::Integer>(&cpu, op.r1));
}
template <class K>
bool exec_from_integer_mem(SoftCpu& cpu, const Op& op) {
  typename K::Integer source = 0;
  return load_scalar<typename K::Integer, EaAny>(cpu, op, source) && from_integer<K>(cpu, op, source);
}
template <class K>
Emit emit_from_integer(const SseForm& f) {
  f.op.r0 = f.insn.reg;
  f.op.r1 = slot_of(f.insn.rm);
  return f.sse(f.memory() ? &op_call<exec_from_integer_mem<K>> : &op_call<exec_from_integer_reg<K>>);
}

// ---- XMM to general register: CVTSS2SI, CVTTSS2SI, CVTSD2SI, CVTTSD2SI ----

#define RV_TO_INTEGER(name, source_size)                                                      \
  template <class T>                                                                          \
  struct F_##name {                                                                           \
    using Integer = T;                                                                        \
    static constexpr unsigned size = source_size;                                             \
    static void run(T& d, const Vec& s) { asm volatile(#name " %1, %0" : "=r"(d) : "x"(s)); } \
  }
RV_TO_INTEGER(cvtss2si, 4);
RV_TO_INTEGER(cvttss2si, 4);
RV_TO_INTEGER(cvtsd2si, 8);
RV_TO_INTEGER(cvttsd2si, 8);
#undef RV_TO_INTEGER

template <class K>
[[gnu::always_inline]] inline bool to_integer(SoftCpu& cpu, const Op& op, Vec source) {
  typename K::Integer value = 0;
  if (!with_mxcsr(cpu, [&] { K::run(value, source); })) return false;
  set(&cpu, op.r0, value);
  return true;
}
template <class K>
bool exec_to_integer_reg(SoftCpu& cpu, const Op& op) {
  return to_integer<K>(cpu, op, get_xmm(cpu, op.r1));
}
template <class K>
bool exec_to_integer_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  return load_source<K::size, EaAny>(cpu, op, source) && to_integer<K>(cpu, op, source);
}
template <class K>
Emit emit_to_integer(const SseForm& f) {
  f.op.r0 = slot_of(f.insn.reg);
  f.op.r1 = f.insn.rm;
  return f.sse(f.memory() ? &op_call<exec_to_integer_mem<K>> : &op_call<exec_to_integer_reg<K>>);
}
template <template <class> class K>
Emit emit_to_integer_sized(const SseForm& f) {
  return f.rex_w() ? emit_to_integer<K<uint64_t>>(f) : emit_to_integer<K<uint32_t>>(f);
}

// ---- MMX: CVTPI2PS, CVTPI2PD and back. The missing upper half is zero, which converts without exceptions. ----

// CVTPI2PS keeps the upper half of the destination.
struct PiToPs {
  static void run(Vec& d, const Vec& s) {
    Vec low;
    asm volatile("cvtdq2ps %1, %0" : "=x"(low) : "x"(s));
    d = _mm_unpacklo_epi64(low, _mm_unpackhi_epi64(d, d));
  }
};

// A conversion between MMX and XMM raised #XM. AMD's processors have gone over to MMX by then (measured); the model has done nothing.
bool mmx_conversion_faulted(SoftCpu& cpu) {
  if (cpu.processor_model == ProcessorModel::amd) mmx_touch(cpu);
  return false;
}

template <class K>
bool exec_from_mmx(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  Vec value = get_xmm(cpu, op.r0);
  const Vec source = vec_of(get_mmx(cpu, op.r1));
  if (!with_mxcsr(cpu, [&] { K::run(value, source); })) return mmx_conversion_faulted(cpu);
  set_xmm(cpu, op.r0, value);
  mmx_touch(cpu);
  return true;
}
// With a memory source neither goes over to MMX nor reports a pending exception (measured, both vendors; SDM 2A says so of
// CVTPI2PD only).
template <class K>
bool exec_from_mmx_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!load_source<8, EaAny>(cpu, op, source)) return false;
  Vec value = get_xmm(cpu, op.r0);
  if (!with_mxcsr(cpu, [&] { K::run(value, source); })) return false;
  set_xmm(cpu, op.r0, value);
  return true;
}

template <class K>
bool to_mmx(SoftCpu& cpu, const Op& op, Vec source) {
  Vec value = _mm_setzero_si128();
  if (!with_mxcsr(cpu, [&] { K::run(value, source); })) return mmx_conversion_faulted(cpu);
  set_mmx(cpu, op.r0, low_of(value));
  return true;
}
// Size 8: packed single, of which only two are looked at; 16: packed double.
template <class K, unsigned Size>
bool exec_to_mmx(SoftCpu& cpu, const Op& op) {
  const Vec source = get_xmm(cpu, op.r1);
  return x87_check_pending(cpu) && to_mmx<K>(cpu, op, Size == 8 ? _mm_move_epi64(source) : source);
}
template <class K, unsigned Size>
bool exec_to_mmx_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  return x87_check_pending(cpu) && load_source<Size, EaAny>(cpu, op, source) && to_mmx<K>(cpu, op, source);
}
template <class K, unsigned Size>
Emit emit_to_mmx(const SseForm& f) {
  f.op.r0 = f.insn.reg & 7;
  f.op.r1 = f.insn.rm;
  return f.mmx(f.memory() ? &op_call<exec_to_mmx_mem<K, Size>> : &op_call<exec_to_mmx<K, Size>>);
}

Emit emit_2a(const SseForm& f) {
  f.op.r0 = f.insn.reg;
  f.op.r1 = f.insn.rm & 7;
  switch (f.prefix) {
    case SsePrefix::none:
      return f.mmx(f.memory() ? &op_call<exec_from_mmx_mem<PiToPs>> : &op_call<exec_from_mmx<PiToPs>>);
    case SsePrefix::p66:
      if (f.memory()) return f.sse(&op_call<exec_from_mmx_mem<F_cvtdq2pd>>);
      return f.mmx(&op_call<exec_from_mmx<F_cvtdq2pd>>);
    case SsePrefix::f3: return f.rex_w() ? emit_from_integer<F_cvtsi2ss64>(f) : emit_from_integer<F_cvtsi2ss32>(f);
    case SsePrefix::f2: return f.rex_w() ? emit_from_integer<F_cvtsi2sd64>(f) : emit_from_integer<F_cvtsi2sd32>(f);
  }
  return Emit::unknown;
}

}  // namespace

Emit emit_sse_convert(const SseForm& f) {
  if (f.insn.map != OpMap::map_0f) return Emit::unknown;
  switch (f.insn.opcode) {
    case 0x2a: return emit_2a(f);
    case 0x2c:
      switch (f.prefix) {
        case SsePrefix::none: return emit_to_mmx<F_cvttps2dq, 8>(f);
        case SsePrefix::p66: return emit_to_mmx<F_cvttpd2dq, 16>(f);
        case SsePrefix::f3: return emit_to_integer_sized<F_cvttss2si>(f);
        case SsePrefix::f2: return emit_to_integer_sized<F_cvttsd2si>(f);
      }
      return Emit::unknown;
    case 0x2d:
      switch (f.prefix) {
        case SsePrefix::none: return emit_to_mmx<F_cvtps2dq, 8>(f);
        case SsePrefix::p66: return emit_to_mmx<F_cvtpd2dq, 16>(f);
        case SsePrefix::f3: return emit_to_integer_sized<F_cvtss2si>(f);
        case SsePrefix::f2: return emit_to_integer_sized<F_cvtsd2si>(f);
      }
      return Emit::unknown;
    case 0x5a:
      switch (f.prefix) {
        case SsePrefix::none: return emit_fp<F_cvtps2pd, 8>(f);
        case SsePrefix::p66: return emit_fp<F_cvtpd2ps, 16>(f);
        case SsePrefix::f3: return emit_fp<F_cvtss2sd, 4>(f);
        case SsePrefix::f2: return emit_fp<F_cvtsd2ss, 8>(f);
      }
      return Emit::unknown;
    case 0x5b:
      switch (f.prefix) {
        case SsePrefix::none: return emit_fp<F_cvtdq2ps, 16>(f);
        case SsePrefix::p66: return emit_fp<F_cvtps2dq, 16>(f);
        case SsePrefix::f3: return emit_fp<F_cvttps2dq, 16>(f);
        default: return Emit::unknown;
      }
    case 0xe6:
      switch (f.prefix) {
        case SsePrefix::p66: return emit_fp<F_cvttpd2dq, 16>(f);
        case SsePrefix::f3: return emit_fp<F_cvtdq2pd, 8>(f);
        case SsePrefix::f2: return emit_fp<F_cvtpd2dq, 16>(f);
        default: return Emit::unknown;
      }
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
