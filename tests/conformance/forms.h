// The instruction forms that sequences are made of: encoding, operands, and what they do to the flags.
#pragma once

#include <cstdint>
#include <vector>

namespace retrovisor::conformance {

enum class Group : uint8_t { integer, bits, control, string, system, x87, mmx, sse, fault, legacy, count };
inline constexpr unsigned kGroups = static_cast<unsigned>(Group::count);
const char* to_string(Group group);

// Sets of status bits: bits 0-15 as in RFLAGS, bits 16-31 as in the x87 status word.
using Status = uint32_t;
namespace status {
inline constexpr Status CF = 1, PF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, OF = 0x800;
inline constexpr Status flags = CF | PF | AF | ZF | SF | OF;
inline constexpr Status C0 = 1u << 24, C1 = 1u << 25, C2 = 1u << 26, C3 = 1u << 30;
inline constexpr Status x87 = C0 | C1 | C2 | C3;
}  // namespace status

// Register file an operand comes from.
enum class File : uint8_t { none, gpr, gpr8, gpr32, mmx, xmm, st };

// Sizes of general register and memory operands.
enum class Size : uint8_t {
  fixed,   // no choice; prefixes 66 and REX.W keep away
  byte,
  v,       // 16, 32, 64
  y,       // 32, 64; no prefix 66
  vy,      // 32, 64; other sizes would be undefined
  stack,   // 64, 16; in other modes 32, 16
};

// Modes an instruction exists in.
enum class Where : uint8_t { anywhere, only64, never64 };

enum class Imm : uint8_t { none, b, z, v, count5 /* shift count */, small /* 0-7 */, cmpstr };

namespace op {
inline constexpr int8_t reg = -1;        // ModRM.reg is a register operand
inline constexpr int8_t in_opcode = -2;  // the opcode's low bits are the register
inline constexpr int8_t none = -3;       // no ModRM
}  // namespace op

struct Form {
  const char* name = "";
  Group group = Group::integer;
  uint8_t prefix = 0;  // mandatory: 66, F2, F3
  uint8_t map = 0;     // 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A
  uint8_t opcode = 0;
  int8_t digit = op::reg;  // 0-7: opcode extension
  Size size = Size::fixed;
  Where where = Where::anywhere;
  File rm = File::none;    // also of the register in the opcode
  File reg = File::none;
  bool rm_register = true;
  bool rm_memory = true;
  uint8_t memory = 0;      // bytes of the memory operand; 0: operand size
  bool aligned = false;    // memory must be aligned to its size: #GP
  bool exact_memory = false;  // how much of it is read is the implementation's business: keep off page ends
  bool no_access = false;  // LEA, NOP, PREFETCH: address is not touched
  bool writes_rm = false;
  bool writes_reg = false;
  bool lockable = false;
  bool atomic = false;     // XCHG: locked without prefix
  Imm imm = Imm::none;
  uint16_t clobbers = 0;   // general registers written besides the operands
  Status defines = 0;
  Status undefines = 0;
  Status reads = 0;
  bool shift = false;      // flags depend on the count
  bool by_cl = false;
  bool write_open = false;  // does not always write its memory operand
  bool piecemeal = false;  // a fault may leave some of the clobbered registers changed
  int8_t pops = 0;         // how many operands it takes off the stack; negative: puts on it
  bool approximate = false;  // RCPPS and its like
  uint8_t weight = 4;
};

std::vector<Form> integer_forms();
std::vector<Form> legacy_forms();
std::vector<Form> x87_forms();
std::vector<Form> mmx_sse_forms();

}  // namespace retrovisor::conformance
