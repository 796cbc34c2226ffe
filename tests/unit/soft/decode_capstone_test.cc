// Instruction lengths against Capstone: wherever Capstone knows an instruction, the lengths agree.
#include <capstone/capstone.h>
#include <gtest/gtest.h>

#include <array>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/soft/decode.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

bool is_0f(const Insn& i, unsigned first, unsigned last) {
  return i.map == OpMap::map_0f && i.opcode >= first && i.opcode <= last;
}
bool is_one_byte(const Insn& i, unsigned opcode) { return i.map == OpMap::one_byte && i.opcode == opcode; }
bool code64(const Insn& i) { return i.mode == block_mode::code64; }
bool rex_w(const Insn& i) { return (i.rex & 8) != 0; }

// Is 62 the first byte behind the prefixes? (`bytes` hold an instruction that decodes as invalid.)
bool is_evex(const uint8_t* bytes) {
  static constexpr std::string_view kPrefixes = "\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3";
  while (kPrefixes.find(static_cast<char>(*bytes)) != kPrefixes.npos) ++bytes;
  return *bytes == 0x62;
}

// Where Capstone 4 reads another length, and why ours is meant.
struct Exception {
  const char* what;
  bool (*applies)(const Insn&, const uint8_t* bytes);
};
constexpr Exception kExceptions[] = {
    {"UD0 and UD1 have a ModRM operand (SDM 2B, UD); Capstone reads none",
     [](const Insn& i, const uint8_t*) { return is_0f(i, 0xb9, 0xb9) || is_0f(i, 0xff, 0xff); }},
    {"0FA6, 0FA7 are undefined on Intel and AMD; Capstone takes the register forms for VIA PadLock",
     [](const Insn& i, const uint8_t*) { return is_0f(i, 0xa6, 0xa7); }},
    {"66 and F2 before the register form of 0F78 make EXTRQ, INSERTQ in every mode; Capstone takes VMREAD in 16-bit code",
     [](const Insn& i, const uint8_t*) { return is_0f(i, 0x78, 0x78) && i.mode == block_mode::code16; }},
    {"EVEX with static rounding has no immediate; Capstone eats a byte for the rounding mode",
     [](const Insn& i, const uint8_t* bytes) { return is_evex(bytes) && i.mod() == 3; }},
    {"F3 with 66 before 0F78 is no EXTRQ: F2 and F3 win over 66 as mandatory prefixes (APM 4 1.2.1)",
     [](const Insn& i, const uint8_t*) { return is_0f(i, 0x78, 0x78) && i.prefix66 && i.rep == 0xf3; }},
    {"66 on near branches in 64-bit mode: Intel ignores it (SDM 2A, CALL, JMP, Jcc); Capstone follows AMD",
     [](const Insn& i, const uint8_t*) {
       return code64(i) && i.prefix66 && (is_0f(i, 0x80, 0x8f) || is_one_byte(i, 0xe8) || is_one_byte(i, 0xe9));
     }},
    {"66 with F2 or F3 before CALL rel, PUSH imm: the immediate is 16-bit all the same; Capstone forgets the 66",
     [](const Insn& i, const uint8_t*) {
       return i.prefix66 && i.rep != 0 && (is_one_byte(i, 0xe8) || is_one_byte(i, 0x68));
     }},
    {"RET n and CALL rel with REX.W and 66 or 67: RET's immediate is always 16-bit, CALL's 32-bit in 64-bit mode",
     [](const Insn& i, const uint8_t*) {
       return code64(i) && rex_w(i) && (i.prefix66 || i.prefix67) && (is_one_byte(i, 0xc2) || is_one_byte(i, 0xe8));
     }},
};

bool excepted(const Insn& insn, const uint8_t* bytes) {
  for (const Exception& e : kExceptions) {
    if (e.applies(insn, bytes)) return true;
  }
  return false;
}

class DecodeAgainstCapstone : public testing::TestWithParam<unsigned> {
 protected:
  void SetUp() override {
    static constexpr cs_mode kModes[] = {CS_MODE_16, CS_MODE_32, CS_MODE_64};
    ASSERT_EQ(cs_open(CS_ARCH_X86, kModes[GetParam()], &capstone_), CS_ERR_OK);
    theirs_ = cs_malloc(capstone_);
  }
  void TearDown() override {
    if (theirs_ != nullptr) cs_free(theirs_, 1);
    if (capstone_ != 0) cs_close(&capstone_);
  }

  // `bytes` holds more than an instruction can have.
  void compare(const std::array<uint8_t, 24>& bytes) {
    Insn ours;
    const DecodeStatus status = decode(bytes.data(), bytes.size(), static_cast<uint8_t>(GetParam()), ours);
    ASSERT_NE(status, DecodeStatus::truncated);
    ASSERT_LE(ours.length, kMaxInsnLength);
    const uint8_t* code = bytes.data();
    size_t left = bytes.size();
    uint64_t address = 0x1000;
    if (!cs_disasm_iter(capstone_, &code, &left, &address, theirs_)) return;
    ++compared_;
    if (status != DecodeStatus::too_long && theirs_->size == ours.length) return;
    if (excepted(ours, bytes.data())) return;
    std::string text;
    for (size_t i = 0; i < theirs_->size; ++i) text += testing::PrintToString(static_cast<unsigned>(bytes[i])) + " ";
    ADD_FAILURE() << "bytes (decimal) " << text << ": " << unsigned{ours.length} << ", Capstone " << theirs_->size << " ("
                  << theirs_->mnemonic << " " << theirs_->op_str << ")";
    ++failures_;
  }

  csh capstone_ = 0;
  cs_insn* theirs_ = nullptr;
  uint64_t compared_ = 0;
  unsigned failures_ = 0;
};

TEST_P(DecodeAgainstCapstone, lengths_agree_for_every_opcode_and_prefix) {
  std::mt19937_64 random(20240601);
  std::vector<std::vector<uint8_t>> prefixes = {{},     {0x66},       {0x67},       {0xf2}, {0xf3},
                                                {0x66, 0xf2}, {0xf3, 0x66}, {0x2e}, {0x64}};
  if (GetParam() == block_mode::code64) {
    prefixes.insert(prefixes.end(),
                    {{0x48}, {0x66, 0x48}, {0x4f}, {0xf2, 0x41}, {0xf3, 0x48}, {0x67, 0x66, 0x4c}, {0x48, 0x66}});
  }
  static const std::vector<std::vector<uint8_t>> kMaps = {{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
  for (const auto& prefix : prefixes) {
    for (const auto& map : kMaps) {
      for (unsigned opcode = 0; opcode < 256; ++opcode) {
        for (unsigned modrm = 0; modrm < 256; ++modrm) {
          // Of the memory forms some stand for all; each register form can be another instruction.
          if (modrm < 0xc0 && (modrm & 7) != 0 && (modrm & 7) < 4) continue;
          std::array<uint8_t, 24> bytes;
          for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
          size_t at = 0;
          for (const uint8_t b : prefix) bytes[at++] = b;
          for (const uint8_t b : map) bytes[at++] = b;
          bytes[at++] = static_cast<uint8_t>(opcode);
          bytes[at] = static_cast<uint8_t>(modrm);
          compare(bytes);
          if (failures_ > 20 || HasFatalFailure()) return;
        }
      }
    }
  }
  EXPECT_GT(compared_, 300'000u);
}

TEST_P(DecodeAgainstCapstone, lengths_agree_for_random_bytes) {
  std::mt19937_64 random(77);
  static constexpr uint8_t kLikely[] = {0x0f, 0x66, 0xf2, 0xf3, 0x67, 0x48, 0x4c, 0xc4, 0xc5, 0x62, 0x8f, 0x2e, 0x65, 0xf0};
  for (unsigned n = 0; n < 1'000'000 && failures_ <= 20 && !HasFatalFailure(); ++n) {
    std::array<uint8_t, 24> bytes;
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
    // Half of the time start with bytes that open the less frequent encodings.
    for (size_t i = 0; i < 4 && (random() & 1) != 0; ++i) bytes[i] = kLikely[random() % std::size(kLikely)];
    compare(bytes);
  }
  EXPECT_GT(compared_, 300'000u);
}

std::string mode_name(const testing::TestParamInfo<unsigned>& info) {
  return info.param == 0 ? "code16" : info.param == 1 ? "code32" : "code64";
}
INSTANTIATE_TEST_SUITE_P(Modes, DecodeAgainstCapstone, testing::Values(0u, 1u, 2u), mode_name);

}  // namespace
}  // namespace retrovisor::soft
