// Which instructions become one op with the conditional branch behind them, by an independent reading of their bytes (Capstone's).
#include <capstone/capstone.h>
#include <gtest/gtest.h>

#include <array>
#include <span>

#include "vmm/soft/alu.h"
#include "vmm/soft/decode.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

class CompareBranch : public ::testing::Test {
 protected:
  CompareBranch() {
    if (cs_open(CS_ARCH_X86, CS_MODE_64, &capstone_) != CS_ERR_OK) ADD_FAILURE() << "Capstone does not open";
    cs_option(capstone_, CS_OPT_DETAIL, CS_OPT_ON);
  }
  ~CompareBranch() override { cs_close(&capstone_); }

  // Nothing: no comparison, or none of registers of 8, 32 or 64 bits.
  std::optional<Compare> by_capstone(std::span<const uint8_t> bytes) {
    cs_insn* insn = nullptr;
    if (cs_disasm(capstone_, bytes.data(), bytes.size(), 0x1000, 1, &insn) != 1) return std::nullopt;
    std::optional<Compare> out;
    const cs_x86& x = insn->detail->x86;
    if ((insn->id == X86_INS_CMP || insn->id == X86_INS_TEST) && x.op_count == 2 && x.operands[0].type == X86_OP_REG &&
        x.operands[1].type != X86_OP_MEM && x.operands[0].size != 2)
      out = Compare{x.operands[0].size, insn->id == X86_INS_TEST, x.operands[1].type == X86_OP_IMM};
    cs_free(insn, 1);
    return out;
  }

 private:
  csh capstone_ = 0;
};

TEST_F(CompareBranch, takes_up_cmp_and_test_of_registers_and_immediates) {
  unsigned found = 0;
  for (const unsigned prefix : {0u, 0x66u, 0x41u, 0x44u, 0x48u}) {
    for (unsigned opcode = 0; opcode < 256; ++opcode) {
      for (unsigned modrm = 0; modrm < 256; ++modrm) {
        std::array<uint8_t, 16> bytes{};
        size_t at = 0;
        if (prefix != 0) bytes[at++] = static_cast<uint8_t>(prefix);
        bytes[at++] = static_cast<uint8_t>(opcode);
        bytes[at] = static_cast<uint8_t>(modrm);
        Insn insn;
        if (decode(bytes.data(), bytes.size(), block_mode::code64, insn) != DecodeStatus::ok) continue;
        if (insn.map != OpMap::one_byte || insn.lock || insn.opcode != opcode) continue;  // the opcode byte was a prefix
        // F6 /1 and F7 /1 are TEST on every processor (APM 3, group 3); Capstone 4 knows /0 alone.
        const bool alias = (opcode & 0xfe) == 0xf6 && insn.reg_field() == 1;
        if (alias) bytes[at] = static_cast<uint8_t>(modrm & 0xc7);
        const auto expected = by_capstone(bytes);
        const auto got = compare_of(insn);
        ASSERT_EQ(got.has_value(), expected.has_value()) << std::hex << prefix << " " << opcode << " " << modrm;
        if (!got) continue;
        ++found;
        EXPECT_EQ(got->size, expected->size) << std::hex << opcode;
        EXPECT_EQ(got->test, expected->test) << std::hex << opcode;
        EXPECT_EQ(got->immediate, expected->immediate) << std::hex << opcode;
      }
    }
  }
  EXPECT_GT(found, 1000u);
}

TEST_F(CompareBranch, leaves_memory_and_locked_forms_alone) {
  for (const std::array<uint8_t, 4>& bytes : {std::array<uint8_t, 4>{0x39, 0x03}, {0x80, 0x3b, 0x01}, {0xf0, 0x39, 0xd8}, {0x66, 0x39, 0xd8}}) {
    Insn insn;
    std::array<uint8_t, 16> padded{};
    std::copy(bytes.begin(), bytes.end(), padded.begin());
    ASSERT_EQ(decode(padded.data(), padded.size(), block_mode::code64, insn), DecodeStatus::ok);
    EXPECT_FALSE(compare_of(insn)) << std::hex << unsigned{bytes[0]} << " " << unsigned{bytes[1]};
  }
}

}  // namespace
}  // namespace retrovisor::soft
