// Integer instructions of SSSE3, SSE4.1 and SSE4.2 in map 0F38. Source: SDM 2B chapter 4.
#include "vmm/soft/sse_int38.h"

namespace retrovisor::soft {
namespace {

RV_SSE_CONCAT_KERNEL(phaddw);
RV_SSE_CONCAT_KERNEL(phaddd);
RV_SSE_CONCAT_KERNEL(phaddsw);
RV_SSE_CONCAT_KERNEL(phsubw);
RV_SSE_CONCAT_KERNEL(phsubd);
RV_SSE_CONCAT_KERNEL(phsubsw);
RV_SSE_KERNEL(pmaddubsw);
RV_SSE_KERNEL(psignb);
RV_SSE_KERNEL(psignw);
RV_SSE_KERNEL(psignd);
RV_SSE_KERNEL(pmulhrsw);
RV_SSE_UNARY_KERNEL(pabsb);
RV_SSE_UNARY_KERNEL(pabsw);
RV_SSE_UNARY_KERNEL(pabsd);
RV_SSE_KERNEL(pmuldq);
RV_SSE_KERNEL(pcmpeqq);
RV_SSE_KERNEL(packusdw);
RV_SSE_KERNEL(pcmpgtq);
RV_SSE_KERNEL(pminsb);
RV_SSE_KERNEL(pminsd);
RV_SSE_KERNEL(pminuw);
RV_SSE_KERNEL(pminud);
RV_SSE_KERNEL(pmaxsb);
RV_SSE_KERNEL(pmaxsd);
RV_SSE_KERNEL(pmaxuw);
RV_SSE_KERNEL(pmaxud);
RV_SSE_KERNEL(pmulld);
RV_SSE_UNARY_KERNEL(phminposuw);
RV_SSE_UNARY_KERNEL(pmovsxbw);
RV_SSE_UNARY_KERNEL(pmovsxbd);
RV_SSE_UNARY_KERNEL(pmovsxbq);
RV_SSE_UNARY_KERNEL(pmovsxwd);
RV_SSE_UNARY_KERNEL(pmovsxwq);
RV_SSE_UNARY_KERNEL(pmovsxdq);
RV_SSE_UNARY_KERNEL(pmovzxbw);
RV_SSE_UNARY_KERNEL(pmovzxbd);
RV_SSE_UNARY_KERNEL(pmovzxbq);
RV_SSE_UNARY_KERNEL(pmovzxwd);
RV_SSE_UNARY_KERNEL(pmovzxwq);
RV_SSE_UNARY_KERNEL(pmovzxdq);

// The MMX form uses three bits of each index.
struct K_pshufb {
  static Vec xmm(Vec a, Vec b) {
    asm("pshufb %1, %0" : "+x"(a) : "x"(b));
    return a;
  }
  static Vec mmx(Vec a, Vec b) { return xmm(a, _mm_and_si128(b, _mm_set1_epi8(static_cast<char>(0x87)))); }
};

// Variable blends: the sign bits of XMM0 choose. `choose` is all ones in the elements taken from the source.
Vec blend(Vec destination, Vec source, Vec choose) {
  return _mm_or_si128(_mm_and_si128(choose, source), _mm_andnot_si128(choose, destination));
}
struct SignBytes {
  static Vec spread(Vec v) { return _mm_cmpgt_epi8(_mm_setzero_si128(), v); }
};
struct SignDwords {
  static Vec spread(Vec v) { return _mm_srai_epi32(v, 31); }
};
struct SignQwords {
  static Vec spread(Vec v) { return _mm_shuffle_epi32(_mm_srai_epi32(v, 31), 0xf5); }
};
template <class Sign>
bool exec_blendv_reg(SoftCpu& cpu, const Op& op) {
  set_xmm(cpu, op.r0, blend(get_xmm(cpu, op.r0), get_xmm(cpu, op.r1), Sign::spread(get_xmm(cpu, 0))));
  return true;
}
template <class Sign>
bool exec_blendv_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!load_vec<EaAny, Align::natural>(cpu, op, source)) return false;
  set_xmm(cpu, op.r0, blend(get_xmm(cpu, op.r0), source, Sign::spread(get_xmm(cpu, 0))));
  return true;
}
template <class Sign>
Emit emit_blendv(const SseForm& f) {
  f.xmm_registers();
  return f.sse(f.memory() ? &op_call<exec_blendv_mem<Sign>> : &op_call<exec_blendv_reg<Sign>>);
}

uint32_t ptest(Vec a, Vec b) {
  uint32_t ax;
  asm("ptest %2, %1\n\tlahf\n\tseto %%al" : "=a"(ax) : "x"(a), "x"(b) : "cc");
  return ax & 0xffff;
}
bool exec_ptest_reg(SoftCpu& cpu, const Op& op) {
  cpu.cc = ptest(get_xmm(cpu, op.r0), get_xmm(cpu, op.r1));
  return true;
}
bool exec_ptest_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!load_vec<EaAny, Align::natural>(cpu, op, source)) return false;
  cpu.cc = ptest(get_xmm(cpu, op.r0), source);
  return true;
}

// With the prefix 66 only.
Emit emit_sse41(const SseForm& f) {
  switch (f.insn.opcode) {
    case 0x10: return emit_blendv<SignBytes>(f);   // PBLENDVB
    case 0x14: return emit_blendv<SignDwords>(f);  // BLENDVPS
    case 0x15: return emit_blendv<SignQwords>(f);  // BLENDVPD
    case 0x17: f.xmm_registers(); return f.sse(f.memory() ? &op_call<exec_ptest_mem> : &op_call<exec_ptest_reg>);
    case 0x20: return emit_xmm<K_pmovsxbw, Heat::cold, 8>(f);
    case 0x21: return emit_xmm<K_pmovsxbd, Heat::cold, 4>(f);
    case 0x22: return emit_xmm<K_pmovsxbq, Heat::cold, 2>(f);
    case 0x23: return emit_xmm<K_pmovsxwd, Heat::cold, 8>(f);
    case 0x24: return emit_xmm<K_pmovsxwq, Heat::cold, 4>(f);
    case 0x25: return emit_xmm<K_pmovsxdq, Heat::cold, 8>(f);
    case 0x28: return emit_xmm<K_pmuldq>(f);
    case 0x29: return emit_xmm<K_pcmpeqq>(f);
    case 0x2b: return emit_xmm<K_packusdw>(f);
    case 0x30: return emit_xmm<K_pmovzxbw, Heat::cold, 8>(f);
    case 0x31: return emit_xmm<K_pmovzxbd, Heat::cold, 4>(f);
    case 0x32: return emit_xmm<K_pmovzxbq, Heat::cold, 2>(f);
    case 0x33: return emit_xmm<K_pmovzxwd, Heat::cold, 8>(f);
    case 0x34: return emit_xmm<K_pmovzxwq, Heat::cold, 4>(f);
    case 0x35: return emit_xmm<K_pmovzxdq, Heat::cold, 8>(f);
    case 0x37: return emit_xmm<K_pcmpgtq>(f);
    case 0x38: return emit_xmm<K_pminsb>(f);
    case 0x39: return emit_xmm<K_pminsd>(f);
    case 0x3a: return emit_xmm<K_pminuw>(f);
    case 0x3b: return emit_xmm<K_pminud>(f);
    case 0x3c: return emit_xmm<K_pmaxsb>(f);
    case 0x3d: return emit_xmm<K_pmaxsd>(f);
    case 0x3e: return emit_xmm<K_pmaxuw>(f);
    case 0x3f: return emit_xmm<K_pmaxud>(f);
    case 0x40: return emit_xmm<K_pmulld>(f);
    case 0x41: return emit_xmm<K_phminposuw>(f);
    default: return Emit::unknown;
  }
}

}  // namespace

Emit emit_sse_int38(const SseForm& f) {
  if (f.insn.map != OpMap::map_0f38) return Emit::unknown;
  switch (f.insn.opcode) {
    case 0x00: return emit_mmx_or_xmm<K_pshufb, Heat::hot>(f);
    case 0x01: return emit_mmx_or_xmm<K_phaddw>(f);
    case 0x02: return emit_mmx_or_xmm<K_phaddd>(f);
    case 0x03: return emit_mmx_or_xmm<K_phaddsw>(f);
    case 0x04: return emit_mmx_or_xmm<K_pmaddubsw>(f);
    case 0x05: return emit_mmx_or_xmm<K_phsubw>(f);
    case 0x06: return emit_mmx_or_xmm<K_phsubd>(f);
    case 0x07: return emit_mmx_or_xmm<K_phsubsw>(f);
    case 0x08: return emit_mmx_or_xmm<K_psignb>(f);
    case 0x09: return emit_mmx_or_xmm<K_psignw>(f);
    case 0x0a: return emit_mmx_or_xmm<K_psignd>(f);
    case 0x0b: return emit_mmx_or_xmm<K_pmulhrsw>(f);
    case 0x1c: return emit_mmx_or_xmm<K_pabsb>(f);
    case 0x1d: return emit_mmx_or_xmm<K_pabsw>(f);
    case 0x1e: return emit_mmx_or_xmm<K_pabsd>(f);
    default: return f.is(SsePrefix::p66) ? emit_sse41(f) : Emit::unknown;
  }
}

}  // namespace retrovisor::soft
