// Source: SDM 2, the operand columns of each instruction's page, and appendix A.
#include "vmm/soft/memory_operand.h"

#include "vmm/soft/insn_facts.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

struct SizedUse {
  unsigned size;
  MemoryUse use;
};
constexpr SizedUse read(unsigned size) { return {size, MemoryUse::read}; }
constexpr SizedUse write(unsigned size) { return {size, MemoryUse::write}; }
constexpr SizedUse change(unsigned size) { return {size, MemoryUse::read_write}; }

unsigned pair_size(const Insn& insn) { return (insn.opcode & 1) == 0 ? 1 : insn.operand_size; }
bool rex_w(const Insn& insn) { return (insn.rex & 8) != 0; }
// Of far pointers: 64-bit mode does not widen them without REX.W.
unsigned far_size(const Insn& insn) {
  if (insn.mode != block_mode::code64) return 2u + insn.operand_size;
  return 2u + (rex_w(insn) ? 8 : insn.prefix66 ? 2 : 4);
}

constexpr unsigned kCmp = 7;

SizedUse x87(const Insn& insn) {
  const unsigned field = insn.reg_field();
  const unsigned environment = insn.operand_size == 2 ? 14 : 28;  // SDM 1 8.1.10
  switch (insn.opcode) {
    case 0xd8: case 0xda: return read(4);
    case 0xdc: return read(8);
    case 0xde: return read(2);
    case 0xd9:
      if (field == 4) return read(environment);
      if (field == 6) return write(environment);
      if (field == 5) return read(2);
      if (field == 7) return write(2);
      return field == 0 ? read(4) : write(4);
    case 0xdb:
      if (field == 5) return read(10);
      if (field == 7) return write(10);
      return field == 0 ? read(4) : write(4);
    case 0xdd:
      if (field == 4) return read(environment + 80);
      if (field == 6) return write(environment + 80);
      if (field == 7) return write(2);
      return field == 0 ? read(8) : write(8);
    default:  // 0xdf
      switch (field) {
        case 0: return read(2);
        case 1: case 2: case 3: return write(2);
        case 4: return read(10);
        case 5: return read(8);
        case 6: return write(10);
        default: return write(8);
      }
  }
}

SizedUse one_byte(const Insn& insn) {
  const uint8_t o = insn.opcode;
  const unsigned size = insn.operand_size, pair = pair_size(insn), field = insn.reg_field();
  if (o < 0x40) return (o & 2) != 0 || o >> 3 == kCmp ? read(pair) : change(pair);
  if (o >= 0xd8 && o <= 0xdf) return x87(insn);
  switch (o) {
    case 0x62: return read(2 * size);  // BOUND
    case 0x63: return insn.mode != block_mode::code64 ? change(2) : read(size == 2 ? 2 : 4);
    case 0x69: case 0x6b: return read(size);
    case 0x80: case 0x81: case 0x82: case 0x83: return field == kCmp ? read(pair) : change(pair);
    case 0x84: case 0x85: return read(pair);
    case 0x86: case 0x87: return change(pair);
    case 0x88: case 0x89: return write(pair);
    case 0x8a: case 0x8b: return read(pair);
    case 0x8c: return write(2);
    case 0x8e: return read(2);
    case 0x8f: return write(size);
    case 0xa0: case 0xa1: return read(pair);
    case 0xa2: case 0xa3: return write(pair);
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: return change(pair);
    case 0xc4: case 0xc5: return read(2 + size);
    case 0xc6: case 0xc7: return write(pair);
    case 0xf6: case 0xf7: return field == 2 || field == 3 ? change(pair) : read(pair);
    case 0xfe: case 0xff:
      if (field < 2) return change(pair);
      return read(field == 3 || field == 5 ? far_size(insn) : size);
    default: return read(size);
  }
}

enum class Prefix : uint8_t { none, p66, f3, f2 };
Prefix prefix_of(const Insn& insn) {
  return insn.rep == 0xf3 ? Prefix::f3 : insn.rep == 0xf2 ? Prefix::f2 : insn.prefix66 ? Prefix::p66 : Prefix::none;
}

// Sizes by prefix: none, 66, F3, F2.
unsigned by_prefix(Prefix p, unsigned none, unsigned p66, unsigned f3, unsigned f2) {
  return p == Prefix::none ? none : p == Prefix::p66 ? p66 : p == Prefix::f3 ? f3 : f2;
}
unsigned vector_size(Prefix p) { return p == Prefix::none ? 8 : 16; }  // MMX or XMM
unsigned element_size(const Insn& insn) { return rex_w(insn) ? 8 : 4; }

// MMX and SSE in map 0F.
SizedUse vector_0f(const Insn& insn) {
  const Prefix p = prefix_of(insn);
  switch (insn.opcode) {
    case 0x10: return read(by_prefix(p, 16, 16, 4, 8));
    case 0x11: return write(by_prefix(p, 16, 16, 4, 8));
    case 0x12: return read(by_prefix(p, 8, 8, 16, 8));
    case 0x16: return read(by_prefix(p, 8, 8, 16, 16));
    case 0x13: case 0x17: return write(8);
    case 0x29: case 0x2b: return write(16);
    case 0x2a: return read(p == Prefix::none || p == Prefix::p66 ? 8 : element_size(insn));
    case 0x2c: case 0x2d: return read(by_prefix(p, 8, 16, 4, 8));
    case 0x2e: case 0x2f: return read(p == Prefix::none ? 4 : 8);
    case 0x51: case 0x52: case 0x53: case 0x58: case 0x59: case 0x5c: case 0x5d: case 0x5e: case 0x5f: case 0xc2:
      return read(by_prefix(p, 16, 16, 4, 8));
    case 0x5a: return read(by_prefix(p, 8, 16, 4, 8));
    case 0x60: case 0x61: case 0x62: return read(p == Prefix::none ? 4 : 16);
    case 0x6e: return read(element_size(insn));
    case 0x7e: return p == Prefix::f3 ? read(8) : write(element_size(insn));
    case 0x7f: case 0xe7: return write(vector_size(p));
    case 0xc3: return write(element_size(insn));
    case 0xc4: return read(2);
    case 0xd6: return write(8);
    case 0xe6: return read(p == Prefix::f3 ? 8 : 16);
    case 0x14: case 0x15: case 0x28: case 0x54: case 0x55: case 0x56: case 0x57: case 0x5b: case 0xc6: return read(16);
    default: return read(vector_size(p));
  }
}

SizedUse map_0f(const Insn& insn) {
  const uint8_t o = insn.opcode;
  const unsigned size = insn.operand_size, field = insn.reg_field();
  const unsigned table_register = insn.mode == block_mode::code64 ? 10 : 6;
  if (o >> 4 == 4) return read(size);   // CMOVcc
  if (o >> 4 == 9) return write(1);     // SETcc
  switch (o) {
    case 0x00: return field < 2 ? write(2) : read(2);
    case 0x01: return field < 2 ? write(table_register) : field < 4 ? read(table_register) : field == 4 ? write(2) : read(2);
    case 0x02: case 0x03: return read(2);
    case 0xa3: return read(size);
    case 0xa4: case 0xa5: case 0xab: case 0xac: case 0xad: case 0xb3: case 0xbb: return change(size);
    case 0xae:
      switch (field) {
        case 0: return write(512);
        case 1: return read(512);
        case 2: return read(4);
        case 3: return write(4);
        case 4: return write(0);
        case 5: return read(0);
        default: return read(1);  // CLFLUSH faults like a load
      }
    case 0xaf: case 0xb8: case 0xbc: case 0xbd: return read(size);
    case 0xb0: case 0xb1: case 0xc0: case 0xc1: return change(pair_size(insn));
    case 0xb2: case 0xb4: case 0xb5: return read(2 + size);
    case 0xb6: case 0xbe: return read(1);
    case 0xb7: case 0xbf: return read(2);
    case 0xba: return field == 4 ? read(size) : change(size);
    case 0xc7: return change(size == 8 ? 16 : 8);
    default: return vector_0f(insn);
  }
}

SizedUse map_0f38(const Insn& insn) {
  switch (insn.opcode) {
    case 0x20: case 0x23: case 0x25: case 0x30: case 0x33: case 0x35: return read(8);
    case 0x21: case 0x24: case 0x31: case 0x34: return read(4);
    case 0x22: case 0x32: return read(2);
    case 0xf0: return read(1);  // CRC32
    case 0xf1: return read(insn.operand_size);
    default: return read(vector_size(prefix_of(insn)));
  }
}

SizedUse map_0f3a(const Insn& insn) {
  switch (insn.opcode) {
    case 0x0a: return read(4);
    case 0x0b: return read(8);
    case 0x14: return write(1);
    case 0x15: return write(2);
    case 0x16: return write(element_size(insn));
    case 0x17: return write(4);
    case 0x20: return read(1);
    case 0x21: return read(4);
    case 0x22: return read(element_size(insn));
    default: return read(vector_size(prefix_of(insn)));
  }
}

SizedUse named(const Insn& insn) {
  switch (insn.map) {
    case OpMap::one_byte: return one_byte(insn);
    case OpMap::map_0f: return map_0f(insn);
    case OpMap::map_0f38: return map_0f38(insn);
    default: return map_0f3a(insn);
  }
}

// BT and its kin with memory and a register.
bool is_bit_string(const Insn& insn) { return insn.memory && insn.map == OpMap::map_0f && (insn.opcode & 0xe7) == 0xa3; }

bool may_read_tables(const Insn& insn) {
  const uint8_t o = insn.opcode, field = insn.reg_field();
  if (insn.map == OpMap::one_byte) {
    switch (o) {
      case 0x07: case 0x17: case 0x1f: case 0x8e: case 0xc4: case 0xc5: return true;  // loads of segment registers
      case 0x9a: case 0xca: case 0xcb: case 0xcf: case 0xea: return true;             // far transfers
      case 0xcc: case 0xcd: case 0xce: case 0xf1: return true;                        // INT
      case 0xff: return field == 3 || field == 5;
      // Ports: the permissions in the TSS.
      case 0x6c: case 0x6d: case 0x6e: case 0x6f:
      case 0xe4: case 0xe5: case 0xe6: case 0xe7: case 0xec: case 0xed: case 0xee: case 0xef: return true;
      default: return false;
    }
  }
  if (insn.map != OpMap::map_0f) return false;
  switch (o) {
    case 0x00: return field >= 2 && field < 6;  // LLDT, LTR, VERR, VERW
    case 0x02: case 0x03: return true;          // LAR, LSL
    case 0xa1: case 0xa9: case 0xb2: case 0xb4: case 0xb5: return true;
    default: return false;
  }
}

class Collector {
 public:
  explicit Collector(const Insn& insn) : insn_(insn) {}

  MemoryOperands run() {
    const bool one_byte = insn_.map == OpMap::one_byte;
    const bool pops = one_byte && insn_.opcode == 0x8f;  // POP computes the address of its operand with rSP as it is then (SDM 2)
    if (!pops) explicit_operand(0);
    if (one_byte) implicit_one_byte();
    else if (insn_.map == OpMap::map_0f) implicit_0f();
    if (pops) explicit_operand(insn_.base == RSP ? insn_.operand_size : 0);
    out_.tables = may_read_tables(insn_);
    return out_;
  }

 private:
  void explicit_operand(int64_t further) {
    if (!accesses_named_memory(insn_)) return;
    const SizedUse use = named(insn_);
    out_.list[out_.count++] = {.segment = insn_.segment, .base = insn_.base, .index = insn_.index, .scale = insn_.scale,
                               .address_size = insn_.address_size, .use = use.use, .implicit = false,
                               .bit_register = is_bit_string(insn_) ? insn_.reg : kNoRegister,
                               .size = static_cast<uint16_t>(use.size), .displacement = insn_.disp + further};
  }
  MemoryOperand& add(uint8_t segment, uint8_t base, MemoryUse use, unsigned size) {
    MemoryOperand& operand = out_.list[out_.count++];
    operand = {.segment = segment, .base = base, .address_size = insn_.address_size, .use = use, .implicit = true,
               .size = static_cast<uint16_t>(size)};
    return operand;
  }
  MemoryOperand& stack(uint8_t base, MemoryUse use, unsigned size) {
    MemoryOperand& operand = add(SS, base, use, size);
    operand.address_size = insn_.mode == block_mode::code64 ? 8 : 0;
    if (use == MemoryUse::write) operand.displacement = -static_cast<int64_t>(size);
    return operand;
  }
  void push(unsigned size) { stack(RSP, MemoryUse::write, size); }
  // Of 32 bits, a selector's upper half is left as it was (SDM 2, PUSH: so newer processors do).
  void push_selector() {
    push(insn_.operand_size);
    if (insn_.operand_size == 4) out_.list[out_.count - 1].size = 2;
  }
  void pop(unsigned size) { stack(RSP, MemoryUse::read, size); }
  uint8_t source() const { return insn_.segment_override != kNoRegister ? insn_.segment_override : static_cast<uint8_t>(DS); }

  void implicit_one_byte() {
    const uint8_t o = insn_.opcode;
    const unsigned size = insn_.operand_size, pair = pair_size(insn_);
    const unsigned port = (o & 1) == 0 ? 1 : size == 2 ? 2 : 4;
    if (o >= 0x50 && o < 0x58) return push(size);
    if (o >= 0x58 && o < 0x60) return pop(size);
    switch (o) {
      case 0x06: case 0x0e: case 0x16: case 0x1e: return push_selector();
      case 0x68: case 0x6a: case 0x9c: case 0xe8: return push(size);
      case 0x07: case 0x17: case 0x1f: case 0x8f: case 0x9d: case 0xc2: case 0xc3: return pop(size);
      case 0x60: return push(8 * size);
      case 0x61: return pop(8 * size);
      case 0x6c: case 0x6d: add(ES, RDI, MemoryUse::write, port); return;
      case 0x6e: case 0x6f: add(source(), RSI, MemoryUse::read, port); return;
      case 0xa4: case 0xa5:
        add(source(), RSI, MemoryUse::read, pair);
        add(ES, RDI, MemoryUse::write, pair);
        return;
      case 0xa6: case 0xa7:
        add(ES, RDI, MemoryUse::read, pair);
        add(source(), RSI, MemoryUse::read, pair);
        return;
      case 0xaa: case 0xab: add(ES, RDI, MemoryUse::write, pair); return;
      case 0xac: case 0xad: add(source(), RSI, MemoryUse::read, pair); return;
      case 0xae: case 0xaf: add(ES, RDI, MemoryUse::read, pair); return;
      case 0x9a: return push(2 * size);
      case 0xc8: {  // ENTER: rBP, and as many frame pointers: all but the last from the outer frame
        const unsigned level = insn_.imm2 & 31;
        if (level < 2) return push(size * (1 + level));
        push(size);
        stack(RBP, MemoryUse::read, size * (level - 1)).displacement = -static_cast<int64_t>(size * (level - 1));
        stack(RSP, MemoryUse::write, size * level).displacement -= size;
        return;
      }
      case 0xca: case 0xcb: return pop(2 * size);
      case 0xcf: return pop((insn_.mode == block_mode::code64 ? 5 : 3) * size);
      case 0xc9: stack(RBP, MemoryUse::read, size); return;  // LEAVE: where rBP points
      case 0xd7: add(source(), RBX, MemoryUse::read, 1).index = RAX; return;
      case 0xff:
        if (insn_.reg_field() == 2 || insn_.reg_field() == 6) push(size);
        if (insn_.reg_field() == 3) push(2 * size);
        return;
      default: return;
    }
  }

  void implicit_0f() {
    switch (insn_.opcode) {
      case 0xa0: case 0xa8: return push_selector();
      case 0xa1: case 0xa9: return pop(insn_.operand_size);
      case 0xf7: add(source(), RDI, MemoryUse::write, vector_size(prefix_of(insn_))); return;  // MASKMOVQ, MASKMOVDQU
      default: return;
    }
  }

  const Insn& insn_;
  MemoryOperands out_;
};

}  // namespace

MemoryOperands memory_operands_of(const Insn& insn) { return Collector(insn).run(); }

}  // namespace retrovisor::soft
