// Data movement between XMM registers, memory and general registers. Source: SDM 2A/2B: MOVxxx.
#include "vmm/soft/sse_move.h"

namespace retrovisor::soft {
namespace {

// ---- Whole registers ----

struct K_mov {
  static Vec xmm(Vec, Vec b) { return b; }
};

// The opcodes that store have the operands the other way round.
template <class K>
bool exec_reg_reverse(SoftCpu& cpu, const Op& op) {
  set_xmm(cpu, op.r1, K::xmm(get_xmm(cpu, op.r1), get_xmm(cpu, op.r0)));
  return true;
}
template <Align A, class Ea>
bool exec_mov_load(SoftCpu& cpu, const Op& op) {
  Vec value;
  if (!load_vec<Ea, A>(cpu, op, value)) return false;
  set_xmm(cpu, op.r0, value);
  return true;
}
template <Align A, class Ea>
bool exec_mov_store(SoftCpu& cpu, const Op& op) {
  return store_vec<Ea, A>(cpu, op, cpu.s.xmm[op.r0]);
}

template <Align A>
Emit emit_load(const SseForm& f) {
  f.xmm_registers();
  if (!f.memory()) return f.sse(&op_call<exec_xmm_reg<K_mov>>);
  return f.sse(RV_SSE_EA(f.op, exec_mov_load, A));
}
template <Align A>
Emit emit_store(const SseForm& f) {
  f.xmm_registers();
  if (!f.memory()) return f.sse(&op_call<exec_reg_reverse<K_mov>>);
  return f.sse(RV_SSE_EA(f.op, exec_mov_store, A));
}

// ---- Low and high parts. Registers are written whole even where a part changes: reading 16 bytes of which 8 have just
// been written would stall the host. ----

Vec merge_low_qword(Vec to, Vec from) { return _mm_castpd_si128(_mm_move_sd(_mm_castsi128_pd(to), _mm_castsi128_pd(from))); }
Vec merge_low_dword(Vec to, Vec from) { return _mm_castps_si128(_mm_move_ss(_mm_castsi128_ps(to), _mm_castsi128_ps(from))); }

// Loads a dword or qword and clears the rest (MOVSS, MOVSD, MOVD, MOVQ).
template <class T, class Ea>
bool exec_load_low(SoftCpu& cpu, const Op& op) {
  T value;
  if (!load_scalar<T, Ea>(cpu, op, value)) return false;
  set_xmm(cpu, op.r0, vec_of(uint64_t{value}));
  return true;
}
template <class T, class Ea>
bool exec_store_low(SoftCpu& cpu, const Op& op) {
  return store_scalar<T, Ea>(cpu, op, static_cast<T>(cpu.s.xmm[op.r0].q[0]));
}
// Loads or stores one qword, and leaves the other alone (MOVLPS, MOVHPS).
template <unsigned Half, class Ea>
bool exec_load_half(SoftCpu& cpu, const Op& op) {
  uint64_t value;
  if (!load_scalar<uint64_t, Ea>(cpu, op, value)) return false;
  const Vec old = get_xmm(cpu, op.r0);
  set_xmm(cpu, op.r0, Half == 0 ? merge_low_qword(old, vec_of(value)) : _mm_unpacklo_epi64(old, vec_of(value)));
  return true;
}
template <unsigned Half, class Ea>
bool exec_store_half(SoftCpu& cpu, const Op& op) {
  return store_scalar<uint64_t, Ea>(cpu, op, cpu.s.xmm[op.r0].q[Half]);
}

// Between registers.
struct K_movss {
  static Vec xmm(Vec a, Vec b) { return merge_low_dword(a, b); }
};
struct K_movsd {
  static Vec xmm(Vec a, Vec b) { return merge_low_qword(a, b); }
};
struct K_movhlps {
  static Vec xmm(Vec a, Vec b) { return merge_low_qword(a, _mm_unpackhi_epi64(b, b)); }
};
struct K_movlhps {
  static Vec xmm(Vec a, Vec b) { return _mm_unpacklo_epi64(a, b); }
};
struct K_movq {
  static Vec xmm(Vec, Vec b) { return _mm_move_epi64(b); }
};

// MOVSS, MOVSD: loads clear the rest of the register, moves between registers keep it.
template <class T>
Emit emit_scalar(const SseForm& f, bool is_store) {
  using K = std::conditional_t<sizeof(T) == 4, K_movss, K_movsd>;
  f.xmm_registers();
  if (f.memory()) return f.sse(is_store ? RV_SSE_EA(f.op, exec_store_low, T) : RV_SSE_EA(f.op, exec_load_low, T));
  return f.sse(is_store ? &op_call<exec_reg_reverse<K>> : &op_call<exec_xmm_reg<K>>);
}

// 0F 12, 13, 16, 17 without prefix (PS) or with 66 (PD). Registers: only the loads, without prefix (MOVHLPS, MOVLHPS).
template <unsigned Half>
Emit emit_half(const SseForm& f, bool is_store) {
  f.xmm_registers();
  if (f.memory()) return f.sse(is_store ? RV_SSE_EA(f.op, exec_store_half, Half) : RV_SSE_EA(f.op, exec_load_half, Half));
  if (is_store || !f.is(SsePrefix::none)) return Emit::unknown;
  return f.sse(Half == 0 ? &op_call<exec_xmm_reg<K_movhlps>> : &op_call<exec_xmm_reg<K_movlhps>>);
}

// ---- Duplicating moves (SSE3) ----

struct K_movsldup {
  static Vec xmm(Vec, Vec b) { return _mm_shuffle_epi32(b, 0xa0); }
};
struct K_movshdup {
  static Vec xmm(Vec, Vec b) { return _mm_shuffle_epi32(b, 0xf5); }
};
struct K_movddup {
  static Vec xmm(Vec, Vec b) { return _mm_unpacklo_epi64(b, b); }
};

// ---- General registers: MOVD, MOVQ; MOVNTI ----

template <class T>
bool exec_mov_from_gpr(SoftCpu& cpu, const Op& op) {
  set_xmm(cpu, op.r0, vec_of(uint64_t{get<T>(&cpu, op.r1)}));
  return true;
}
template <class T>
bool exec_mov_to_gpr(SoftCpu& cpu, const Op& op) {
  set<T>(&cpu, op.r1, static_cast<T>(cpu.s.xmm[op.r0].q[0]));
  return true;
}
template <class T>
Emit emit_gpr(const SseForm& f, bool is_store) {
  f.op.r0 = f.insn.reg;
  if (f.memory()) return f.sse(is_store ? RV_SSE_EA(f.op, exec_store_low, T) : RV_SSE_EA(f.op, exec_load_low, T));
  f.op.r1 = slot_of(f.insn.rm);
  return f.sse(is_store ? &op_call<exec_mov_to_gpr<T>> : &op_call<exec_mov_from_gpr<T>>);
}
Emit emit_gpr(const SseForm& f, bool is_store) {
  return f.rex_w() ? emit_gpr<uint64_t>(f, is_store) : emit_gpr<uint32_t>(f, is_store);
}

template <class T, class Ea>
bool exec_movnti(SoftCpu& cpu, const Op& op) {
  return store_scalar<T, Ea>(cpu, op, get<T>(&cpu, op.r0));
}
Emit emit_movnti(const SseForm& f) {
  f.op.r0 = slot_of(f.insn.reg);
  return f.use(FpuClass::none, f.rex_w() ? RV_SSE_EA(f.op, exec_movnti, uint64_t) : RV_SSE_EA(f.op, exec_movnti, uint32_t));
}

Emit emit_with_66(const SseForm& f) {
  switch (f.insn.opcode) {
    case 0x10: return emit_load<Align::any>(f);  // MOVUPD
    case 0x11: return emit_store<Align::any>(f);
    case 0x12: return emit_half<0>(f, false);  // MOVLPD
    case 0x13: return emit_half<0>(f, true);
    case 0x16: return emit_half<1>(f, false);  // MOVHPD
    case 0x17: return emit_half<1>(f, true);
    case 0x28: return emit_load<Align::natural>(f);  // MOVAPD
    case 0x29: return emit_store<Align::natural>(f);
    case 0x2b: return f.memory() ? emit_store<Align::natural>(f) : Emit::unknown;  // MOVNTPD
    case 0x6e: return emit_gpr(f, false);
    case 0x6f: return emit_load<Align::natural>(f);  // MOVDQA
    case 0x7e: return emit_gpr(f, true);
    case 0x7f: return emit_store<Align::natural>(f);
    case 0xd6:  // MOVQ
      f.xmm_registers();
      return f.sse(f.memory() ? RV_SSE_EA(f.op, exec_store_low, uint64_t) : &op_call<exec_reg_reverse<K_movq>>);
    case 0xe7: return f.memory() ? emit_store<Align::natural>(f) : Emit::unknown;  // MOVNTDQ
    default: return Emit::unknown;
  }
}

Emit emit_without_prefix(const SseForm& f) {
  switch (f.insn.opcode) {
    case 0x10: return emit_load<Align::any>(f);  // MOVUPS
    case 0x11: return emit_store<Align::any>(f);
    case 0x12: return emit_half<0>(f, false);  // MOVLPS, MOVHLPS
    case 0x13: return emit_half<0>(f, true);
    case 0x16: return emit_half<1>(f, false);  // MOVHPS, MOVLHPS
    case 0x17: return emit_half<1>(f, true);
    case 0x28: return emit_load<Align::natural>(f);  // MOVAPS
    case 0x29: return emit_store<Align::natural>(f);
    case 0x2b: return f.memory() ? emit_store<Align::natural>(f) : Emit::unknown;  // MOVNTPS
    case 0xc3: return f.memory() ? emit_movnti(f) : Emit::unknown;
    default: return Emit::unknown;
  }
}

Emit emit_with_f3(const SseForm& f) {
  switch (f.insn.opcode) {
    case 0x10: return emit_scalar<uint32_t>(f, false);  // MOVSS
    case 0x11: return emit_scalar<uint32_t>(f, true);
    case 0x12: return emit_xmm<K_movsldup>(f);
    case 0x16: return emit_xmm<K_movshdup>(f);
    case 0x6f: return emit_load<Align::any>(f);  // MOVDQU
    case 0x7e:                                   // MOVQ
      f.xmm_registers();
      return f.sse(f.memory() ? RV_SSE_EA(f.op, exec_load_low, uint64_t) : &op_call<exec_xmm_reg<K_movq>>);
    case 0x7f: return emit_store<Align::any>(f);
    default: return Emit::unknown;
  }
}

Emit emit_with_f2(const SseForm& f) {
  switch (f.insn.opcode) {
    case 0x10: return emit_scalar<uint64_t>(f, false);  // MOVSD
    case 0x11: return emit_scalar<uint64_t>(f, true);
    case 0x12: return emit_xmm<K_movddup, Heat::hot, 8>(f);
    case 0xf0: return f.memory() ? emit_load<Align::any>(f) : Emit::unknown;  // LDDQU
    default: return Emit::unknown;
  }
}

}  // namespace

Emit emit_sse_move(const SseForm& f) {
  if (f.insn.map == OpMap::map_0f38) {  // MOVNTDQA
    return f.insn.opcode == 0x2a && f.is(SsePrefix::p66) && f.memory() ? emit_load<Align::natural>(f) : Emit::unknown;
  }
  if (f.insn.map != OpMap::map_0f) return Emit::unknown;
  switch (f.prefix) {
    case SsePrefix::none: return emit_without_prefix(f);
    case SsePrefix::p66: return emit_with_66(f);
    case SsePrefix::f3: return emit_with_f3(f);
    case SsePrefix::f2: return emit_with_f2(f);
  }
  return Emit::unknown;
}

}  // namespace retrovisor::soft
