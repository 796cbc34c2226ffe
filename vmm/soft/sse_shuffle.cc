// Instructions with an immediate that chooses elements: shuffles, blends, inserts, extracts, PALIGNR, MPSADBW.
// Source: SDM 2B chapter 4. The immediates are data here (one handler serves them all), so most are done in plain C++.
#include "vmm/soft/sse_shuffle.h"

#include <algorithm>
#include <array>

namespace retrovisor::soft {
namespace {

// The elements of a register.
template <class T>
using Elements = std::array<T, 16 / sizeof(T)>;
template <class T>
Elements<T> split(Vec v) {
  Elements<T> out;
  std::memcpy(out.data(), &v, 16);
  return out;
}
template <class T>
Vec join(const Elements<T>& e) {
  Vec v;
  std::memcpy(&v, e.data(), 16);
  return v;
}
// Four elements of `e`, chosen by two bits of `imm` each, as one number.
uint64_t choose_words(const uint16_t* e, unsigned imm) {
  return uint64_t{e[imm & 3]} | uint64_t{e[imm >> 2 & 3]} << 16 | uint64_t{e[imm >> 4 & 3]} << 32 |
         uint64_t{e[imm >> 6 & 3]} << 48;
}

// 16 bytes of `high`:`low`, `count` (0 to 32) bytes from the lowest; zeros come in from above.
Vec byte_window(Vec high, Vec low, unsigned count) {
  alignas(16) const std::array<Xmm, 4> window = {xmm_of(low), xmm_of(high), Xmm{}, Xmm{}};
  return _mm_loadu_si128(
      reinterpret_cast<const Vec*>(reinterpret_cast<const std::byte*>(window.data()) + std::min(count, 32u)));
}

// ---- K::xmm(a, b, imm), K::mmx(a, b, imm) ----

struct I_pshufd {
  static Vec xmm(Vec, Vec b, unsigned imm) {
    const auto e = split<uint32_t>(b);
    return join<uint64_t>({uint64_t{e[imm & 3]} | uint64_t{e[imm >> 2 & 3]} << 32,
                           uint64_t{e[imm >> 4 & 3]} | uint64_t{e[imm >> 6 & 3]} << 32});
  }
};
struct I_pshuflw {
  static Vec xmm(Vec, Vec b, unsigned imm) {
    return join<uint64_t>({choose_words(split<uint16_t>(b).data(), imm), high_of(b)});
  }
};
struct I_pshufhw {
  static Vec xmm(Vec, Vec b, unsigned imm) {
    return join<uint64_t>({low_of(b), choose_words(split<uint16_t>(b).data() + 4, imm)});
  }
};
struct I_pshufw {
  static Vec mmx(Vec, Vec b, unsigned imm) { return vec_of(choose_words(split<uint16_t>(b).data(), imm)); }
};
struct I_shufps {
  static Vec xmm(Vec a, Vec b, unsigned imm) {
    const auto x = split<uint32_t>(a);
    const auto y = split<uint32_t>(b);
    return join<uint64_t>({uint64_t{x[imm & 3]} | uint64_t{x[imm >> 2 & 3]} << 32,
                           uint64_t{y[imm >> 4 & 3]} | uint64_t{y[imm >> 6 & 3]} << 32});
  }
};
struct I_shufpd {
  static Vec xmm(Vec a, Vec b, unsigned imm) {
    return join<uint64_t>({split<uint64_t>(a)[imm & 1], split<uint64_t>(b)[imm >> 1 & 1]});
  }
};
// Blends: a set bit takes the element of the source.
template <class T>
struct Blend {
  static Vec xmm(Vec a, Vec b, unsigned imm) {
    auto x = split<T>(a);
    const auto y = split<T>(b);
    for (size_t i = 0; i < x.size(); ++i) {
      if ((imm >> i & 1) != 0) x[i] = y[i];
    }
    return join<T>(x);
  }
};
struct I_palignr {
  static Vec xmm(Vec a, Vec b, unsigned imm) { return byte_window(a, b, imm); }
  static Vec mmx(Vec a, Vec b, unsigned imm) { return byte_window(_mm_setzero_si128(), _mm_unpacklo_epi64(b, a), imm); }
};
// The immediate names a dword of the source (bits 0-1), and where in the destination to begin (bit 2: 4 bytes up).
struct I_mpsadbw {
  static Vec xmm(Vec a, Vec b, unsigned imm) {
    const Vec zero = _mm_setzero_si128();
    Vec d = byte_window(zero, a, imm & 4);
    asm("mpsadbw $0, %1, %0" : "+x"(d) : "x"(byte_window(zero, b, (imm & 3) * 4)));
    return d;
  }
};
struct I_insertps {
  static Vec insert(Vec a, uint32_t value, unsigned imm) {
    auto x = split<uint32_t>(a);
    x[imm >> 4 & 3] = value;
    for (size_t i = 0; i < 4; ++i) {
      if ((imm >> i & 1) != 0) x[i] = 0;
    }
    return join<uint32_t>(x);
  }
  static Vec xmm(Vec a, Vec b, unsigned imm) { return insert(a, split<uint32_t>(b)[imm >> 6 & 3], imm); }
};

unsigned imm8(const Op& op) { return static_cast<uint8_t>(op.imm); }

template <class K>
bool exec_imm_reg(SoftCpu& cpu, const Op& op) {
  set_xmm(cpu, op.r0, K::xmm(get_xmm(cpu, op.r0), get_xmm(cpu, op.r1), imm8(op)));
  return true;
}
template <class K, class Ea>
bool exec_imm_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!load_vec<Ea, Align::natural>(cpu, op, source)) return false;
  set_xmm(cpu, op.r0, K::xmm(get_xmm(cpu, op.r0), source, imm8(op)));
  return true;
}
template <class K>
bool exec_imm_mmx_reg(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r0, low_of(K::mmx(vec_of(get_mmx(cpu, op.r0)), vec_of(get_mmx(cpu, op.r1)), imm8(op))));
  return true;
}
template <class K>
bool exec_imm_mmx_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!x87_check_pending(cpu) || !load_source<8, EaAny>(cpu, op, source)) return false;
  set_mmx(cpu, op.r0, low_of(K::mmx(vec_of(get_mmx(cpu, op.r0)), source, imm8(op))));
  return true;
}
template <class K>
Emit emit_imm(const SseForm& f) {
  f.xmm_registers();
  return f.sse(f.memory() ? &op_call<exec_imm_mem<K, EaAny>> : &op_call<exec_imm_reg<K>>);
}
template <class K>
Emit emit_imm_mmx(const SseForm& f) {
  f.mmx_registers();
  return f.mmx(f.memory() ? &op_call<exec_imm_mmx_mem<K>> : &op_call<exec_imm_mmx_reg<K>>);
}

bool exec_insertps_mem(SoftCpu& cpu, const Op& op) {
  uint32_t value = 0;
  if (!load_scalar<uint32_t, EaAny>(cpu, op, value)) return false;
  set_xmm(cpu, op.r0, I_insertps::insert(get_xmm(cpu, op.r0), value, imm8(op)));
  return true;
}

// ---- PINSRx: an element from a general register or memory ----

template <class T>
void insert_element(SoftCpu& cpu, const Op& op, T value) {
  auto e = split<T>(get_xmm(cpu, op.r0));
  e[imm8(op) % e.size()] = value;
  set_xmm(cpu, op.r0, join<T>(e));
}
template <class T>
bool exec_insert_reg(SoftCpu& cpu, const Op& op) {
  insert_element<T>(cpu, op, get<T>(&cpu, op.r1));
  return true;
}
template <class T>
bool exec_insert_mem(SoftCpu& cpu, const Op& op) {
  T value = 0;
  if (!load_scalar<T, EaAny>(cpu, op, value)) return false;
  insert_element<T>(cpu, op, value);
  return true;
}
template <class T>
Emit emit_insert(const SseForm& f) {
  f.op.r0 = f.insn.reg;
  f.op.r1 = slot_of(f.insn.rm);
  return f.sse(f.memory() ? &op_call<exec_insert_mem<T>> : &op_call<exec_insert_reg<T>>);
}

uint64_t with_word(uint64_t v, unsigned imm, uint16_t word) {
  const unsigned shift = (imm & 3) * 16;
  return (v & ~(uint64_t{0xffff} << shift)) | uint64_t{word} << shift;
}
bool exec_pinsrw_mmx_reg(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r0, with_word(get_mmx(cpu, op.r0), imm8(op), get<uint16_t>(&cpu, op.r1)));
  return true;
}
bool exec_pinsrw_mmx_mem(SoftCpu& cpu, const Op& op) {
  uint16_t word = 0;
  if (!x87_check_pending(cpu) || !load_scalar<uint16_t, EaAny>(cpu, op, word)) return false;
  set_mmx(cpu, op.r0, with_word(get_mmx(cpu, op.r0), imm8(op), word));
  return true;
}

// ---- PEXTRx, EXTRACTPS: an element to a general register (zero-extended) or memory ----

// r0: the general register's slot, r1: the XMM register.
template <class T>
bool exec_extract_reg(SoftCpu& cpu, const Op& op) {
  const auto e = split<T>(get_xmm(cpu, op.r1));
  using Wide = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  set<Wide>(&cpu, op.r0, e[imm8(op) % e.size()]);
  return true;
}
template <class T>
bool exec_extract_mem(SoftCpu& cpu, const Op& op) {
  const auto e = split<T>(get_xmm(cpu, op.r1));
  return store_scalar<T, EaAny>(cpu, op, e[imm8(op) % e.size()]);
}
// Of map 0F3A, where ModRM.rm is the destination.
template <class T>
Emit emit_extract(const SseForm& f) {
  f.op.r0 = slot_of(f.insn.rm);
  f.op.r1 = f.insn.reg;
  return f.sse(f.memory() ? &op_call<exec_extract_mem<T>> : &op_call<exec_extract_reg<T>>);
}
bool exec_pextrw_mmx(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set<uint32_t>(&cpu, op.r0, static_cast<uint16_t>(get_mmx(cpu, op.r1) >> (imm8(op) & 3) * 16));
  mmx_touch(cpu);
  return true;
}

Emit emit_0f(const SseForm& f) {
  const bool plain = f.is(SsePrefix::none);
  const bool with66 = f.is(SsePrefix::p66);
  switch (f.insn.opcode) {
    case 0x70:
      switch (f.prefix) {
        case SsePrefix::none: return emit_imm_mmx<I_pshufw>(f);
        case SsePrefix::f3: return emit_imm<I_pshufhw>(f);
        case SsePrefix::f2: return emit_imm<I_pshuflw>(f);
        case SsePrefix::p66:
          f.xmm_registers();
          return f.sse(f.memory() ? RV_SSE_EA(f.op, exec_imm_mem, I_pshufd) : &op_call<exec_imm_reg<I_pshufd>>);
      }
      return Emit::unknown;
    case 0xc4:  // PINSRW
      if (with66) return emit_insert<uint16_t>(f);
      if (!plain) return Emit::unknown;
      f.op.r0 = f.insn.reg & 7;
      f.op.r1 = slot_of(f.insn.rm);
      return f.mmx(f.memory() ? &op_call<exec_pinsrw_mmx_mem> : &op_call<exec_pinsrw_mmx_reg>);
    case 0xc5:  // PEXTRW: here ModRM.reg is the destination
      if (f.memory()) return Emit::unknown;
      f.op.r0 = slot_of(f.insn.reg);
      f.op.r1 = f.insn.rm;
      if (with66) return f.sse(&op_call<exec_extract_reg<uint16_t>>);
      f.op.r1 &= 7;
      return plain ? f.mmx(&op_call<exec_pextrw_mmx>) : Emit::unknown;
    case 0xc6:
      if (plain) return emit_imm<I_shufps>(f);
      return with66 ? emit_imm<I_shufpd>(f) : Emit::unknown;
    default: return Emit::unknown;
  }
}

}  // namespace

Emit emit_sse_shuffle(const SseForm& f) {
  if (f.insn.map == OpMap::map_0f) return emit_0f(f);
  if (f.insn.map != OpMap::map_0f3a) return Emit::unknown;
  if (f.is(SsePrefix::none)) return f.insn.opcode == 0x0f ? emit_imm_mmx<I_palignr>(f) : Emit::unknown;
  if (!f.is(SsePrefix::p66)) return Emit::unknown;
  switch (f.insn.opcode) {
    case 0x0c: return emit_imm<Blend<uint32_t>>(f);  // BLENDPS
    case 0x0d: return emit_imm<Blend<uint64_t>>(f);  // BLENDPD
    case 0x0e: return emit_imm<Blend<uint16_t>>(f);  // PBLENDW
    case 0x0f: return emit_imm<I_palignr>(f);
    case 0x14: return emit_extract<uint8_t>(f);                                           // PEXTRB
    case 0x15: return emit_extract<uint16_t>(f);                                          // PEXTRW
    case 0x16: return f.rex_w() ? emit_extract<uint64_t>(f) : emit_extract<uint32_t>(f);  // PEXTRQ, PEXTRD
    case 0x17: return emit_extract<uint32_t>(f);                                          // EXTRACTPS
    case 0x20: return emit_insert<uint8_t>(f);                                            // PINSRB
    case 0x21:
      f.xmm_registers();
      return f.sse(f.memory() ? &op_call<exec_insertps_mem> : &op_call<exec_imm_reg<I_insertps>>);
    case 0x22: return f.rex_w() ? emit_insert<uint64_t>(f) : emit_insert<uint32_t>(f);  // PINSRQ, PINSRD
    case 0x42: return emit_imm<I_mpsadbw>(f);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
