// Source: SDM 2, appendix A (opcode maps) and the flags each instruction's page names; SDM 1 appendix A (EFLAGS cross-reference);
// for flags that are undefined, what arith.h and the handlers leave.
#include "vmm/soft/insn_facts.h"

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

constexpr auto kCf = static_cast<uint16_t>(flag::CF), kPf = static_cast<uint16_t>(flag::PF), kAf = static_cast<uint16_t>(flag::AF),
               kZf = static_cast<uint16_t>(flag::ZF), kSf = static_cast<uint16_t>(flag::SF), kOf = static_cast<uint16_t>(flag::OF),
               kDf = static_cast<uint16_t>(flag::DF);
constexpr auto kArithmetic = static_cast<uint16_t>(flag::arithmetic);
constexpr FlagUse kNone{};
constexpr FlagUse kAll{.read = 0, .written = kArithmetic};
// AMD's processors keep what multiplications leave undefined, Intel's all that divisions do.
constexpr FlagUse kMultiply{.read = 0, .written = kArithmetic, .kept = kSf | kZf | kAf | kPf};
constexpr FlagUse kDivide{.read = 0, .written = kArithmetic, .kept = kArithmetic};

constexpr FlagUse reads(unsigned flags) { return {.read = static_cast<uint16_t>(flags)}; }
constexpr FlagUse writes(unsigned flags) { return {.read = 0, .written = static_cast<uint16_t>(flags)}; }

// By bits 1-3 of a condition code (SDM 1 appendix B).
constexpr FlagUse condition_reads(unsigned code) {
  constexpr uint16_t kRead[8] = {kOf, kCf, kZf, kCf | kZf, kSf, kPf, kSf | kOf, kSf | kOf | kZf};
  return reads(kRead[code >> 1 & 7]);
}

// ADD OR ADC SBB AND SUB XOR CMP
constexpr FlagUse alu_use(unsigned row) { return {.read = row == 2 || row == 3 ? kCf : uint16_t{0}, .written = kArithmetic}; }

// Masked to five or six bits; zero: nothing happens.
unsigned shift_count(const Insn& insn, unsigned size) { return static_cast<unsigned>(insn.imm) & (size == 8 ? 63u : 31u); }

// ROL ROR RCL RCR SHL SHR SAL SAR
FlagUse shift_use(const Insn& insn) {
  const bool by_cl = insn.opcode >= 0xd2, by_one = !by_cl && insn.opcode >= 0xd0;
  const unsigned size = (insn.opcode & 1) == 0 ? 1 : insn.operand_size;
  if (!by_cl && !by_one && shift_count(insn, size) == 0) return kNone;
  const bool rotate = insn.reg_field() < 4;
  FlagUse use{.read = 0, .written = rotate ? static_cast<uint16_t>(kCf | kOf) : kArithmetic};
  if (insn.reg_field() == 2 || insn.reg_field() == 3) use.read = kCf;
  if (by_cl) {
    use.kept = use.written;
  } else if (rotate && !by_one) {  // OF is defined for rotates by one alone; through CF, a whole round of a narrow operand changes nothing
    const bool round = use.read != 0 && shift_count(insn, size) % (8 * size + 1) == 0;
    use.kept = round ? use.written : shift_count(insn, size) == 1 ? uint16_t{0} : kOf;
  }
  return use;
}

FlagUse group3_use(unsigned field) {
  switch (field) {
    case 2: return kNone;  // NOT
    case 4: case 5: return kMultiply;
    case 6: case 7: return kDivide;
    default: return kAll;  // TEST, NEG
  }
}

FlagUse x87_use(const Insn& insn) {
  if (insn.memory) return kNone;
  const unsigned field = insn.reg_field();
  if ((insn.opcode == 0xda || insn.opcode == 0xdb) && field < 4) {  // FCMOVcc
    constexpr uint16_t kRead[4] = {kCf, kZf, kCf | kZf, kPf};
    return reads(kRead[field]);
  }
  // FCOMI, FUCOMI and their popping forms
  if ((insn.opcode == 0xdb || insn.opcode == 0xdf) && (field == 5 || field == 6)) return kAll;
  return kNone;
}

FlagUse one_byte_use(const Insn& insn) {
  const uint8_t o = insn.opcode;
  if (o < 0x40 && (o & 7) < 6) return alu_use(o >> 3);
  if (o >= 0x40 && o < 0x50) return writes(kArithmetic & ~unsigned{kCf});  // INC, DEC
  if (o >> 4 == 7) return condition_reads(o);
  switch (o) {
    case 0x27: case 0x2f: return {.read = kCf | kAf, .written = kArithmetic};  // DAA, DAS
    case 0x37: case 0x3f: return {.read = kAf, .written = kArithmetic};        // AAA, AAS
    case 0x63: return insn.mode == block_mode::code64 ? kNone : writes(kZf);   // MOVSXD, ARPL
    case 0x69: case 0x6b: return kMultiply;
    case 0x6c: case 0x6d: case 0x6e: case 0x6f: return reads(kDf);
    case 0x80: case 0x81: case 0x82: case 0x83: return alu_use(insn.reg_field());
    case 0x84: case 0x85: case 0xa8: case 0xa9: return kAll;  // TEST
    case 0x9c: return reads(kBlockFlags);                     // PUSHF
    case 0x9d: return writes(kBlockFlags);                    // POPF
    case 0x9e: return writes(kArithmetic & ~unsigned{kOf});   // SAHF
    case 0x9f: return reads(kArithmetic & ~unsigned{kOf});    // LAHF
    case 0xa4: case 0xa5: case 0xaa: case 0xab: case 0xac: case 0xad: return reads(kDf);  // MOVS, STOS, LODS
    case 0xa6: case 0xa7: case 0xae: case 0xaf:  // CMPS, SCAS; with a count of zero nothing happens
      return {.read = kDf, .written = kArithmetic, .kept = insn.rep != 0 ? kArithmetic : uint16_t{0}};
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: return shift_use(insn);
    case 0xcc: case 0xcd: case 0xce: case 0xf1: return reads(kBlockFlags);  // INT3, INT, INTO, INT1 push them
    case 0xcf: return writes(kBlockFlags);                                  // IRET
    case 0xd4: case 0xd5: return kAll;                                      // AAM, AAD
    case 0xd6: return reads(kCf);                                           // SALC
    case 0xda: case 0xdb: case 0xdf: return x87_use(insn);
    case 0xe0: case 0xe1: return reads(kZf);  // LOOPNE, LOOPE
    case 0xf5: return {.read = kCf, .written = kCf};
    case 0xf6: case 0xf7: return group3_use(insn.reg_field());
    case 0xf8: case 0xf9: return writes(kCf);
    case 0xfc: case 0xfd: return writes(kDf);
    case 0xfe: case 0xff: return insn.reg_field() < 2 ? writes(kArithmetic & ~unsigned{kCf}) : kNone;
    default: return kNone;
  }
}

FlagUse map_0f_use(const Insn& insn) {
  const uint8_t o = insn.opcode;
  if (o >> 4 == 4 || o >> 4 == 8 || o >> 4 == 9) return condition_reads(o);  // CMOVcc, Jcc, SETcc
  switch (o) {
    case 0x00: return insn.reg_field() == 4 || insn.reg_field() == 5 ? writes(kZf) : kNone;  // VERR, VERW
    case 0x02: case 0x03: return {.read = 0, .written = kZf};                               // LAR, LSL
    case 0x05: return {.read = kBlockFlags, .written = kBlockFlags, .kept = kBlockFlags};   // SYSCALL: masked by an MSR
    case 0x07: return writes(kBlockFlags);                                                  // SYSRET
    case 0x2e: case 0x2f: return kAll;                                                      // UCOMIS, COMIS
    case 0xa3: case 0xab: case 0xb3: case 0xbb: case 0xba: return writes(kCf);              // BT and its kin
    case 0xa4: case 0xac:                                                                   // SHLD, SHRD
      return shift_count(insn, insn.operand_size) == 0 ? kNone : kAll;
    case 0xa5: case 0xad: return {.read = 0, .written = kArithmetic, .kept = kArithmetic};
    case 0xaf: return kMultiply;
    case 0xb0: case 0xb1: case 0xc0: case 0xc1: return kAll;  // CMPXCHG, XADD
    case 0xb8: return insn.rep == 0xf3 ? kAll : kNone;        // POPCNT
    case 0xbc: case 0xbd:                                     // BSF, BSR: some processors change ZF alone
      return {.read = 0, .written = kArithmetic, .kept = static_cast<uint16_t>(kArithmetic & ~unsigned{kZf})};
    case 0xc7: return insn.memory ? writes(kZf) : kAll;       // CMPXCHG8B; RDRAND, RDSEED
    default: return kNone;
  }
}

bool one_byte_may_leave(const Insn& insn) {
  const uint8_t o = insn.opcode;
  if (o < 0x40) return (o & 7) >= 6 && o != 0x27 && o != 0x2f && o != 0x37 && o != 0x3f;  // the latter adjust AL
  if (o < 0x50) return false;
  switch (o) {
    case 0x63: return insn.mode != block_mode::code64;
    case 0x69: case 0x6b: return false;
    case 0x80: case 0x81: case 0x82: case 0x83: case 0x84: case 0x85: case 0x86: case 0x87: return false;
    case 0x88: case 0x89: case 0x8a: case 0x8b: return false;
    case 0x8d: return !insn.memory;
    case 0x98: case 0x99: case 0x9e: case 0x9f: case 0xa8: case 0xa9: return false;
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: return false;
    case 0xc6: case 0xc7: return insn.reg_field() != 0;
    case 0xd5: case 0xd6: case 0xf5: case 0xf8: case 0xf9: case 0xfc: case 0xfd: return false;
    case 0xf6: case 0xf7: return insn.reg_field() >= 6;
    case 0xfe: case 0xff: return insn.reg_field() >= 2;
    default: return !(o >= 0x90 && o < 0x98) && !(o >= 0xb0 && o < 0xc0);
  }
}

bool map_0f_may_leave(const Insn& insn) {
  const uint8_t o = insn.opcode;
  if (o >> 4 == 4 || o >> 4 == 9 || (o >= 0xc8 && o < 0xd0)) return false;
  switch (o) {
    case 0x0d: return !insn.memory;
    case 0x18: case 0x19: case 0x1a: case 0x1b: case 0x1c: case 0x1d: case 0x1e: case 0x1f: return false;
    case 0xa3: case 0xa4: case 0xa5: case 0xab: case 0xac: case 0xad: case 0xaf: return false;
    case 0xb0: case 0xb1: case 0xb3: case 0xb6: case 0xb7: case 0xbb: case 0xbc: case 0xbd: case 0xbe: case 0xbf: return false;
    case 0xb8: return insn.rep != 0xf3;
    case 0xba: return insn.reg_field() < 4;
    case 0xc0: case 0xc1: return false;
    default: return true;
  }
}

Flow one_byte_flow(const Insn& insn) {
  const uint8_t o = insn.opcode;
  if (o >> 4 == 7) return Flow::conditional;
  switch (o) {
    case 0x07: case 0x17: case 0x1f: case 0x8e: case 0xc4: case 0xc5: return Flow::system;             // loads of segment registers
    case 0x6c: case 0x6d: case 0x6e: case 0x6f: return Flow::system;                                   // INS, OUTS
    case 0x9a: case 0xca: case 0xcb: case 0xcf: case 0xea: return Flow::system;                        // far transfers
    case 0x9d: case 0xfa: case 0xfb: return Flow::system;                                              // POPF, CLI, STI
    case 0xcc: case 0xcd: case 0xce: case 0xf1: case 0xf4: return Flow::system;                        // INT, HLT
    case 0xe4: case 0xe5: case 0xe6: case 0xe7: case 0xec: case 0xed: case 0xee: case 0xef: return Flow::system;  // IN, OUT
    case 0xa4: case 0xa5: case 0xa6: case 0xa7: case 0xaa: case 0xab: case 0xac: case 0xad: case 0xae: case 0xaf:
      return insn.rep != 0 ? Flow::repeat : Flow::next;
    case 0xc2: case 0xc3: return Flow::indirect;
    case 0xe0: case 0xe1: case 0xe2: case 0xe3: return Flow::conditional;
    case 0xe8: return Flow::call;
    case 0xe9: case 0xeb: return Flow::jump;
    case 0xff:
      switch (insn.reg_field()) {
        case 2: case 4: return Flow::indirect;
        case 3: case 5: return Flow::system;
        default: return Flow::next;
      }
    default: return Flow::next;
  }
}

Flow map_0f_flow(const Insn& insn) {
  const uint8_t o = insn.opcode, field = insn.reg_field();
  if (o >> 4 == 8) return Flow::conditional;
  const auto system_if = [](bool is) { return is ? Flow::system : Flow::next; };
  switch (o) {
    case 0x00: return system_if(field == 2 || field == 3);  // LLDT, LTR
    case 0x01:                                              // LGDT, LIDT, LMSW, INVLPG; CLAC to RDTSCP; XGETBV just reads
      if (insn.memory || field == 6) return system_if(field == 2 || field == 3 || field == 6 || field == 7);
      return system_if(insn.modrm == 0xca || insn.modrm == 0xcb || insn.modrm == 0xd1 || insn.modrm == 0xf8 || insn.modrm == 0xf9);
    case 0x05: case 0x06: case 0x07: case 0x34: case 0x35: return Flow::system;  // SYSCALL and its kin, CLTS
    case 0x20: case 0x21: case 0x22: case 0x23: return Flow::system;             // MOV to and from CRn, DRn
    case 0x30: case 0x31: case 0x32: case 0x33: case 0xa2: return Flow::system;  // MSRs, time, counters, CPUID
    case 0xa1: case 0xa9: case 0xb2: case 0xb4: case 0xb5: return Flow::system;  // loads of segment registers
    case 0xae: return system_if(!insn.memory && insn.rep == 0xf3);               // RDFSBASE and its kin
    case 0xc7: return system_if(!insn.memory);                                   // RDRAND, RDSEED
    default: return Flow::next;
  }
}

}  // namespace

Flow flow_of(const Insn& insn) {
  if (insn.map == OpMap::one_byte) return one_byte_flow(insn);
  return insn.map == OpMap::map_0f ? map_0f_flow(insn) : Flow::next;
}

FlagUse flag_use_of(const Insn& insn) {
  switch (insn.map) {
    case OpMap::one_byte: return one_byte_use(insn);
    case OpMap::map_0f: return map_0f_use(insn);
    case OpMap::map_0f38: return insn.opcode == 0x17 ? kAll : kNone;                          // PTEST
    case OpMap::map_0f3a: return insn.opcode >= 0x60 && insn.opcode <= 0x63 ? kAll : kNone;  // PCMPESTRM and its kin
  }
  return kNone;
}

bool may_leave(const Insn& insn) {
  if (insn.lock || accesses_named_memory(insn)) return true;
  if (insn.map == OpMap::one_byte) return one_byte_may_leave(insn);
  return insn.map != OpMap::map_0f || map_0f_may_leave(insn);
}

bool accesses_named_memory(const Insn& insn) {
  if (!insn.memory) return false;
  if (insn.map == OpMap::one_byte) return insn.opcode != 0x8d;  // LEA
  if (insn.map != OpMap::map_0f) return true;
  switch (insn.opcode) {
    case 0x01: return insn.reg_field() != 7;  // INVLPG
    case 0x0d: case 0x18: case 0x19: case 0x1a: case 0x1b: case 0x1c: case 0x1d: case 0x1e: case 0x1f: return false;  // hints
    default: return true;
  }
}

bool is_string(const Insn& insn) {
  const unsigned row = insn.opcode & 0xfcu;
  return insn.map == OpMap::one_byte && (row == 0x6c || row == 0xa4 || (insn.opcode >= 0xaa && insn.opcode <= 0xaf));
}

}  // namespace retrovisor::soft
