// Integer arithmetic, logic, compares, packs and shifts of MMX and SSE2 (map 0F), and the bitwise floating point forms,
// which move bits only. Source: SDM 2B chapter 4.
#include "vmm/soft/sse_int.h"

#include <algorithm>

namespace retrovisor::soft {
namespace {

RV_SSE_KERNEL(punpcklbw);
RV_SSE_KERNEL(punpcklwd);
RV_SSE_KERNEL(punpckldq);
RV_SSE_KERNEL(punpcklqdq);
RV_SSE_KERNEL(punpckhqdq);
RV_SSE_CONCAT_KERNEL(packsswb);
RV_SSE_CONCAT_KERNEL(packuswb);
RV_SSE_CONCAT_KERNEL(packssdw);
RV_SSE_KERNEL(pcmpgtb);
RV_SSE_KERNEL(pcmpgtw);
RV_SSE_KERNEL(pcmpgtd);
RV_SSE_KERNEL(pcmpeqb);
RV_SSE_KERNEL(pcmpeqw);
RV_SSE_KERNEL(pcmpeqd);
RV_SSE_KERNEL(psrlw);
RV_SSE_KERNEL(psrld);
RV_SSE_KERNEL(psrlq);
RV_SSE_KERNEL(psraw);
RV_SSE_KERNEL(psrad);
RV_SSE_KERNEL(psllw);
RV_SSE_KERNEL(pslld);
RV_SSE_KERNEL(psllq);
RV_SSE_KERNEL(paddb);
RV_SSE_KERNEL(paddw);
RV_SSE_KERNEL(paddd);
RV_SSE_KERNEL(paddq);
RV_SSE_KERNEL(psubb);
RV_SSE_KERNEL(psubw);
RV_SSE_KERNEL(psubd);
RV_SSE_KERNEL(psubq);
RV_SSE_KERNEL(paddsb);
RV_SSE_KERNEL(paddsw);
RV_SSE_KERNEL(paddusb);
RV_SSE_KERNEL(paddusw);
RV_SSE_KERNEL(psubsb);
RV_SSE_KERNEL(psubsw);
RV_SSE_KERNEL(psubusb);
RV_SSE_KERNEL(psubusw);
RV_SSE_KERNEL(pminub);
RV_SSE_KERNEL(pmaxub);
RV_SSE_KERNEL(pminsw);
RV_SSE_KERNEL(pmaxsw);
RV_SSE_KERNEL(pavgb);
RV_SSE_KERNEL(pavgw);
RV_SSE_KERNEL(pand);
RV_SSE_KERNEL(pandn);
RV_SSE_KERNEL(por);
RV_SSE_KERNEL(pxor);
RV_SSE_KERNEL(pmullw);
RV_SSE_KERNEL(pmulhw);
RV_SSE_KERNEL(pmulhuw);
RV_SSE_KERNEL(pmuludq);
RV_SSE_KERNEL(pmaddwd);
RV_SSE_KERNEL(psadbw);

// Interleaving the high halves: in the MMX form that is the upper half of the low interleave.
#define RV_UNPACK_HIGH(name, low)                                                  \
  struct K_##name {                                                                \
    static Vec xmm(Vec a, Vec b) {                                                 \
      asm(#name " %1, %0" : "+x"(a) : "x"(b));                                     \
      return a;                                                                    \
    }                                                                              \
    static Vec mmx(Vec a, Vec b) { return _mm_srli_si128(K_##low::xmm(a, b), 8); } \
  }
RV_UNPACK_HIGH(punpckhbw, punpcklbw);
RV_UNPACK_HIGH(punpckhwd, punpcklwd);
RV_UNPACK_HIGH(punpckhdq, punpckldq);
#undef RV_UNPACK_HIGH

// Shifts by an immediate: the register form with the count in a register.
template <class K>
bool exec_shift_xmm(SoftCpu& cpu, const Op& op) {
  set_xmm(cpu, op.r1, K::xmm(get_xmm(cpu, op.r1), vec_of(static_cast<uint8_t>(op.imm))));
  return true;
}
template <class K>
bool exec_shift_mmx(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r1, low_of(K::mmx(vec_of(get_mmx(cpu, op.r1)), vec_of(static_cast<uint8_t>(op.imm)))));
  return true;
}

// PSRLDQ, PSLLDQ: a window of 16 bytes moving over the value with zeros beside it.
template <bool Right>
bool exec_shift_bytes(SoftCpu& cpu, const Op& op) {
  alignas(16) Xmm window[2];
  const size_t count = std::min<size_t>(static_cast<uint8_t>(op.imm), 16);
  window[Right ? 0 : 1] = cpu.s.xmm[op.r1];
  std::memcpy(&cpu.s.xmm[op.r1], reinterpret_cast<const std::byte*>(window) + (Right ? count : 16 - count), 16);
  return true;
}

template <class K>
Emit emit_shift(const SseForm& f) {
  if (f.is(SsePrefix::none)) {
    f.mmx_registers();
    return f.mmx(&op_call<exec_shift_mmx<K>>);
  }
  f.xmm_registers();
  return f.sse(&op_call<exec_shift_xmm<K>>);
}

// Groups 12, 13, 14 (0F 71, 72, 73): register forms only.
Emit emit_shift_group(const SseForm& f) {
  if (f.memory() || f.is(SsePrefix::f3) || f.is(SsePrefix::f2)) return Emit::unknown;
  switch (f.insn.opcode << 4 | f.insn.reg_field()) {
    case 0x712: return emit_shift<K_psrlw>(f);
    case 0x714: return emit_shift<K_psraw>(f);
    case 0x716: return emit_shift<K_psllw>(f);
    case 0x722: return emit_shift<K_psrld>(f);
    case 0x724: return emit_shift<K_psrad>(f);
    case 0x726: return emit_shift<K_pslld>(f);
    case 0x732: return emit_shift<K_psrlq>(f);
    case 0x736: return emit_shift<K_psllq>(f);
    case 0x733: f.xmm_registers(); return f.is(SsePrefix::p66) ? f.sse(&op_call<exec_shift_bytes<true>>) : Emit::unknown;
    case 0x737: f.xmm_registers(); return f.is(SsePrefix::p66) ? f.sse(&op_call<exec_shift_bytes<false>>) : Emit::unknown;
    default: return Emit::unknown;
  }
}

// PMOVMSKB, MOVMSKPS, MOVMSKPD: sign bits into a general register.
bool exec_pmovmskb_xmm(SoftCpu& cpu, const Op& op) {
  set<uint32_t>(&cpu, op.r0, static_cast<uint32_t>(_mm_movemask_epi8(get_xmm(cpu, op.r1))));
  return true;
}
bool exec_pmovmskb_mmx(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set<uint32_t>(&cpu, op.r0, static_cast<uint32_t>(_mm_movemask_epi8(vec_of(get_mmx(cpu, op.r1)))));
  mmx_touch(cpu);
  return true;
}
bool exec_movmskps(SoftCpu& cpu, const Op& op) {
  set<uint32_t>(&cpu, op.r0, static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(get_xmm(cpu, op.r1)))));
  return true;
}
bool exec_movmskpd(SoftCpu& cpu, const Op& op) {
  set<uint32_t>(&cpu, op.r0, static_cast<uint32_t>(_mm_movemask_pd(_mm_castsi128_pd(get_xmm(cpu, op.r1)))));
  return true;
}

Emit emit_move_mask(const SseForm& f, bool floating) {
  if (f.memory()) return Emit::unknown;
  f.op.r0 = slot_of(f.insn.reg);
  f.op.r1 = f.insn.rm;
  if (f.is(SsePrefix::p66)) return f.sse(floating ? &op_call<exec_movmskpd> : &op_call<exec_pmovmskb_xmm>);
  if (!f.is(SsePrefix::none)) return Emit::unknown;
  if (floating) return f.sse(&op_call<exec_movmskps>);
  f.op.r1 = f.insn.rm & 7;
  return f.mmx(&op_call<exec_pmovmskb_mmx>);
}

// XMM only, without prefix (packed single) and with 66 (packed double).
template <class Single, class Double>
Emit emit_bitwise(const SseForm& f) {
  if (f.is(SsePrefix::none)) return emit_xmm<Single, Heat::hot>(f);
  if (f.is(SsePrefix::p66)) return emit_xmm<Double, Heat::hot>(f);
  return Emit::unknown;
}

}  // namespace

Emit emit_sse_int(const SseForm& f) {
  constexpr Heat hot = Heat::hot;
  if (f.insn.map != OpMap::map_0f) return Emit::unknown;
  switch (f.insn.opcode) {
    case 0x14: return emit_bitwise<K_punpckldq, K_punpcklqdq>(f);  // UNPCKLPS, UNPCKLPD
    case 0x15: return emit_bitwise<K_punpckhdq, K_punpckhqdq>(f);  // UNPCKHPS, UNPCKHPD
    case 0x50: return emit_move_mask(f, true);
    case 0x54: return emit_bitwise<K_pand, K_pand>(f);    // ANDPS, ANDPD
    case 0x55: return emit_bitwise<K_pandn, K_pandn>(f);  // ANDNPS, ANDNPD
    case 0x56: return emit_bitwise<K_por, K_por>(f);      // ORPS, ORPD
    case 0x57:
      return emit_bitwise<K_pxor, K_pxor>(f);  // XORPS, XORPD
    // The low interleaves read only 4 bytes of memory in their MMX form.
    case 0x60: return emit_mmx_or_xmm<K_punpcklbw, hot, 4>(f);
    case 0x61: return emit_mmx_or_xmm<K_punpcklwd, hot, 4>(f);
    case 0x62: return emit_mmx_or_xmm<K_punpckldq, hot, 4>(f);
    case 0x63: return emit_mmx_or_xmm<K_packsswb>(f);
    case 0x64: return emit_mmx_or_xmm<K_pcmpgtb, hot>(f);
    case 0x65: return emit_mmx_or_xmm<K_pcmpgtw>(f);
    case 0x66: return emit_mmx_or_xmm<K_pcmpgtd, hot>(f);
    case 0x67: return emit_mmx_or_xmm<K_packuswb>(f);
    case 0x68: return emit_mmx_or_xmm<K_punpckhbw, hot>(f);
    case 0x69: return emit_mmx_or_xmm<K_punpckhwd, hot>(f);
    case 0x6a: return emit_mmx_or_xmm<K_punpckhdq, hot>(f);
    case 0x6b: return emit_mmx_or_xmm<K_packssdw>(f);
    case 0x6c: return f.is(SsePrefix::p66) ? emit_xmm<K_punpcklqdq, hot>(f) : Emit::unknown;
    case 0x6d: return f.is(SsePrefix::p66) ? emit_xmm<K_punpckhqdq, hot>(f) : Emit::unknown;
    case 0x71:
    case 0x72:
    case 0x73: return emit_shift_group(f);
    case 0x74: return emit_mmx_or_xmm<K_pcmpeqb, hot>(f);
    case 0x75: return emit_mmx_or_xmm<K_pcmpeqw, hot>(f);
    case 0x76: return emit_mmx_or_xmm<K_pcmpeqd, hot>(f);
    case 0xd1: return emit_mmx_or_xmm<K_psrlw>(f);
    case 0xd2: return emit_mmx_or_xmm<K_psrld>(f);
    case 0xd3: return emit_mmx_or_xmm<K_psrlq>(f);
    case 0xd4: return emit_mmx_or_xmm<K_paddq, hot>(f);
    case 0xd5: return emit_mmx_or_xmm<K_pmullw>(f);
    case 0xd7: return emit_move_mask(f, false);
    case 0xd8: return emit_mmx_or_xmm<K_psubusb, hot>(f);
    case 0xd9: return emit_mmx_or_xmm<K_psubusw>(f);
    case 0xda: return emit_mmx_or_xmm<K_pminub, hot>(f);
    case 0xdb: return emit_mmx_or_xmm<K_pand, hot>(f);
    case 0xdc: return emit_mmx_or_xmm<K_paddusb>(f);
    case 0xdd: return emit_mmx_or_xmm<K_paddusw>(f);
    case 0xde: return emit_mmx_or_xmm<K_pmaxub, hot>(f);
    case 0xdf: return emit_mmx_or_xmm<K_pandn, hot>(f);
    case 0xe0: return emit_mmx_or_xmm<K_pavgb>(f);
    case 0xe1: return emit_mmx_or_xmm<K_psraw>(f);
    case 0xe2: return emit_mmx_or_xmm<K_psrad>(f);
    case 0xe3: return emit_mmx_or_xmm<K_pavgw>(f);
    case 0xe4: return emit_mmx_or_xmm<K_pmulhuw>(f);
    case 0xe5: return emit_mmx_or_xmm<K_pmulhw>(f);
    case 0xe8: return emit_mmx_or_xmm<K_psubsb>(f);
    case 0xe9: return emit_mmx_or_xmm<K_psubsw>(f);
    case 0xea: return emit_mmx_or_xmm<K_pminsw>(f);
    case 0xeb: return emit_mmx_or_xmm<K_por, hot>(f);
    case 0xec: return emit_mmx_or_xmm<K_paddsb>(f);
    case 0xed: return emit_mmx_or_xmm<K_paddsw>(f);
    case 0xee: return emit_mmx_or_xmm<K_pmaxsw>(f);
    case 0xef: return emit_mmx_or_xmm<K_pxor, hot>(f);
    case 0xf1: return emit_mmx_or_xmm<K_psllw>(f);
    case 0xf2: return emit_mmx_or_xmm<K_pslld>(f);
    case 0xf3: return emit_mmx_or_xmm<K_psllq>(f);
    case 0xf4: return emit_mmx_or_xmm<K_pmuludq>(f);
    case 0xf5: return emit_mmx_or_xmm<K_pmaddwd>(f);
    case 0xf6: return emit_mmx_or_xmm<K_psadbw>(f);
    case 0xf8: return emit_mmx_or_xmm<K_psubb, hot>(f);
    case 0xf9: return emit_mmx_or_xmm<K_psubw, hot>(f);
    case 0xfa: return emit_mmx_or_xmm<K_psubd, hot>(f);
    case 0xfb: return emit_mmx_or_xmm<K_psubq, hot>(f);
    case 0xfc: return emit_mmx_or_xmm<K_paddb, hot>(f);
    case 0xfd: return emit_mmx_or_xmm<K_paddw, hot>(f);
    case 0xfe: return emit_mmx_or_xmm<K_paddd, hot>(f);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
