// SSE4.2: the string compares, CRC32 and POPCNT. Source: SDM 1 12.10.3; SDM 2B 4.1 (PCMPxSTRx), SDM 2A CRC32.
#include "vmm/soft/sse_string.h"

#include <algorithm>
#include <array>
#include <bit>
#include <type_traits>
#include <utility>

namespace retrovisor::soft {
namespace {

// What a string compare found: IntRes2, one bit for each element, and the flags (namespace cc).
struct StringMatch {
  uint32_t matches = 0;
  uint32_t cc = 0;
};

// The host's PCMPISTRM and PCMPESTRM give IntRes2 with bit 6 of the immediate clear; what the guest's bit 6 does with it
// (which index, bits or element mask) is done here. The immediate is part of the host instruction: one function for each.
struct ImplicitCompare {
  StringMatch (*run)(Vec, Vec);
};
struct ExplicitCompare {
  StringMatch (*run)(Vec, Vec, int32_t, int32_t);
};

template <unsigned Imm>
StringMatch compare_implicit(Vec a, Vec b) {
  uint32_t ax;
  Vec mask;
  asm("pcmpistrm %[imm], %[b], %[a]\n\tlahf\n\tseto %%al\n\tmovdqa %%xmm0, %[mask]"
      : [mask] "=x"(mask), "=&a"(ax)
      : [a] "x"(a), [b] "x"(b), [imm] "i"(Imm)
      : "xmm0", "cc");
  return {static_cast<uint32_t>(_mm_cvtsi128_si32(mask)), ax & 0xffff};
}
template <unsigned Imm>
StringMatch compare_explicit(Vec a, Vec b, int32_t length_a, int32_t length_b) {
  uint32_t ax = static_cast<uint32_t>(length_a);
  Vec mask;
  asm("pcmpestrm %[imm], %[b], %[a]\n\tlahf\n\tseto %%al\n\tmovdqa %%xmm0, %[mask]"
      : [mask] "=x"(mask), "+&a"(ax)
      : [a] "x"(a), [b] "x"(b), "d"(length_b), [imm] "i"(Imm)
      : "xmm0", "cc");
  return {static_cast<uint32_t>(_mm_cvtsi128_si32(mask)), ax & 0xffff};
}

template <size_t... I>
constexpr std::array<ImplicitCompare, sizeof...(I)> implicit_table(std::index_sequence<I...>) {
  return {ImplicitCompare{compare_implicit<static_cast<unsigned>(I)>}...};
}
template <size_t... I>
constexpr std::array<ExplicitCompare, sizeof...(I)> explicit_table(std::index_sequence<I...>) {
  return {ExplicitCompare{compare_explicit<static_cast<unsigned>(I)>}...};
}
constexpr auto kImplicit = implicit_table(std::make_index_sequence<64>());
constexpr auto kExplicit = explicit_table(std::make_index_sequence<64>());

// Lengths count in absolute value and saturate at the number of elements, at most 16 (SDM 2B 4.1.3).
template <class T>
int32_t string_length(SoftCpu& cpu, Gpr r) {
  using Signed = std::make_signed_t<T>;
  return static_cast<int32_t>(std::clamp<Signed>(static_cast<Signed>(get<T>(&cpu, slot_of(r))), -16, 16));
}

struct Implicit {
  static StringMatch compare(SoftCpu&, unsigned imm, Vec a, Vec b) { return kImplicit[imm & 63].run(a, b); }
};
template <class T>
struct Explicit {
  static StringMatch compare(SoftCpu& cpu, unsigned imm, Vec a, Vec b) {
    return kExplicit[imm & 63].run(a, b, string_length<T>(cpu, RAX), string_length<T>(cpu, RDX));
  }
};

// PCMPxSTRI: ECX gets the lowest or (bit 6) highest index, or the number of elements if there is none.
struct GiveIndex {
  static void store(SoftCpu& cpu, unsigned imm, uint32_t matches) {
    uint32_t index = (imm & 1) != 0 ? 8 : 16;
    if (matches != 0) {
      index = static_cast<uint32_t>((imm & 64) != 0 ? 31 - std::countl_zero(matches) : std::countr_zero(matches));
    }
    set<uint32_t>(&cpu, slot_of(RCX), index);
  }
};
// PCMPxSTRM: XMM0 gets the bits, or (bit 6) a mask of whole elements.
struct GiveMask {
  static void store(SoftCpu& cpu, unsigned imm, uint32_t matches) {
    Xmm out{{matches, 0}};
    if ((imm & 64) != 0) {
      const unsigned width = (imm & 1) != 0 ? 16 : 8;
      const uint64_t ones = (uint64_t{1} << width) - 1;
      out = {};
      for (unsigned i = 0; i < 128 / width; ++i) {
        if ((matches >> i & 1) != 0) out.q[i * width / 64] |= ones << (i * width % 64);
      }
    }
    cpu.s.xmm[0] = out;
  }
};

template <class Lengths, class Give>
void compare_strings(SoftCpu& cpu, const Op& op, Vec source) {
  const unsigned imm = static_cast<uint8_t>(op.imm);
  const StringMatch found = Lengths::compare(cpu, imm, get_xmm(cpu, op.r0), source);
  Give::store(cpu, imm, found.matches);
  cpu.cc = found.cc;
}
template <class Lengths, class Give>
bool exec_string_reg(SoftCpu& cpu, const Op& op) {
  compare_strings<Lengths, Give>(cpu, op, get_xmm(cpu, op.r1));
  return true;
}
template <class Lengths, class Give>
bool exec_string_mem(SoftCpu& cpu, const Op& op) {
  Vec source;
  if (!load_vec<EaAny, Align::any>(cpu, op, source)) return false;
  compare_strings<Lengths, Give>(cpu, op, source);
  return true;
}
template <class Lengths, class Give>
Emit emit_string(const SseForm& f) {
  f.xmm_registers();
  return f.sse(f.memory() ? &op_call<exec_string_mem<Lengths, Give>> : &op_call<exec_string_reg<Lengths, Give>>);
}
template <class Give>
Emit emit_explicit(const SseForm& f) {
  return f.rex_w() ? emit_string<Explicit<uint64_t>, Give>(f) : emit_string<Explicit<uint32_t>, Give>(f);
}

// ---- CRC32 (Castagnoli) ----

uint32_t crc32c(uint32_t crc, uint8_t data) {
  asm("crc32b %1, %0" : "+r"(crc) : "r"(data));
  return crc;
}
uint32_t crc32c(uint32_t crc, uint16_t data) {
  asm("crc32w %1, %0" : "+r"(crc) : "r"(data));
  return crc;
}
uint32_t crc32c(uint32_t crc, uint32_t data) {
  asm("crc32l %1, %0" : "+r"(crc) : "r"(data));
  return crc;
}
uint32_t crc32c(uint32_t crc, uint64_t data) {
  uint64_t wide = crc;
  asm("crc32q %1, %0" : "+r"(wide) : "r"(data));
  return static_cast<uint32_t>(wide);
}

// The upper half of a 64-bit destination is cleared too.
template <class T>
bool exec_crc32_reg(SoftCpu& cpu, const Op& op) {
  set<uint32_t>(&cpu, op.r0, crc32c(get<uint32_t>(&cpu, op.r0), get<T>(&cpu, op.r1)));
  return true;
}
template <class T>
bool exec_crc32_mem(SoftCpu& cpu, const Op& op) {
  T data = 0;
  if (!load_scalar<T, EaAny>(cpu, op, data)) return false;
  set<uint32_t>(&cpu, op.r0, crc32c(get<uint32_t>(&cpu, op.r0), data));
  return true;
}
template <class T>
Emit emit_crc32(const SseForm& f) {
  f.op.r0 = slot_of(f.insn.reg);
  f.op.r1 = slot_of(f.insn.rm);
  if (sizeof(T) == 1 && f.insn.rex == 0 && f.insn.rm >= 4 && !f.memory()) {  // AH, CH, DH, BH
    f.op.r1 = static_cast<uint8_t>(slot_of(f.insn.rm - 4u) + 1);
  }
  return f.use(FpuClass::none, f.memory() ? &op_call<exec_crc32_mem<T>> : &op_call<exec_crc32_reg<T>>);
}

// ---- POPCNT ----

template <class T>
void popcnt(SoftCpu& cpu, const Op& op, T value) {
  uint64_t count;
  asm("popcnt %1, %0" : "=r"(count) : "r"(uint64_t{value}) : "cc");
  set<T>(&cpu, op.r0, static_cast<T>(count));
  cpu.cc = 1 << 9 | (value == 0 ? cc::ZF : 0);
}
template <class T>
bool exec_popcnt_reg(SoftCpu& cpu, const Op& op) {
  popcnt<T>(cpu, op, get<T>(&cpu, op.r1));
  return true;
}
template <class T>
bool exec_popcnt_mem(SoftCpu& cpu, const Op& op) {
  T value = 0;
  if (!load_scalar<T, EaAny>(cpu, op, value)) return false;
  popcnt<T>(cpu, op, value);
  return true;
}
template <class T>
Emit emit_popcnt(const SseForm& f) {
  f.op.r0 = slot_of(f.insn.reg);
  f.op.r1 = slot_of(f.insn.rm);
  return f.use(FpuClass::none, f.memory() ? &op_call<exec_popcnt_mem<T>> : &op_call<exec_popcnt_reg<T>>);
}

}  // namespace

Emit emit_sse_string(const SseForm& f) {
  const uint8_t opcode = f.insn.opcode;
  const uint8_t size = f.insn.operand_size;
  switch (f.insn.map) {
    case OpMap::map_0f:
      if (opcode != 0xb8 || !f.is(SsePrefix::f3)) return Emit::unknown;
      return size == 8 ? emit_popcnt<uint64_t>(f) : size == 4 ? emit_popcnt<uint32_t>(f) : emit_popcnt<uint16_t>(f);
    case OpMap::map_0f38:
      if (!f.is(SsePrefix::f2)) return Emit::unknown;  // MOVBE
      if (opcode == 0xf0) return emit_crc32<uint8_t>(f);
      if (opcode != 0xf1) return Emit::unknown;
      return size == 8 ? emit_crc32<uint64_t>(f) : size == 4 ? emit_crc32<uint32_t>(f) : emit_crc32<uint16_t>(f);
    case OpMap::map_0f3a:
      if (!f.is(SsePrefix::p66)) return Emit::unknown;
      switch (opcode) {
        case 0x60: return emit_explicit<GiveMask>(f);
        case 0x61: return emit_explicit<GiveIndex>(f);
        case 0x62: return emit_string<Implicit, GiveMask>(f);
        case 0x63: return emit_string<Implicit, GiveIndex>(f);
        default: return Emit::unknown;
      }
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
