#include "vmm/kvm/plain_code.h"

#include <capstone/capstone.h>

#include <algorithm>
#include <array>
#include <optional>

#include "vmm/cpu/canonical.h"
#include "vmm/cpu/debug_registers.h"
#include "vmm/cpu/page_walk.h"
#include "vmm/kvm/linear_memory.h"

namespace retrovisor::kvm {
namespace {

// Not here: what is undefined for some operands (BSF, BSWAP of 16 bits), ends in another exit when stepped (HLT), faults on
// its own account (DIV), and whatever touches more than general registers, memory and the arithmetic flags.
constexpr x86_insn kPlain[] = {
    X86_INS_ADC,    X86_INS_ADD,   X86_INS_AND,   X86_INS_CALL,  X86_INS_CDQE,  X86_INS_CBW,  X86_INS_CLC,    X86_INS_CLD,
    X86_INS_CMC,    X86_INS_CMP,   X86_INS_CWD,   X86_INS_CDQ,   X86_INS_CQO,   X86_INS_CWDE, X86_INS_DEC,
    X86_INS_IMUL,   X86_INS_IN,    X86_INS_INC,   X86_INS_JAE,   X86_INS_JA,    X86_INS_JBE,  X86_INS_JB,     X86_INS_JE,
    X86_INS_JGE,    X86_INS_JG,    X86_INS_JLE,   X86_INS_JL,    X86_INS_JMP,   X86_INS_JNE,  X86_INS_JNO,    X86_INS_JNP,
    X86_INS_JNS,    X86_INS_JO,    X86_INS_JP,    X86_INS_JS,    X86_INS_LEA,   X86_INS_MOV,  X86_INS_MOVABS, X86_INS_MOVSX,
    X86_INS_MOVSXD, X86_INS_MOVZX, X86_INS_MUL,   X86_INS_NEG,   X86_INS_NOP,   X86_INS_NOT,  X86_INS_OR,     X86_INS_OUT,
    X86_INS_POP,    X86_INS_PUSH,  X86_INS_RET,   X86_INS_ROL,   X86_INS_ROR,   X86_INS_SAR,  X86_INS_SBB,    X86_INS_SHL,
    X86_INS_SHR,    X86_INS_STC,   X86_INS_STD,   X86_INS_SUB,   X86_INS_TEST,  X86_INS_XADD, X86_INS_XCHG,   X86_INS_XOR,
};

bool known(unsigned id) { return std::find(std::begin(kPlain), std::end(kPlain), id) != std::end(kPlain); }

// The value of a general register, as wide as it is named; nothing for other registers. High bytes (AH) count as general, but
// no address is made of them.
std::optional<uint64_t> general_register(const CpuState& s, unsigned reg) {
  struct Names {
    x86_reg wide, dword, word, byte, high;
  };
  static constexpr Names kNames[] = {
      {X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL, X86_REG_AH},
      {X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL, X86_REG_CH},
      {X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL, X86_REG_DH},
      {X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL, X86_REG_BH},
      {X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL, X86_REG_INVALID},
      {X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL, X86_REG_INVALID},
      {X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL, X86_REG_INVALID},
      {X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL, X86_REG_INVALID},
      {X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B, X86_REG_INVALID},
      {X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B, X86_REG_INVALID},
      {X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B, X86_REG_INVALID},
      {X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B, X86_REG_INVALID},
      {X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B, X86_REG_INVALID},
      {X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B, X86_REG_INVALID},
      {X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B, X86_REG_INVALID},
      {X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B, X86_REG_INVALID},
  };
  if (reg == X86_REG_INVALID) return std::nullopt;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    const Names& n = kNames[i];
    if (reg == n.wide) return s.gpr[i];
    if (reg == n.dword) return s.gpr[i] & 0xffffffff;
    if (reg == n.word) return s.gpr[i] & 0xffff;
    if (reg == n.byte || reg == n.high) return s.gpr[i] & 0xff;
  }
  return std::nullopt;
}

uint64_t low_bits(uint64_t value, unsigned bytes) { return bytes >= 8 ? value : value & ((uint64_t{1} << (8 * bytes)) - 1); }

enum class Access : uint8_t { read, write, fetch };

// One access of the kernel's: within its segment, on one page that allows it.
bool allowed(const CpuState& s, GuestMemory& memory, unsigned segment, uint64_t offset, uint64_t size, Access access) {
  const Segment& g = s.segment[segment];
  uint64_t linear = offset;
  if (s.mode64()) {
    if (segment == FS || segment == GS) linear += g.base;
    if (!is_canonical(linear)) return false;
  } else {
    const bool code = (g.attributes & seg::code) != 0;
    const bool expand_down = !code && (g.attributes & seg::conforming_or_down) != 0;
    if ((g.attributes & seg::unusable) != 0 || (g.attributes & seg::P) == 0 || expand_down) return false;
    if (access != Access::fetch && (code || (g.attributes & seg::readable_or_writable) == 0)) return false;
    if (offset > g.limit || g.limit - offset < size - 1) return false;
    linear = (g.base + offset) & 0xffffffff;
  }
  if ((linear & ~kPageMask) + size > kPageSize) return false;
  if (!s.paging()) return true;
  constexpr uint64_t kLargePage = uint64_t{2} << 20;  // not every KVM has larger ones
  const PageWalk walk = walk_page(s, memory, LinearAddr(linear), {}, false);
  if (!walk.ok || walk.page_size > kLargePage) return false;
  switch (access) {
    case Access::read: return !walk.user_page || (s.cr4 & cr4::SMAP) == 0;
    case Access::write: return walk.writable && (!walk.user_page || (s.cr4 & cr4::SMAP) == 0);
    case Access::fetch: return walk.executable && (!walk.user_page || (s.cr4 & cr4::SMEP) == 0);
  }
  return false;
}

// A near branch there raises no exception at once.
bool branch_allowed(const CpuState& s, uint64_t target) {
  return s.mode64() ? is_canonical(target) : target <= s.segment[CS].limit;
}

unsigned segment_of(const x86_op_mem& m) {
  switch (m.segment) {
    case X86_REG_CS: return CS;
    case X86_REG_DS: return DS;
    case X86_REG_ES: return ES;
    case X86_REG_SS: return SS;
    case X86_REG_FS: return FS;
    case X86_REG_GS: return GS;
    default: break;
  }
  const auto of_stack = [](unsigned reg) {
    return reg == X86_REG_RSP || reg == X86_REG_ESP || reg == X86_REG_RBP || reg == X86_REG_EBP || reg == X86_REG_BP;
  };
  return of_stack(m.base) ? SS : DS;
}

class Check {
 public:
  Check(const CpuState& s, GuestMemory& memory, const cs_insn& insn) : s_(s), memory_(memory), insn_(insn), x86_(insn.detail->x86) {}

  bool passes() const {
    if (!known(insn_.id) || x86_.prefix[0] != 0) return false;  // LOCK, REP
    for (uint8_t i = 0; i < x86_.op_count; ++i)
      if (!operand_passes(x86_.operands[i])) return false;
    return stack_passes() && target_passes();
  }

 private:
  bool operand_passes(const cs_x86_op& op) const {
    if (op.type == X86_OP_IMM) return true;
    if (op.type == X86_OP_REG) return general_register(s_, op.reg).has_value();
    if (op.type != X86_OP_MEM) return false;
    if (insn_.id == X86_INS_LEA || insn_.id == X86_INS_NOP) return true;
    // Where CALL and JMP go would have to be read first; POP's address may depend on what it does to RSP.
    if (insn_.id == X86_INS_CALL || insn_.id == X86_INS_JMP || insn_.id == X86_INS_POP) return false;
    const auto offset = address(op.mem);
    if (!offset || op.size == 0) return false;
    return allowed(s_, memory_, segment_of(op.mem), *offset, op.size, writes(op) ? Access::write : Access::read);
  }

  bool writes(const cs_x86_op& op) const {
    switch (insn_.id) {
      case X86_INS_XCHG:
      case X86_INS_XADD: return true;
      case X86_INS_CMP:
      case X86_INS_TEST:
      case X86_INS_PUSH:
      case X86_INS_MUL:
      case X86_INS_IMUL: return false;  // the destination is a register
      default: return &op == &x86_.operands[0];
    }
  }

  std::optional<uint64_t> address(const x86_op_mem& m) const {
    uint64_t sum = static_cast<uint64_t>(m.disp);
    if (m.base == X86_REG_RIP || m.base == X86_REG_EIP) {
      sum += s_.rip + insn_.size;
    } else if (m.base != X86_REG_INVALID) {
      const auto base = general_register(s_, m.base);
      if (!base) return std::nullopt;
      sum += *base;
    }
    if (m.index != X86_REG_INVALID && m.index != X86_REG_RIZ && m.index != X86_REG_EIZ) {
      const auto index = general_register(s_, m.index);
      if (!index) return std::nullopt;
      sum += *index * static_cast<uint64_t>(m.scale);
    }
    return low_bits(sum, x86_.addr_size);
  }

  // PUSH, POP, CALL, RET: 16 bytes, more than any of them moves.
  bool stack_passes() const {
    constexpr uint64_t kRoom = 16;
    const bool down = insn_.id == X86_INS_PUSH || insn_.id == X86_INS_CALL;
    const bool up = insn_.id == X86_INS_POP || insn_.id == X86_INS_RET;
    if (!down && !up) return true;
    const uint64_t top = stack_top();
    if (down && top < kRoom) return false;
    return allowed(s_, memory_, SS, down ? top - kRoom : top, kRoom, down ? Access::write : Access::read);
  }

  bool target_passes() const {
    if (insn_.id == X86_INS_RET) {
      // A near one; the stack has been looked at.
      const unsigned bytes = operand_bytes();
      const uint64_t linear = s_.mode64() ? s_.gpr[RSP] : (s_.segment[SS].base + stack_top()) & 0xffffffff;
      std::array<uint8_t, 8> value{};
      if (!read_linear(s_, memory_, LinearAddr(linear), std::span(value).first(bytes))) return false;
      uint64_t target = 0;
      for (unsigned i = bytes; i-- > 0;) target = target << 8 | value[i];
      return branch_allowed(s_, target);
    }
    const bool conditional = x86_.opcode[0] >> 4 == 7 || (x86_.opcode[0] == 0x0f && x86_.opcode[1] >> 4 == 8);
    if (!conditional && insn_.id != X86_INS_CALL && insn_.id != X86_INS_JMP) return true;
    if (x86_.op_count != 1) return false;  // far
    const cs_x86_op& op = x86_.operands[0];
    if (op.type == X86_OP_IMM) return branch_allowed(s_, low_bits(static_cast<uint64_t>(op.imm), operand_bytes()));
    const auto target = op.type == X86_OP_REG ? general_register(s_, op.reg) : std::nullopt;
    return target && branch_allowed(s_, *target);
  }

  uint64_t stack_top() const {
    if (s_.mode64()) return s_.gpr[RSP];
    return low_bits(s_.gpr[RSP], (s_.segment[SS].attributes & seg::DB) != 0 ? 4 : 2);
  }

  // Of a near branch.
  unsigned operand_bytes() const {
    if (s_.mode64()) return 8;
    constexpr uint8_t kOperandSize = 0x66;
    const bool other = x86_.prefix[2] == kOperandSize;
    return (s_.code_bits() == 32) != other ? 4 : 2;
  }

  const CpuState& s_;
  GuestMemory& memory_;
  const cs_insn& insn_;
  const cs_x86& x86_;
};

}  // namespace

PlainCode::~PlainCode() {
  if (insn_ != nullptr) cs_free(insn_, 1);
  if (disassembler_ != 0) cs_close(&disassembler_);
}

bool PlainCode::open(unsigned bits) {
  if (disassembler_ == 0) {
    if (cs_open(CS_ARCH_X86, CS_MODE_64, &disassembler_) != CS_ERR_OK) return disassembler_ = 0, false;
    if (cs_option(disassembler_, CS_OPT_DETAIL, CS_OPT_ON) != CS_ERR_OK) return false;
    insn_ = cs_malloc(disassembler_);
  }
  const cs_mode mode = bits == 64 ? CS_MODE_64 : bits == 32 ? CS_MODE_32 : CS_MODE_16;
  return insn_ != nullptr && cs_option(disassembler_, CS_OPT_MODE, static_cast<size_t>(mode)) == CS_ERR_OK;
}

bool PlainCode::is_next(const CpuState& s, GuestMemory& memory) {
  if (s.cpl() != 0 || s.vm86() || (s.rflags & (flag::TF | flag::RF)) != 0 || breakpoints_armed(s.dr7)) return false;
  if (s.paging() && !s.long_mode()) return false;
  std::array<uint8_t, kLongestInstruction> bytes{};
  const size_t have = read_code(s, memory, bytes);
  if (have == 0 || !open(s.code_bits())) return false;
  const uint8_t* code = bytes.data();
  size_t left = have;
  uint64_t address = s.rip;
  if (!cs_disasm_iter(disassembler_, &code, &left, &address, insn_)) return false;
  return allowed(s, memory, CS, s.rip, insn_->size, Access::fetch) && Check(s, memory, *insn_).passes();
}

}  // namespace retrovisor::kvm
