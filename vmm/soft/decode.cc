// The instruction decoder. Source: SDM 2A chapter 2 and 3.1.1, SDM 2D appendix A; APM 3 chapter 1.
#include "vmm/soft/decode.h"

#include <algorithm>

#include "vmm/soft/decode_tables.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

constexpr uint8_t kRexB = 1, kRexX = 2, kRexR = 4, kRexW = 8;

class Decoder {
 public:
  Decoder(const uint8_t* bytes, size_t available, uint8_t mode, Insn& out)
      : bytes_(bytes), end_(static_cast<unsigned>(std::min<size_t>(available, kMaxInsnLength))), out_(out) {
    out_ = Insn{};
    out_.mode = mode;
  }

  DecodeStatus run() {
    const DecodeStatus status = instruction();
    out_.length = static_cast<uint8_t>(at_);
    // The bytes given ran out: were they all that an instruction may have?
    if (status == DecodeStatus::truncated && end_ == kMaxInsnLength) return DecodeStatus::too_long;
    return status;
  }

 private:
  bool code64() const { return out_.mode == block_mode::code64; }

  bool byte(uint8_t& out) {
    if (at_ == end_) return false;
    out = bytes_[at_++];
    return true;
  }
  bool unsigned_value(unsigned size, uint64_t& out) {
    if (end_ - at_ < size) {
      at_ = end_;
      return false;
    }
    out = 0;
    for (unsigned i = 0; i < size; ++i) out |= uint64_t{bytes_[at_ + i]} << 8 * i;
    at_ += size;
    return true;
  }
  bool signed_value(unsigned size, int64_t& out) {
    uint64_t v = 0;
    if (!unsigned_value(size, v)) return false;
    const unsigned unused = 64 - 8 * size;
    out = static_cast<int64_t>(v << unused) >> unused;
    return true;
  }

  // Reads prefixes and the first byte behind them. REX counts only if it is the last of them (SDM 2A 2.2.1).
  bool prefixes(uint8_t& opcode) {
    for (;;) {
      if (!byte(opcode)) return false;
      if (code64() && (opcode & 0xf0) == 0x40) {
        out_.rex = opcode;
        continue;
      }
      if ((format::one_byte[opcode] & format::prefix) == 0) return true;
      out_.rex = 0;
      switch (opcode) {
        case 0x26: segment_prefix(ES); break;
        case 0x2e: segment_prefix(CS); break;
        case 0x36: segment_prefix(SS); break;
        case 0x3e: segment_prefix(DS); break;
        case 0x64: out_.segment_override = FS; break;
        case 0x65: out_.segment_override = GS; break;
        case 0x66: out_.prefix66 = true; break;
        case 0x67: out_.prefix67 = true; break;
        case 0xf0: out_.lock = true; break;
        default: out_.rep = opcode; break;
      }
    }
  }
  void segment_prefix(SegReg segment) {
    if (!code64()) out_.segment_override = static_cast<uint8_t>(segment);  // ignored in 64-bit mode, SDM 2A 2.1.1
  }

  void set_sizes(uint16_t f) {
    if (code64()) {
      out_.address_size = out_.prefix67 ? 4 : 8;
      if ((out_.rex & kRexW) != 0 || (f & format::force_64) != 0) {
        out_.operand_size = 8;
      } else if (out_.prefix66) {
        out_.operand_size = 2;
      } else {
        out_.operand_size = (f & format::default_64) != 0 ? 8 : 4;
      }
    } else {
      const bool wide = out_.mode == block_mode::code32;
      out_.address_size = wide != out_.prefix67 ? 4 : 2;
      out_.operand_size = wide != out_.prefix66 ? 4 : 2;
    }
  }

  DecodeStatus instruction() {
    uint8_t opcode = 0;
    if (!prefixes(opcode)) return DecodeStatus::truncated;
    uint16_t f = format::one_byte[opcode];
    if ((f & format::special) != 0) {
      if (opcode == 0x0f) {
        if (!byte(opcode)) return DecodeStatus::truncated;
        out_.map = OpMap::map_0f;
        f = format::map_0f[opcode];
        if ((f & format::special) != 0) {
          out_.map = opcode == 0x38 ? OpMap::map_0f38 : OpMap::map_0f3a;
          f = opcode == 0x38 ? format::map_0f38 : format::map_0f3a;
          if (!byte(opcode)) return DecodeStatus::truncated;
        }
      } else {
        if (at_ == end_) return DecodeStatus::truncated;
        if (extended(opcode, bytes_[at_])) return extended_instruction(opcode);
      }
    }
    out_.opcode = opcode;
    set_sizes(f);
    if (code64() && (f & format::not_in_64) != 0) return DecodeStatus::invalid;
    if (!operands(f)) return DecodeStatus::truncated;
    return (f & format::undefined) != 0 ? DecodeStatus::invalid : DecodeStatus::ok;
  }

  bool operands(uint16_t f) {
    if ((f & format::opcode_register) != 0) {
      out_.reg = static_cast<uint8_t>((out_.opcode & 7) | (out_.rex & kRexB) << 3);
    }
    if ((f & format::modrm) != 0 && !modrm((f & format::no_memory) != 0)) return false;
    adjust_operand_size(f);
    return (f & format::imm_mask) == 0 || immediate(f & format::imm_mask);
  }

  // Where the operand size depends on more than the opcode byte, or prefixes do not touch it.
  void adjust_operand_size(uint16_t f) {
    if ((f & format::no_memory) != 0) out_.operand_size = code64() ? 8 : 4;
    if (out_.map != OpMap::one_byte || out_.opcode != 0xff || !code64()) return;
    switch (out_.reg_field()) {
      case 2:
      case 4: out_.operand_size = 8; break;  // near CALL, JMP
      case 6:                                // PUSH
        if (out_.operand_size == 4) out_.operand_size = 8;
        break;
      default: break;
    }
  }

  // An encoding that starts with C4, C5 (VEX), 62 (EVEX) or 8F (XOP)? Outside 64-bit mode the first three share their
  // byte with LES, LDS, BOUND, which have no register form (SDM 2A 2.3.5). XOP needs an opcode map of 8 or more: bits
  // that are zero in the ModRM of POP (APM 3 1.2.3).
  bool extended(uint8_t first, uint8_t second) const {
    if (first == 0x8f) return (second & 0x1f) >= 8;
    return code64() || second >= 0xc0;
  }

  // There is no AVX, AVX-512 or XOP here: all that is wanted is the length.
  DecodeStatus extended_instruction(uint8_t first) {
    unsigned map = 1;
    uint64_t payload = 0;
    const unsigned payload_size = first == 0xc5 ? 1 : first == 0x62 ? 3 : 2;
    if (!unsigned_value(payload_size, payload) || !byte(out_.opcode)) return DecodeStatus::truncated;
    if (first != 0xc5) map = static_cast<unsigned>(payload & (first == 0x62 ? 7 : 0x1f));
    out_.rex = 0;
    set_sizes(0);
    const bool xop = first == 0x8f;
    uint16_t f = 0;
    switch (map) {
      case 1: f = format::vex_0f(out_.opcode); break;
      case 2: f = format::modrm; break;
      case 3: f = format::modrm | format::imm8; break;
      case 5:
      case 6: f = first == 0x62 ? format::modrm : 0; break;
      case 8: f = xop ? format::modrm | format::imm8 : 0; break;
      case 9: f = xop ? format::modrm : 0; break;
      case 10: f = xop ? format::modrm | format::immz : 0; break;
      default: break;
    }
    out_.map = map == 2 ? OpMap::map_0f38 : map == 3 ? OpMap::map_0f3a : OpMap::map_0f;
    if (xop) out_.operand_size = 4;  // immz is four bytes whatever the prefixes
    return operands(f) ? DecodeStatus::invalid : DecodeStatus::truncated;
  }

  bool modrm(bool no_memory) {
    if (!byte(out_.modrm)) return false;
    out_.has_modrm = true;
    out_.reg = static_cast<uint8_t>(out_.reg_field() | (out_.rex & kRexR) << 1);
    if (out_.mod() == 3 || no_memory) {
      out_.rm = static_cast<uint8_t>(out_.rm_field() | (out_.rex & kRexB) << 3);
      return true;
    }
    out_.memory = true;
    if (!(out_.address_size == 2 ? address16() : address32())) return false;
    const bool stack = out_.base == RSP || out_.base == RBP;
    out_.segment = out_.segment_override != kNoRegister ? out_.segment_override : static_cast<uint8_t>(stack ? SS : DS);
    return true;
  }

  // SDM 2A table 2-1.
  bool address16() {
    static constexpr uint8_t kBase[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
    static constexpr uint8_t kIndex[8] = {RSI, RDI, RSI, RDI, kNoRegister, kNoRegister, kNoRegister, kNoRegister};
    const unsigned rm = out_.rm_field();
    if (out_.mod() == 0 && rm == 6) return signed_value(2, out_.disp);
    out_.base = kBase[rm];
    out_.index = kIndex[rm];
    return out_.mod() == 0 || signed_value(out_.mod(), out_.disp);
  }

  // SDM 2A tables 2-2 and 2-3, with the REX rules of table 2-5.
  bool address32() {
    const unsigned rm = out_.rm_field();
    const unsigned displacement = out_.mod() == 0 ? 0 : out_.mod() == 1 ? 1 : 4;
    const unsigned rex_b = (out_.rex & kRexB) * 8u;
    if (rm == 4) {
      uint8_t sib = 0;
      if (!byte(sib)) return false;
      const unsigned index = (sib >> 3 & 7u) | (out_.rex & kRexX) * 4u;
      if (index != RSP) {
        out_.index = static_cast<uint8_t>(index);
        out_.scale = sib >> 6;
      }
      if ((sib & 7) == 5 && out_.mod() == 0) return signed_value(4, out_.disp);
      out_.base = static_cast<uint8_t>((sib & 7) | rex_b);
    } else if (rm == 5 && out_.mod() == 0) {
      if (code64()) out_.base = kRipBase;
      return signed_value(4, out_.disp);
    } else {
      out_.base = static_cast<uint8_t>(rm | rex_b);
    }
    return displacement == 0 || signed_value(displacement, out_.disp);
  }

  bool immediate(uint16_t kind) {
    const unsigned z = out_.operand_size == 2 ? 2 : 4;
    uint64_t v = 0;
    out_.has_imm = has_immediate(kind);
    switch (kind) {
      case format::imm8: return signed_value(1, out_.imm);
      case format::imm16:
        if (!unsigned_value(2, v)) return false;
        out_.imm = static_cast<int64_t>(v);
        return true;
      case format::immz: return signed_value(z, out_.imm);
      case format::immv: return signed_value(out_.operand_size, out_.imm);
      case format::moffs:
        if (!unsigned_value(out_.address_size, v)) return false;
        out_.disp = static_cast<int64_t>(v);
        out_.memory = true;
        out_.segment = out_.segment_override != kNoRegister ? out_.segment_override : static_cast<uint8_t>(DS);
        return true;
      case format::far_ptr:
        if (!unsigned_value(z, v)) return false;
        out_.imm = static_cast<int64_t>(v);
        return second_immediate(2);
      case format::enter:
        if (!unsigned_value(2, v)) return false;
        out_.imm = static_cast<int64_t>(v);
        return second_immediate(1);
      case format::group3b: return !out_.has_imm || signed_value(1, out_.imm);
      case format::group3z: return !out_.has_imm || signed_value(z, out_.imm);
      default: return !out_.has_imm || (signed_value(1, out_.imm) && second_immediate(1));  // extract
    }
  }
  bool has_immediate(uint16_t kind) const {
    switch (kind) {
      case format::moffs: return false;
      case format::group3b: case format::group3z: return out_.reg_field() <= 1;
      case format::extract: return out_.mod() == 3 && (out_.rep == 0xf2 || (out_.rep == 0 && out_.prefix66));
      default: return true;
    }
  }
  bool second_immediate(unsigned size) {
    uint64_t v = 0;
    if (!unsigned_value(size, v)) return false;
    out_.imm2 = static_cast<uint16_t>(v);
    return true;
  }

  const uint8_t* bytes_;
  unsigned end_;
  unsigned at_ = 0;
  Insn& out_;
};

}  // namespace

DecodeStatus decode(const uint8_t* bytes, size_t available, uint8_t mode, Insn& out) {
  return Decoder(bytes, available, mode, out).run();
}

}  // namespace retrovisor::soft
