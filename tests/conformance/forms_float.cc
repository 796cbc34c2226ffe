#include "tests/conformance/forms.h"

namespace retrovisor::conformance {
namespace {

using namespace status;

Form x87_memory(const char* name, unsigned opcode, int digit, unsigned bytes, bool writes = false) {
  Form f;
  f.name = name;
  f.group = Group::x87;
  f.opcode = static_cast<uint8_t>(opcode);
  f.digit = static_cast<int8_t>(digit);
  f.rm_register = false;
  f.memory = static_cast<uint8_t>(bytes);
  f.writes_rm = writes;
  return f;
}

// Register forms first..last of an opcode, as their ModRM bytes.
void x87_registers(std::vector<Form>& out, const char* name, unsigned opcode, unsigned first, unsigned last) {
  for (unsigned digit = first >> 3 & 7; digit <= (last >> 3 & 7); ++digit) {
    Form f;
    f.name = name;
    f.group = Group::x87;
    f.opcode = static_cast<uint8_t>(opcode);
    f.digit = static_cast<int8_t>(digit);
    f.rm = File::st;
    f.rm_memory = false;
    out.push_back(f);
  }
}

}  // namespace

std::vector<Form> x87_forms() {
  std::vector<Form> out;
  static constexpr const char* kArithmetic[8] = {"fadd", "fmul", "fcom", "fcomp", "fsub", "fsubr", "fdiv", "fdivr"};
  for (int digit = 0; digit < 8; ++digit) {
    out.push_back(x87_memory(kArithmetic[digit], 0xd8, digit, 4));
    out.push_back(x87_memory(kArithmetic[digit], 0xda, digit, 4));
    out.push_back(x87_memory(kArithmetic[digit], 0xdc, digit, 8));
    out.push_back(x87_memory(kArithmetic[digit], 0xde, digit, 2));
  }
  for (const unsigned opcode : {0xd8u, 0xdcu, 0xdeu}) {
    for (unsigned digit = 0; digit < 8; ++digit) {
      if (opcode != 0xd8 && (digit == 2 || digit == 3)) continue;
      x87_registers(out, kArithmetic[digit], opcode, 0xc0 + digit * 8, 0xc0 + digit * 8);
    }
  }
  out.push_back(x87_memory("fld", 0xd9, 0, 4));
  out.push_back(x87_memory("fst", 0xd9, 2, 4, true));
  out.push_back(x87_memory("fstp", 0xd9, 3, 4, true));
  out.push_back(x87_memory("fnstcw", 0xd9, 7, 2, true));
  out.push_back(x87_memory("fild", 0xdb, 0, 4));
  out.push_back(x87_memory("fisttp", 0xdb, 1, 4, true));
  out.push_back(x87_memory("fist", 0xdb, 2, 4, true));
  out.push_back(x87_memory("fistp", 0xdb, 3, 4, true));
  out.push_back(x87_memory("fld", 0xdb, 5, 10));
  out.push_back(x87_memory("fstp", 0xdb, 7, 10, true));
  out.push_back(x87_memory("fld", 0xdd, 0, 8));
  out.push_back(x87_memory("fisttp", 0xdd, 1, 8, true));
  out.push_back(x87_memory("fst", 0xdd, 2, 8, true));
  out.push_back(x87_memory("fstp", 0xdd, 3, 8, true));
  out.push_back(x87_memory("fild", 0xdf, 0, 2));
  out.push_back(x87_memory("fisttp", 0xdf, 1, 2, true));
  out.push_back(x87_memory("fist", 0xdf, 2, 2, true));
  out.push_back(x87_memory("fistp", 0xdf, 3, 2, true));
  out.push_back(x87_memory("fild", 0xdf, 5, 8));
  out.push_back(x87_memory("fbstp", 0xdf, 6, 10, true));
  out.push_back(x87_memory("fistp", 0xdf, 7, 8, true));
  Form status_word = x87_memory("fnstsw", 0xdd, 7, 2, true);
  status_word.reads = x87;
  out.push_back(status_word);
  // Second encodings of FCOM, FXCH, FCOMP, FSTP, and FFREEP.
  x87_registers(out, "fcom", 0xdc, 0xd0, 0xd8);
  x87_registers(out, "fcomp", 0xde, 0xd0, 0xd0);
  x87_registers(out, "fxch", 0xdd, 0xc8, 0xc8);
  x87_registers(out, "fxch", 0xdf, 0xc8, 0xc8);
  x87_registers(out, "fstp", 0xdf, 0xd0, 0xd8);
  x87_registers(out, "ffreep", 0xdf, 0xc0, 0xc0);
  x87_registers(out, "fld", 0xd9, 0xc0, 0xc0);
  x87_registers(out, "fxch", 0xd9, 0xc8, 0xc8);
  x87_registers(out, "ffree", 0xdd, 0xc0, 0xc0);
  x87_registers(out, "fst", 0xdd, 0xd0, 0xd8);
  x87_registers(out, "fucom", 0xdd, 0xe0, 0xe8);
  // FCMOVcc and the compares that set RFLAGS.
  static constexpr Status kConditions[4] = {CF, ZF, CF | ZF, PF};
  for (unsigned i = 0; i < 4; ++i) {
    for (const unsigned opcode : {0xdau, 0xdbu}) {
      x87_registers(out, "fcmovcc", opcode, 0xc0 + 8 * i, 0xc0 + 8 * i);
      out.back().reads = kConditions[i];
    }
  }
  for (const unsigned opcode : {0xdbu, 0xdfu}) {
    for (const unsigned first : {0xe8u, 0xf0u}) {
      x87_registers(out, "fcomi", opcode, first, first);
      out.back().defines = flags;
      out.back().undefines = C1;  // cleared by Intel's (SDM 2A), left alone by AMD's
    }
  }
  return out;
}

namespace {

enum : uint8_t { kNone = 1, k66 = 2, kF2 = 4, kF3 = 8 };

// One opcode of the vector tables; `prefixes` says which of its four columns exist.
struct Vector {
  const char* name;
  uint8_t map;
  uint8_t opcode;
  uint8_t prefixes;
  Imm imm = Imm::none;
};

// Operands: none: MMX with 8 bytes (map 0F and SSSE3), 66: XMM with 16 aligned bytes.
constexpr Vector kPacked[] = {
    {"punpcklbw", 1, 0x60, k66},        {"punpcklwd", 1, 0x61, k66},        {"punpckldq", 1, 0x62, k66},
    {"packsswb", 1, 0x63, kNone | k66}, {"pcmpgtb", 1, 0x64, kNone | k66},  {"pcmpgtw", 1, 0x65, kNone | k66},
    {"pcmpgtd", 1, 0x66, kNone | k66},  {"packuswb", 1, 0x67, kNone | k66}, {"punpckhbw", 1, 0x68, kNone | k66},
    {"punpckhwd", 1, 0x69, kNone | k66}, {"punpckhdq", 1, 0x6a, kNone | k66}, {"packssdw", 1, 0x6b, kNone | k66},
    {"punpcklqdq", 1, 0x6c, k66},       {"punpckhqdq", 1, 0x6d, k66},       {"movq", 1, 0x6f, kNone | k66},
    {"pshufw", 1, 0x70, kNone | k66, Imm::b},
    {"pcmpeqb", 1, 0x74, kNone | k66},  {"pcmpeqw", 1, 0x75, kNone | k66},  {"pcmpeqd", 1, 0x76, kNone | k66},
    {"psrlw", 1, 0xd1, kNone | k66},    {"psrld", 1, 0xd2, kNone | k66},    {"psrlq", 1, 0xd3, kNone | k66},
    {"paddq", 1, 0xd4, kNone | k66},    {"pmullw", 1, 0xd5, kNone | k66},   {"psubusb", 1, 0xd8, kNone | k66},
    {"psubusw", 1, 0xd9, kNone | k66},  {"pminub", 1, 0xda, kNone | k66},   {"pand", 1, 0xdb, kNone | k66},
    {"paddusb", 1, 0xdc, kNone | k66},  {"paddusw", 1, 0xdd, kNone | k66},  {"pmaxub", 1, 0xde, kNone | k66},
    {"pandn", 1, 0xdf, kNone | k66},    {"pavgb", 1, 0xe0, kNone | k66},    {"psraw", 1, 0xe1, kNone | k66},
    {"psrad", 1, 0xe2, kNone | k66},    {"pavgw", 1, 0xe3, kNone | k66},    {"pmulhuw", 1, 0xe4, kNone | k66},
    {"pmulhw", 1, 0xe5, kNone | k66},   {"psubsb", 1, 0xe8, kNone | k66},   {"psubsw", 1, 0xe9, kNone | k66},
    {"pminsw", 1, 0xea, kNone | k66},   {"por", 1, 0xeb, kNone | k66},      {"paddsb", 1, 0xec, kNone | k66},
    {"paddsw", 1, 0xed, kNone | k66},   {"pmaxsw", 1, 0xee, kNone | k66},   {"pxor", 1, 0xef, kNone | k66},
    {"psllw", 1, 0xf1, kNone | k66},    {"pslld", 1, 0xf2, kNone | k66},    {"psllq", 1, 0xf3, kNone | k66},
    {"pmuludq", 1, 0xf4, kNone | k66},  {"pmaddwd", 1, 0xf5, kNone | k66},  {"psadbw", 1, 0xf6, kNone | k66},
    {"psubb", 1, 0xf8, kNone | k66},    {"psubw", 1, 0xf9, kNone | k66},    {"psubd", 1, 0xfa, kNone | k66},
    {"psubq", 1, 0xfb, kNone | k66},    {"paddb", 1, 0xfc, kNone | k66},    {"paddw", 1, 0xfd, kNone | k66},
    {"paddd", 1, 0xfe, kNone | k66},
    {"pshufb", 2, 0x00, kNone | k66},   {"phaddw", 2, 0x01, kNone | k66},   {"phaddd", 2, 0x02, kNone | k66},
    {"phaddsw", 2, 0x03, kNone | k66},  {"pmaddubsw", 2, 0x04, kNone | k66}, {"phsubw", 2, 0x05, kNone | k66},
    {"phsubd", 2, 0x06, kNone | k66},   {"phsubsw", 2, 0x07, kNone | k66},  {"psignb", 2, 0x08, kNone | k66},
    {"psignw", 2, 0x09, kNone | k66},   {"psignd", 2, 0x0a, kNone | k66},   {"pmulhrsw", 2, 0x0b, kNone | k66},
    {"pblendvb", 2, 0x10, k66},         {"blendvps", 2, 0x14, k66},         {"blendvpd", 2, 0x15, k66},
    {"pabsb", 2, 0x1c, kNone | k66},    {"pabsw", 2, 0x1d, kNone | k66},    {"pabsd", 2, 0x1e, kNone | k66},
    {"pmuldq", 2, 0x28, k66},           {"pcmpeqq", 2, 0x29, k66},          {"packusdw", 2, 0x2b, k66},
    {"pcmpgtq", 2, 0x37, k66},          {"pminsb", 2, 0x38, k66},           {"pminsd", 2, 0x39, k66},
    {"pminuw", 2, 0x3a, k66},           {"pminud", 2, 0x3b, k66},           {"pmaxsb", 2, 0x3c, k66},
    {"pmaxsd", 2, 0x3d, k66},           {"pmaxuw", 2, 0x3e, k66},           {"pmaxud", 2, 0x3f, k66},
    {"pmulld", 2, 0x40, k66},           {"phminposuw", 2, 0x41, k66},
    {"palignr", 3, 0x0f, kNone | k66, Imm::b}, {"roundps", 3, 0x08, k66, Imm::b}, {"roundpd", 3, 0x09, k66, Imm::b},
    {"blendps", 3, 0x0c, k66, Imm::b},  {"blendpd", 3, 0x0d, k66, Imm::b},  {"pblendw", 3, 0x0e, k66, Imm::b},
    {"dpps", 3, 0x40, k66, Imm::b},     {"dppd", 3, 0x41, k66, Imm::b},     {"mpsadbw", 3, 0x42, k66, Imm::b},
};

// XMM with 16 aligned bytes for none and 66, 8 bytes for F2, 4 bytes for F3: single and double, packed and scalar.
constexpr uint8_t kAll = kNone | k66 | kF2 | kF3;
constexpr Vector kFloat[] = {
    {"unpcklps", 1, 0x14, kNone | k66}, {"unpckhps", 1, 0x15, kNone | k66}, {"movaps", 1, 0x28, kNone | k66},
    {"sqrt", 1, 0x51, kAll},            {"rsqrt", 1, 0x52, kNone | kF3},    {"rcp", 1, 0x53, kNone | kF3},
    {"andps", 1, 0x54, kNone | k66},    {"andnps", 1, 0x55, kNone | k66},   {"orps", 1, 0x56, kNone | k66},
    {"xorps", 1, 0x57, kNone | k66},    {"add", 1, 0x58, kAll},             {"mul", 1, 0x59, kAll},
    {"sub", 1, 0x5c, kAll},             {"min", 1, 0x5d, kAll},             {"div", 1, 0x5e, kAll},
    {"max", 1, 0x5f, kAll},             {"cmp", 1, 0xc2, kAll, Imm::small}, {"shufps", 1, 0xc6, kNone | k66, Imm::b},
};

Form vector_form(const char* name, unsigned map, unsigned opcode, unsigned prefix) {
  Form f;
  f.name = name;
  f.group = Group::sse;
  f.map = static_cast<uint8_t>(map);
  f.opcode = static_cast<uint8_t>(opcode);
  f.prefix = static_cast<uint8_t>(prefix);
  f.rm = f.reg = File::xmm;
  return f;
}

Form mmx_form(const char* name, unsigned map, unsigned opcode) {
  Form f = vector_form(name, map, opcode, 0);
  f.group = Group::mmx;
  f.rm = f.reg = File::mmx;
  f.memory = 8;
  return f;
}

// xmm with a memory operand of `bytes`; 16 without `unaligned` must be aligned.
Form load_form(const char* name, unsigned map, unsigned opcode, unsigned prefix, unsigned bytes, bool aligned = false) {
  Form f = vector_form(name, map, opcode, prefix);
  f.memory = static_cast<uint8_t>(bytes);
  f.aligned = aligned;
  return f;
}

Form register_only(Form f) {
  f.rm_memory = false;
  return f;
}
Form memory_only(Form f) {
  f.rm_register = false;
  return f;
}
Form with_imm(Form f, Imm imm = Imm::b) {
  f.imm = imm;
  return f;
}

void sse_moves(std::vector<Form>& out) {
  for (const unsigned opcode : {0x10u, 0x11u}) {
    out.push_back(load_form("movups", 1, opcode, 0, 16));
    out.push_back(load_form("movupd", 1, opcode, 0x66, 16));
    out.push_back(load_form("movsd", 1, opcode, 0xf2, 8));
    out.push_back(load_form("movss", 1, opcode, 0xf3, 4));
  }
  out.push_back(load_form("movlps/movhlps", 1, 0x12, 0, 8));
  out.push_back(memory_only(load_form("movlpd", 1, 0x12, 0x66, 8)));
  out.push_back(load_form("movddup", 1, 0x12, 0xf2, 8));
  out.push_back(load_form("movsldup", 1, 0x12, 0xf3, 16, true));
  out.push_back(memory_only(load_form("movlps", 1, 0x13, 0, 8)));
  out.push_back(memory_only(load_form("movlpd", 1, 0x13, 0x66, 8)));
  out.push_back(load_form("movhps/movlhps", 1, 0x16, 0, 8));
  out.push_back(memory_only(load_form("movhpd", 1, 0x16, 0x66, 8)));
  out.push_back(load_form("movshdup", 1, 0x16, 0xf3, 16, true));
  out.push_back(memory_only(load_form("movhps", 1, 0x17, 0, 8)));
  out.push_back(memory_only(load_form("movhpd", 1, 0x17, 0x66, 8)));
  for (const unsigned prefix : {0u, 0x66u}) {
    out.push_back(load_form("movaps", 1, 0x29, prefix, 16, true));
    out.push_back(memory_only(load_form("movntps", 1, 0x2b, prefix, 16, true)));
  }
  out.push_back(load_form("movdqa", 1, 0x7f, 0x66, 16, true));
  out.push_back(load_form("movdqu", 1, 0x6f, 0xf3, 16));
  out.push_back(load_form("movdqu", 1, 0x7f, 0xf3, 16));
  out.push_back(load_form("movq", 1, 0x7e, 0xf3, 8));
  out.push_back(load_form("movq", 1, 0xd6, 0x66, 8));
  out.push_back(memory_only(load_form("lddqu", 1, 0xf0, 0xf2, 16)));
  out.push_back(memory_only(load_form("movntdq", 1, 0xe7, 0x66, 16, true)));
  out.push_back(memory_only(load_form("movntdqa", 2, 0x2a, 0x66, 16, true)));
  for (const unsigned opcode : {0x6eu, 0x7eu}) {
    Form f = load_form("movd/movq", 1, opcode, 0x66, 0);
    f.size = Size::y;
    f.rm = File::gpr;
    f.writes_rm = opcode == 0x7e;
    out.push_back(f);
    f.prefix = 0;
    f.group = Group::mmx;
    f.reg = File::mmx;
    out.push_back(f);
  }
  Form f = register_only(vector_form("movq2dq", 1, 0xd6, 0xf3));
  f.rm = File::mmx;
  out.push_back(f);
  f = register_only(vector_form("movdq2q", 1, 0xd6, 0xf2));
  f.reg = File::mmx;
  out.push_back(f);
  for (const unsigned opcode : {0x50u, 0xd7u}) {  // MOVMSKPS, PMOVMSKB
    f = register_only(vector_form("movmsk", 1, opcode, 0x66));
    f.reg = File::gpr32;
    f.writes_reg = true;
    out.push_back(f);
    f.prefix = 0;
    if (opcode == 0xd7) {
      f.rm = File::mmx;
      f.group = Group::mmx;
    }
    out.push_back(f);
  }
  out.push_back(with_imm(load_form("pshufhw", 1, 0x70, 0xf3, 16, true)));
  out.push_back(with_imm(load_form("pshuflw", 1, 0x70, 0xf2, 16, true)));
}

void sse_conversions(std::vector<Form>& out) {
  for (const unsigned prefix : {0u, 0x66u}) {
    Form f = load_form("cvtpi2ps", 1, 0x2a, prefix, 8);
    f.rm = File::mmx;
    out.push_back(f);
    for (const unsigned opcode : {0x2cu, 0x2du}) {
      f = load_form("cvtps2pi", 1, opcode, prefix, prefix == 0 ? 8 : 16, prefix != 0);
      f.reg = File::mmx;
      out.push_back(f);
    }
    for (const unsigned opcode : {0x2eu, 0x2fu}) {
      f = load_form("ucomis", 1, opcode, prefix, prefix == 0 ? 4 : 8);
      f.defines = flags;
      f.weight = 8;
      out.push_back(f);
    }
  }
  for (const unsigned prefix : {0xf2u, 0xf3u}) {
    Form f = load_form("cvtsi2s", 1, 0x2a, prefix, 0);
    f.size = Size::y;
    f.rm = File::gpr;
    f.weight = 8;
    out.push_back(f);
    for (const unsigned opcode : {0x2cu, 0x2du}) {
      f = load_form("cvts2si", 1, opcode, prefix, prefix == 0xf2 ? 8 : 4);
      f.size = Size::y;
      f.reg = File::gpr;
      f.writes_reg = true;
      f.weight = 8;
      out.push_back(f);
    }
  }
  out.push_back(load_form("cvtps2pd", 1, 0x5a, 0, 8));
  out.push_back(load_form("cvtpd2ps", 1, 0x5a, 0x66, 16, true));
  out.push_back(load_form("cvtsd2ss", 1, 0x5a, 0xf2, 8));
  out.push_back(load_form("cvtss2sd", 1, 0x5a, 0xf3, 4));
  out.push_back(load_form("cvtdq2ps", 1, 0x5b, 0, 16, true));
  out.push_back(load_form("cvtps2dq", 1, 0x5b, 0x66, 16, true));
  out.push_back(load_form("cvttps2dq", 1, 0x5b, 0xf3, 16, true));
  out.push_back(load_form("cvttpd2dq", 1, 0xe6, 0x66, 16, true));
  out.push_back(load_form("cvtpd2dq", 1, 0xe6, 0xf2, 16, true));
  out.push_back(load_form("cvtdq2pd", 1, 0xe6, 0xf3, 8));
  for (const unsigned opcode : {0x7cu, 0x7du, 0xd0u}) {
    out.push_back(load_form("hadd/hsub/addsub", 1, opcode, 0x66, 16, true));
    out.push_back(load_form("hadd/hsub/addsub", 1, opcode, 0xf2, 16, true));
  }
}

void sse_insert_extract(std::vector<Form>& out) {
  for (const unsigned prefix : {0u, 0x66u}) {
    const File file = prefix == 0 ? File::mmx : File::xmm;
    Form f = with_imm(load_form("pinsrw", 1, 0xc4, prefix, 2));
    f.rm = File::gpr32;
    f.reg = file;
    f.group = prefix == 0 ? Group::mmx : Group::sse;
    out.push_back(f);
    f = register_only(with_imm(vector_form("pextrw", 1, 0xc5, prefix)));
    f.reg = File::gpr32;
    f.rm = file;
    f.writes_reg = true;
    f.group = prefix == 0 ? Group::mmx : Group::sse;
    out.push_back(f);
    // Shifts by an immediate.
    for (const unsigned opcode : {0x71u, 0x72u, 0x73u}) {
      for (const int digit : {2, 3, 4, 6, 7}) {
        if (opcode == 0x73 ? digit == 4 || (prefix == 0 && (digit == 3 || digit == 7)) : digit == 3 || digit == 7) continue;
        f = register_only(with_imm(vector_form("pshift", 1, opcode, prefix)));
        f.digit = static_cast<int8_t>(digit);
        f.rm = file;
        f.reg = File::none;
        f.group = prefix == 0 ? Group::mmx : Group::sse;
        out.push_back(f);
      }
    }
  }
  struct Extract {
    const char* name;
    uint8_t opcode, bytes;
    bool to_gpr, y;
  };
  static constexpr Extract kExtracts[] = {{"pextrb", 0x14, 1, true, false},  {"pextrw", 0x15, 2, true, false},
                                          {"pextrd/q", 0x16, 0, true, true}, {"extractps", 0x17, 4, true, false},
                                          {"pinsrb", 0x20, 1, false, false}, {"pinsrd/q", 0x22, 0, false, true}};
  for (const Extract& e : kExtracts) {
    Form f = with_imm(load_form(e.name, 3, e.opcode, 0x66, e.bytes));
    f.rm = e.y ? File::gpr : File::gpr32;
    f.size = e.y ? Size::y : Size::fixed;
    f.writes_rm = e.to_gpr;
    out.push_back(f);
  }
  out.push_back(with_imm(load_form("insertps", 3, 0x21, 0x66, 4)));
  out.push_back(with_imm(load_form("roundss", 3, 0x0a, 0x66, 4)));
  out.push_back(with_imm(load_form("roundsd", 3, 0x0b, 0x66, 8)));
  static constexpr uint8_t kBytes[6] = {8, 4, 2, 8, 4, 8};
  for (unsigned i = 0; i < 6; ++i) {
    out.push_back(load_form("pmovsx", 2, 0x20 + i, 0x66, kBytes[i]));
    out.push_back(load_form("pmovzx", 2, 0x30 + i, 0x66, kBytes[i]));
  }
  Form f = load_form("ptest", 2, 0x17, 0x66, 16, true);
  f.defines = flags;
  f.weight = 8;
  out.push_back(f);
  for (unsigned opcode = 0x60; opcode <= 0x63; ++opcode) {
    f = with_imm(load_form("pcmpstr", 3, opcode, 0x66, 16), Imm::cmpstr);
    f.defines = flags;
    f.clobbers = opcode == 0x61 || opcode == 0x63 ? 2 : 0;
    f.weight = 12;
    out.push_back(f);
  }
}

}  // namespace

std::vector<Form> mmx_sse_forms() {
  std::vector<Form> out;
  for (const Vector& v : kPacked) {
    if ((v.prefixes & kNone) != 0) out.push_back(with_imm(mmx_form(v.name, v.map, v.opcode), v.imm));
    if ((v.prefixes & k66) != 0) out.push_back(with_imm(load_form(v.name, v.map, v.opcode, 0x66, 16, true), v.imm));
  }
  for (const unsigned opcode : {0x60u, 0x61u, 0x62u}) {  // read 4 of 8 bytes
    Form f = mmx_form("punpckl", 1, opcode);
    f.exact_memory = true;
    out.push_back(f);
  }
  for (const Vector& v : kFloat) {
    if ((v.prefixes & kNone) != 0) out.push_back(with_imm(load_form(v.name, v.map, v.opcode, 0, 16, true), v.imm));
    if ((v.prefixes & k66) != 0) out.push_back(with_imm(load_form(v.name, v.map, v.opcode, 0x66, 16, true), v.imm));
    if ((v.prefixes & kF2) != 0) out.push_back(with_imm(load_form(v.name, v.map, v.opcode, 0xf2, 8), v.imm));
    if ((v.prefixes & kF3) != 0) out.push_back(with_imm(load_form(v.name, v.map, v.opcode, 0xf3, 4), v.imm));
  }
  for (Form& f : out) f.approximate = f.map == 1 && (f.opcode == 0x52 || f.opcode == 0x53);
  sse_moves(out);
  sse_conversions(out);
  sse_insert_extract(out);
  out.push_back(mmx_form("movq", 1, 0x7f));
  out.push_back(memory_only(mmx_form("movntq", 1, 0xe7)));
  Form f = mmx_form("emms", 1, 0x77);
  f.digit = op::none;
  f.rm = f.reg = File::none;
  out.push_back(f);
  return out;
}

}  // namespace retrovisor::conformance
