#include "tests/conformance/forms.h"

namespace retrovisor::conformance {
namespace {

using namespace status;
constexpr Status kLogic = flags & ~AF;
constexpr uint16_t kRax = 1, kRdx = 4;

Form base(const char* name, unsigned map, unsigned opcode, Size size) {
  Form f;
  f.name = name;
  f.map = static_cast<uint8_t>(map);
  f.opcode = static_cast<uint8_t>(opcode);
  f.size = size;
  f.rm = f.reg = size == Size::byte ? File::gpr8 : File::gpr;
  return f;
}

Form group(const char* name, unsigned map, unsigned opcode, int digit, Size size) {
  Form f = base(name, map, opcode, size);
  f.digit = static_cast<int8_t>(digit);
  f.reg = File::none;
  return f;
}

Form bare(const char* name, unsigned map, unsigned opcode, Size size = Size::fixed) {
  Form f = base(name, map, opcode, size);
  f.digit = op::none;
  f.rm = f.reg = File::none;
  return f;
}

void arithmetic(std::vector<Form>& out) {
  static constexpr const char* kNames[8] = {"add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"};
  for (unsigned i = 0; i < 8; ++i) {
    const bool logic = i == 1 || i == 4 || i == 6;
    const auto finish = [&](Form f) {
      f.defines = logic ? kLogic : flags;
      f.undefines = logic ? AF : 0;
      f.reads = i == 2 || i == 3 ? CF : 0;
      if (i == 7) f.writes_rm = f.writes_reg = f.lockable = false;
      f.weight = 6;
      out.push_back(f);
    };
    for (const Size size : {Size::byte, Size::v}) {
      const unsigned wide = size == Size::v ? 1 : 0;
      Form f = base(kNames[i], 0, i * 8 + wide, size);
      f.writes_rm = f.lockable = true;
      finish(f);
      f = base(kNames[i], 0, i * 8 + 2 + wide, size);
      f.writes_reg = true;
      finish(f);
      f = bare(kNames[i], 0, i * 8 + 4 + wide, size);
      f.imm = wide != 0 ? Imm::z : Imm::b;
      f.clobbers = i == 7 ? 0 : kRax;
      finish(f);
      f = group(kNames[i], 0, 0x80 + wide, static_cast<int>(i), size);
      f.imm = wide != 0 ? Imm::z : Imm::b;
      f.writes_rm = f.lockable = true;
      finish(f);
    }
    Form f = group(kNames[i], 0, 0x83, static_cast<int>(i), Size::v);
    f.imm = Imm::b;
    f.writes_rm = f.lockable = true;
    finish(f);
  }
  for (const Size size : {Size::byte, Size::v}) {
    const unsigned wide = size == Size::v ? 1 : 0;
    const Imm imm = wide != 0 ? Imm::z : Imm::b;
    const auto unary = [&](const char* name, unsigned opcode, int digit, Status defines) {
      Form f = group(name, 0, opcode + wide, digit, size);
      f.writes_rm = f.lockable = true;
      f.defines = defines;
      out.push_back(f);
    };
    unary("inc", 0xfe, 0, flags & ~CF);
    unary("dec", 0xfe, 1, flags & ~CF);
    unary("not", 0xf6, 2, 0);
    unary("neg", 0xf6, 3, flags);
    for (const int digit : {0, 1}) {
      Form f = group("test", 0, 0xf6 + wide, digit, size);
      f.imm = imm;
      f.defines = kLogic;
      f.undefines = AF;
      f.weight = 2;
      out.push_back(f);
    }
    Form f = base("test", 0, 0x84 + wide, size);
    f.defines = kLogic;
    f.undefines = AF;
    out.push_back(f);
    f = bare("test", 0, 0xa8 + wide, size);
    f.imm = imm;
    f.defines = kLogic;
    f.undefines = AF;
    f.weight = 2;
    out.push_back(f);
    for (const int digit : {4, 5}) {
      f = group(digit == 4 ? "mul" : "imul", 0, 0xf6 + wide, digit, size);
      f.clobbers = wide != 0 ? kRax | kRdx : kRax;
      f.defines = CF | OF;
      f.undefines = flags & ~(CF | OF);
      out.push_back(f);
    }
    for (const int digit : {6, 7}) {  // mostly #DE; the composite forms divide with success
      f = group(digit == 6 ? "div" : "idiv", 0, 0xf6 + wide, digit, size);
      f.clobbers = wide != 0 ? kRax | kRdx : kRax;
      f.undefines = flags;
      f.weight = 1;
      out.push_back(f);
    }
    f = base("xadd", 1, 0xc0 + wide, size);
    f.writes_rm = f.writes_reg = f.lockable = true;
    f.defines = flags;
    out.push_back(f);
    f = base("cmpxchg", 1, 0xb0 + wide, size);
    f.writes_rm = f.lockable = true;
    f.clobbers = kRax;
    f.defines = flags;
    f.weight = 6;
    out.push_back(f);
    f = base("xchg", 0, 0x86 + wide, size);
    f.writes_rm = f.writes_reg = f.lockable = f.atomic = true;
    out.push_back(f);
  }
  Form f = base("imul", 1, 0xaf, Size::v);
  f.writes_reg = true;
  f.defines = CF | OF;
  f.undefines = flags & ~(CF | OF);
  out.push_back(f);
  f.map = 0;
  f.opcode = 0x69;
  f.imm = Imm::z;
  out.push_back(f);
  f.opcode = 0x6b;
  f.imm = Imm::b;
  out.push_back(f);
  for (const bool wide : {false, true}) {
    f = group(wide ? "cmpxchg16b" : "cmpxchg8b", 1, 0xc7, 1, wide ? Size::y : Size::fixed);
    if (wide) f.where = Where::only64;
    f.rm = File::none;
    f.rm_register = false;
    f.memory = wide ? 0 : 8;  // Size::y: twice the operand size, see the encoder
    f.lockable = true;
    f.clobbers = kRax | kRdx;
    f.defines = ZF;
    out.push_back(f);
  }
}

void moves(std::vector<Form>& out) {
  for (const Size size : {Size::byte, Size::v}) {
    const unsigned wide = size == Size::v ? 1 : 0;
    Form f = base("mov", 0, 0x88 + wide, size);
    f.writes_rm = true;
    f.weight = 10;
    out.push_back(f);
    f = base("mov", 0, 0x8a + wide, size);
    f.writes_reg = true;
    f.weight = 10;
    out.push_back(f);
    f = group("mov", 0, 0xc6 + wide, 0, size);
    f.writes_rm = true;
    f.imm = wide != 0 ? Imm::z : Imm::b;
    out.push_back(f);
    f = base("mov", 0, wide != 0 ? 0xb8 : 0xb0, size);
    f.digit = op::in_opcode;
    f.reg = File::none;
    f.writes_rm = true;
    f.imm = wide != 0 ? Imm::v : Imm::b;
    out.push_back(f);
    f = base("movzx", 1, 0xb6 + wide, Size::v);
    f.rm = wide != 0 ? File::gpr : File::gpr8;
    f.memory = wide != 0 ? 2 : 1;
    f.writes_reg = true;
    out.push_back(f);
    f.name = "movsx";
    f.opcode = static_cast<uint8_t>(0xbe + wide);
    out.push_back(f);
  }
  Form f = base("movsxd", 0, 0x63, Size::y);
  f.where = Where::only64;
  f.memory = 4;
  f.writes_reg = true;
  out.push_back(f);
  f = base("lea", 0, 0x8d, Size::v);
  f.rm_register = false;
  f.no_access = true;
  f.writes_reg = true;
  f.weight = 8;
  out.push_back(f);
  f = base("xchg", 0, 0x90, Size::v);
  f.digit = op::in_opcode;
  f.reg = File::none;
  f.writes_rm = true;
  f.clobbers = kRax;
  out.push_back(f);
  f = base("movnti", 1, 0xc3, Size::y);
  f.rm_register = false;
  f.writes_rm = true;
  out.push_back(f);
  f = base("bswap", 1, 0xc8, Size::vy);
  f.digit = op::in_opcode;
  f.reg = File::none;
  f.writes_rm = true;
  out.push_back(f);
  static constexpr Status kReads[8] = {OF, CF, ZF, CF | ZF, SF, PF, SF | OF, SF | OF | ZF};
  for (unsigned cond = 0; cond < 16; ++cond) {
    f = base("cmovcc", 1, 0x40 + cond, Size::v);
    f.writes_reg = true;
    f.reads = kReads[cond / 2];
    f.weight = 1;
    out.push_back(f);
    f = group("setcc", 1, 0x90 + cond, 0, Size::byte);
    f.writes_rm = true;
    f.reads = kReads[cond / 2];
    f.weight = 1;
    out.push_back(f);
  }
  f = bare("cwde", 0, 0x98, Size::v);
  f.clobbers = kRax;
  out.push_back(f);
  f = bare("cdq", 0, 0x99, Size::v);
  f.clobbers = kRdx;
  out.push_back(f);
  f = bare("lahf", 0, 0x9f);
  f.reads = flags & ~OF;
  f.clobbers = kRax;
  out.push_back(f);
  f = bare("sahf", 0, 0x9e);
  f.defines = flags & ~OF;
  out.push_back(f);
  const auto flag_op = [&](const char* name, unsigned opcode, Status defines, Status reads) {
    Form g = bare(name, 0, opcode);
    g.defines = defines;
    g.reads = reads;
    g.weight = 2;
    out.push_back(g);
  };
  flag_op("cmc", 0xf5, CF, CF);
  flag_op("clc", 0xf8, CF, 0);
  flag_op("stc", 0xf9, CF, 0);
  flag_op("cld", 0xfc, 0, 0);
  flag_op("std", 0xfd, 0, 0);
  flag_op("nop", 0x90, 0, 0);
  f = bare("pause", 0, 0x90);
  f.prefix = 0xf3;
  f.weight = 1;
  out.push_back(f);
  f = group("nop", 1, 0x1f, 0, Size::v);
  f.no_access = true;
  f.weight = 2;
  out.push_back(f);
  for (const unsigned opcode : {0x19u, 0x1au, 0x1bu, 0x1cu, 0x1du, 0x1eu}) {  // hints that are NOPs
    f = group("nop", 1, opcode, static_cast<int>(opcode & 7), Size::v);
    f.no_access = true;
    f.weight = 1;
    if (opcode == 0x1e) f.prefix = 0xf3;
    if (opcode == 0x1a || opcode == 0x1b) continue;  // MPX, if there is any
    out.push_back(f);
  }
  f = group("prefetchw", 1, 0x0d, 1, Size::fixed);
  f.rm_register = false;
  f.no_access = true;
  f.weight = 1;
  out.push_back(f);
  for (const int digit : {0, 1, 2, 3}) {
    f = group("prefetch", 1, 0x18, digit, Size::fixed);
    f.rm_register = false;
    f.no_access = true;
    f.weight = 1;
    out.push_back(f);
  }
  for (const int digit : {5, 6, 7}) {  // LFENCE, MFENCE, SFENCE
    f = group("fence", 1, 0xae, digit, Size::fixed);
    f.rm_memory = false;
    f.weight = 1;
    out.push_back(f);
  }
}

void system(std::vector<Form>& out) {
  for (unsigned sreg = 0; sreg < 6; ++sreg) {  // MOV from segment registers
    Form f = group("mov", 0, 0x8c, static_cast<int>(sreg), Size::v);
    f.group = Group::system;
    f.memory = 2;
    f.writes_rm = true;
    out.push_back(f);
  }
}

void stack(std::vector<Form>& out) {
  Form f = base("push", 0, 0x50, Size::stack);
  f.digit = op::in_opcode;
  f.reg = File::none;
  f.pops = -1;
  f.weight = 8;
  out.push_back(f);
  f = base("pop", 0, 0x58, Size::stack);
  f.digit = op::in_opcode;
  f.reg = File::none;
  f.writes_rm = true;
  f.pops = 1;
  f.weight = 8;
  out.push_back(f);
  f = group("push", 0, 0xff, 6, Size::stack);
  f.pops = -1;
  out.push_back(f);
  f = group("pop", 0, 0x8f, 0, Size::stack);
  f.pops = 1;
  f.writes_rm = true;
  out.push_back(f);
  f = bare("push", 0, 0x68, Size::stack);
  f.imm = Imm::z;
  f.pops = -1;
  out.push_back(f);
  f = bare("push", 0, 0x6a, Size::stack);
  f.imm = Imm::b;
  f.pops = -1;
  out.push_back(f);
  f = bare("pushf", 0, 0x9c, Size::stack);
  f.reads = flags;
  f.pops = -1;
  out.push_back(f);
  f = bare("leave", 0, 0xc9, Size::stack);
  f.clobbers = 1 << 4 | 1 << 5;
  f.weight = 1;
  out.push_back(f);
}

void bit_operations(std::vector<Form>& out) {
  static constexpr const char* kShifts[8] = {"rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar"};
  for (int digit = 0; digit < 8; ++digit) {
    for (const Size size : {Size::byte, Size::v}) {
      const unsigned wide = size == Size::v ? 1 : 0;
      Form f = group(kShifts[digit], 0, 0xc0 + wide, digit, size);
      f.group = Group::bits;
      f.writes_rm = f.shift = true;
      f.imm = Imm::count5;
      out.push_back(f);
      f.imm = Imm::none;
      f.opcode = static_cast<uint8_t>(0xd0 + wide);
      out.push_back(f);
      f.opcode = static_cast<uint8_t>(0xd2 + wide);
      f.by_cl = true;
      out.push_back(f);
    }
  }
  static constexpr const char* kTests[4] = {"bt", "bts", "btr", "btc"};
  for (unsigned i = 0; i < 4; ++i) {
    Form f = base(kTests[i], 1, 0xa3 + 8 * i, Size::v);
    f.group = Group::bits;
    f.rm_memory = false;  // with memory the register reaches far beyond the operand: a composite form
    f.writes_rm = i != 0;
    f.defines = CF;
    f.undefines = flags & ~(CF | ZF);
    out.push_back(f);
    f = group(kTests[i], 1, 0xba, static_cast<int>(4 + i), Size::v);
    f.group = Group::bits;
    f.imm = Imm::b;
    f.writes_rm = f.lockable = i != 0;
    f.defines = CF;
    f.undefines = flags & ~(CF | ZF);
    out.push_back(f);
  }
  for (const unsigned opcode : {0xa4u, 0xacu}) {  // by CL: a composite form that knows the count
    Form f = base(opcode == 0xa4 ? "shld" : "shrd", 1, opcode, Size::v);
    f.group = Group::bits;
    f.imm = Imm::count5;
    f.writes_rm = f.shift = true;
    f.weight = 8;
    out.push_back(f);
  }
  for (const unsigned opcode : {0xbcu, 0xbdu}) {
    Form f = base(opcode == 0xbc ? "bsf" : "bsr", 1, opcode, Size::v);
    f.group = Group::bits;
    f.writes_reg = true;
    f.defines = ZF;
    f.undefines = flags & ~ZF;
    f.weight = 6;
    out.push_back(f);
  }
  Form f = base("popcnt", 1, 0xb8, Size::v);
  f.group = Group::bits;
  f.prefix = 0xf3;
  f.writes_reg = true;
  f.defines = flags;
  f.weight = 6;
  out.push_back(f);
  for (const bool wide : {false, true}) {
    f = base("crc32", 2, wide ? 0xf1 : 0xf0, wide ? Size::v : Size::y);
    f.group = Group::bits;
    f.prefix = 0xf2;
    if (!wide) {
      f.rm = File::gpr8;
      f.memory = 1;
    }
    f.writes_reg = true;
    f.weight = 6;
    out.push_back(f);
  }
}

void decimal(std::vector<Form>& out) {
  const auto adjust = [&](const char* name, unsigned opcode, Status defines, Status reads) {
    Form f = bare(name, 0, opcode);
    f.defines = defines;
    f.undefines = flags & ~defines;
    f.reads = reads;
    f.clobbers = kRax;
    f.weight = 12;
    if (opcode == 0xd4 || opcode == 0xd5) f.imm = Imm::b;
    out.push_back(f);
  };
  adjust("daa", 0x27, flags & ~OF, CF | AF);
  adjust("das", 0x2f, flags & ~OF, CF | AF);
  adjust("aaa", 0x37, CF | AF, AF);
  adjust("aas", 0x3f, CF | AF, AF);
  adjust("aam", 0xd4, SF | ZF | PF, 0);
  adjust("aad", 0xd5, SF | ZF | PF, 0);
}

}  // namespace

std::vector<Form> legacy_forms() {
  std::vector<Form> out;
  decimal(out);
  for (const unsigned opcode : {0x40u, 0x48u}) {
    Form f = base(opcode == 0x40 ? "inc" : "dec", 0, opcode, Size::v);
    f.digit = op::in_opcode;
    f.reg = File::none;
    f.writes_rm = true;
    f.defines = flags & ~CF;
    f.weight = 20;
    out.push_back(f);
  }
  for (int digit = 0; digit < 8; ++digit) {  // 82: another 80
    const bool logic = digit == 1 || digit == 4 || digit == 6;
    Form f = group("alu", 0, 0x82, digit, Size::byte);
    f.imm = Imm::b;
    f.writes_rm = f.lockable = digit != 7;
    f.defines = logic ? kLogic : flags;
    f.undefines = logic ? AF : 0;
    f.reads = digit == 2 || digit == 3 ? CF : 0;
    f.weight = 2;
    out.push_back(f);
  }
  Form f = bare("salc", 0, 0xd6);
  f.reads = CF;
  f.clobbers = kRax;
  f.weight = 8;
  out.push_back(f);
  f = bare("into", 0, 0xce);
  f.reads = OF;
  f.weight = 3;
  out.push_back(f);
  f = bare("pusha", 0, 0x60, Size::stack);
  f.pops = -8;
  f.weight = 8;
  out.push_back(f);
  f = bare("popa", 0, 0x61, Size::stack);
  f.pops = 8;
  f.piecemeal = true;
  f.clobbers = 0xef;
  f.weight = 5;
  out.push_back(f);
  f = base("arpl", 0, 0x63, Size::fixed);
  f.memory = 2;
  f.writes_rm = f.write_open = true;
  f.defines = ZF;
  f.weight = 12;
  out.push_back(f);
  for (Form& form : out) {
    form.group = Group::legacy;
    form.where = Where::never64;
  }
  return out;
}

const char* to_string(Group group) {
  static constexpr const char* kNames[kGroups] = {"integer", "bits", "control", "string", "system",
                                                  "x87",     "mmx",  "sse",     "fault",  "legacy"};
  return kNames[static_cast<unsigned>(group)];
}

std::vector<Form> integer_forms() {
  std::vector<Form> out;
  arithmetic(out);
  moves(out);
  system(out);
  stack(out);
  bit_operations(out);
  return out;
}

}  // namespace retrovisor::conformance
