// x87 instructions against the host's x87: every encoding, over edge values and random ones, in all rounding and
// precision modes, with masked and unmasked exceptions, with full and partly empty register stacks.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/soft/x87_bench.h"
#include "vmm/kvm/host_model.h"

namespace retrovisor::soft {
namespace {

std::string hex(unsigned v) {
  char out[8];
  snprintf(out, sizeof out, "%02x", v);
  return out;
}

bool is_transcendental(uint8_t opcode, uint8_t modrm) {
  // F2XM1, FYL2X, FPTAN, FPATAN, FYL2XP1, FSINCOS, FSIN, FCOS.
  constexpr unsigned kLowNibbles = 0x000f | 1 << 0x9 | 1 << 0xb | 1 << 0xe | 1 << 0xf;
  return opcode == 0xd9 && modrm >= 0xf0 && (kLowNibbles >> (modrm & 15) & 1) != 0;
}

// A random operand in the format that the instruction reads.
void fill_operand(X87Values& values, uint8_t opcode, unsigned reg, uint8_t* out) {
  for (unsigned i = 0; i < kOperandSize; i += 8) {
    const uint64_t bits = values.bits();
    std::memcpy(out + i, &bits, 8);
  }
  const bool edge = values.chance(60);
  if (opcode == 0xd8 || (opcode == 0xd9 && reg == 0)) {
    static constexpr uint32_t kEdges[] = {
        0, 0x80000000, 1, 0x807fffff, 0x00800000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
        0x7f800001, 0xffbfffff, 0x7f7fffff, 0x40490fdb};
    if (edge) std::memcpy(out, &kEdges[values.bits() % std::size(kEdges)], 4);
  } else if (opcode == 0xdc || (opcode == 0xdd && reg == 0)) {
    static constexpr uint64_t kEdges[] = {
        0, 0x8000000000000000, 1, 0x800fffffffffffff, 0x0010000000000000, 0x3ff0000000000000,
        0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001,
        0xfff7ffffffffffff, 0x7fefffffffffffff, 0x400921fb54442d18};
    if (edge) std::memcpy(out, &kEdges[values.bits() % std::size(kEdges)], 8);
  } else if (opcode == 0xda || opcode == 0xde || opcode == 0xdb || (opcode == 0xdf && reg != 4)) {
    static constexpr uint64_t kEdges[] = {
        0, 1, UINT64_MAX, 0x8000, 0x7fff, 0x80000000, 0x7fffffff, 0x8000000000000000, INT64_MAX};
    if (edge) std::memcpy(out, &kEdges[values.bits() % std::size(kEdges)], 8);
  }
  if (opcode == 0xdb && reg == 5) {
    const X87Register v = values.value();
    std::memcpy(out, &v.mantissa, 8);
    std::memcpy(out + 8, &v.sign_exponent, 2);
  }
  if (opcode == 0xdf && reg == 4) {
    for (unsigned i = 0; i < 9; ++i) {
      const uint64_t r = values.bits();
      out[i] = static_cast<uint8_t>((r % 10) << 4 | (r >> 8) % 10);
      if (edge && values.chance(50)) out[i] = values.chance(50) ? 0 : 0x99;
    }
  }
}

// How far apart two values are, in units of the last place; a large number if they are not comparable.
double ulps_apart(const X87Register& a, const X87Register& b) {
  if (same(a, b)) return 0;
  if (x87_negative(a) != x87_negative(b)) return 1e9;
  const int ea = a.sign_exponent & 0x7fff, eb = b.sign_exponent & 0x7fff;
  if (ea == 0x7fff || eb == 0x7fff || std::abs(ea - eb) > 1) return 1e9;
  const int lower = std::max(1, std::min(ea, eb));
  const auto scaled = [&](const X87Register& v, int e) {
    return static_cast<__int128>(v.mantissa) << (std::max(1, e) - lower);
  };
  const __int128 distance = scaled(a, ea) - scaled(b, eb);
  return static_cast<double>(distance < 0 ? -distance : distance);
}

class X87Host : public testing::Test {
 protected:
  X87Host() { bench_.cpu().processor_model = vendor_of(kvm::host_processor_model()); }

  // Compares one execution; returns what differs, or nothing.
  std::string compare(uint8_t opcode, uint8_t modrm, const X87State& initial) {
    const bool memory = modrm < 0xc0;
    const unsigned reg = modrm >> 3 & 7;
    uint8_t host_operand[kOperandSize];
    std::memcpy(host_operand, bench_.operand(), kOperandSize);
    X87State host = initial;
    const uint64_t rax = values_.bits(), rflags = (values_.bits() & flag::arithmetic) | flag::fixed;
    const HostX87::Outcome outcome = host_.run(host, host_operand, rax, rflags);
    bench_.fpu() = initial;
    bench_.cpu().s.gpr[RAX] = rax;
    bench_.cpu().cc = cc_of_flags(rflags);
    if (!bench_.execute()) return "faulted";
    const X87State& f = bench_.fpu();

    uint16_t status_mask = 0xffff;
    // FFREE and FFREEP leave the condition codes undefined.
    if ((opcode == 0xdd || opcode == 0xdf) && reg == 0 && !memory) status_mask &= ~fsw::condition & 0xffff;
    const bool loose = is_transcendental(opcode, modrm);
    if (loose && (host.fsw & fsw::PE) != 0) status_mask &= ~fsw::C1 & 0xffff;  // rounded by itself
    const bool remainder = opcode == 0xd9 && (modrm == 0xf5 || modrm == 0xf8);
    if (remainder && (host.fsw & fsw::C2) != 0) {
      if ((f.fsw & fsw::C2) == 0) return "complete";
      return {};  // how far a partial remainder goes is not architectural
    }
    if (f.fcw != host.fcw) return "control word";
    if ((f.fsw & status_mask) != (host.fsw & status_mask)) return "status word";
    if (f.tag != host.tag) return "tag";
    for (unsigned i = 0; i < 8; ++i) {
      if ((f.tag >> i & 1) == 0) continue;
      if (same(f.r[i], host.r[i])) continue;
      if (!loose || ulps_apart(f.r[i], host.r[i]) > 2) return "register " + std::to_string(i);
    }
    if (bench_.cpu().s.gpr[RAX] != outcome.rax) return "AX";
    if (flags_of_cc(bench_.cpu().cc) != (outcome.rflags & flag::arithmetic)) return "flags";
    if (memory) {
      // Pointers in environment images are those of the host.
      if ((opcode == 0xd9 || opcode == 0xdd) && reg == 6) {
        std::memset(host_operand + 12, 0, 16);
        std::memset(bench_.operand() + 12, 0, 16);
      }
      if (std::memcmp(host_operand, bench_.operand(), kOperandSize) != 0) return "memory";
    }
    return {};
  }

  // Keeps to operands for which the manuals define the result of a transcendental function.
  X87State defined_operands(uint8_t modrm, X87State f) {
    if (values_.chance(30)) return f;  // special values; what is not defined is sorted out below
    X87Register& x = x87_st(f, 0);
    x = values_.normal(0, modrm == 0xfe || modrm == 0xff || modrm == 0xfb || modrm == 0xf2 ? 62 : 20);
    if (modrm == 0xf1) x.sign_exponent &= 0x7fff;
    if (modrm == 0xf0) x = values_.normal(-32, 31);
    if (modrm == 0xf9) x = values_.normal(-32, 30);
    if (modrm == 0xf1 && values_.chance(30)) x = {values_.bits() | kX87IntegerBit, 0x3fff};
    x87_st(f, 1) = values_.normal(0, 60);
    return f;
  }
  static bool undefined(uint8_t modrm, const X87State& f) {
    const X87Register& x = f.r[x87_physical(f, 0)];
    const unsigned e = x.sign_exponent & 0x7fff;
    if (modrm == 0xf0 || modrm == 0xf9) return e >= (modrm == 0xf0 ? 0x3fff : 0x3ffd);
    return false;
  }

  void check_all(uint8_t opcode, uint8_t modrm, unsigned rounds) {
    ASSERT_NE(bench_.decode(opcode, modrm), Emit::unknown);
    host_.assemble({opcode, modrm});
    const unsigned reg = modrm >> 3 & 7;
    unsigned failures = 0;
    for (unsigned round = 0; round < rounds; ++round) {
      X87State initial = values_.state();
      // An alias that tells an empty register from a full one only by the processor's model.
      if (opcode == 0xd9 && modrm >= 0xd8 && modrm < 0xe0) initial.tag = 0xff;
      if (is_transcendental(opcode, modrm)) {
        initial = defined_operands(modrm, initial);
        if (undefined(modrm, initial)) continue;
        initial.fsw &= static_cast<uint16_t>(~fsw::PE);
      }
      if (modrm < 0xc0) fill_operand(values_, opcode, reg, bench_.operand());
      uint8_t operand[16];
      std::memcpy(operand, bench_.operand(), sizeof operand);
      const std::string difference = compare(opcode, modrm, initial);
      if (difference.empty()) continue;
      std::memcpy(bench_.operand(), operand, sizeof operand);
      X87State host = initial;
      host_.run(host, bench_.operand(), 0, flag::fixed);
      uint64_t shown;
      std::memcpy(&shown, operand, 8);
      ADD_FAILURE() << hex(opcode) << " " << hex(modrm) << " differs in " << difference << ", operand " << std::hex << shown
                    << "\n before " << text(initial) << "\n host   " << text(host) << "\n ours   " << text(bench_.fpu());
      if (++failures == 3) return;
    }
  }

  X87Bench bench_;
  HostX87 host_;
  X87Values values_{0x87};
};

constexpr unsigned kRounds = 3000;

TEST_F(X87Host, agrees_on_every_memory_form) {
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    for (unsigned reg = 0; reg < 8; ++reg) {
      const uint8_t modrm = static_cast<uint8_t>(reg << 3 | 6);
      if (bench_.decode(static_cast<uint8_t>(opcode), modrm) == Emit::unknown) continue;
      check_all(static_cast<uint8_t>(opcode), modrm, kRounds);
    }
  }
}

TEST_F(X87Host, agrees_on_every_register_form_with_two_registers) {
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    for (unsigned modrm = 0xc0; modrm <= 0xff; ++modrm) {
      if (opcode == 0xd9 && modrm >= 0xd0) continue;
      if (bench_.decode(static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm)) == Emit::unknown) continue;
      check_all(static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm), kRounds / 3);
    }
  }
}

TEST_F(X87Host, agrees_on_instructions_with_implied_operands) {
  for (unsigned modrm = 0xd0; modrm <= 0xff; ++modrm) {
    const uint8_t m = static_cast<uint8_t>(modrm);
    if (is_transcendental(0xd9, m) || bench_.decode(0xd9, m) == Emit::unknown) continue;
    check_all(0xd9, m, 4 * kRounds);
  }
}

TEST_F(X87Host, is_within_two_ulps_for_transcendentals) {
  for (unsigned modrm = 0xf0; modrm <= 0xff; ++modrm) {
    if (is_transcendental(0xd9, static_cast<uint8_t>(modrm))) check_all(0xd9, static_cast<uint8_t>(modrm), 4 * kRounds);
  }
}

// What the host's x87 was left in by other code, and what we leave it in.
TEST_F(X87Host, exceptions_of_host_code_are_not_the_guests) {
  x87_push(bench_.fpu(), kX87One);
  ASSERT_NE(bench_.decode(0xd8, 0xc0), Emit::unknown);  // fadd st, st
  const uint64_t two = 2, three = 3;
  asm volatile("fildll %0\n\tfildll %1\n\tfdivrp\n\tfstp %%st(0)" : : "m"(two), "m"(three) : "st", "st(1)");  // inexact
  ASSERT_TRUE(bench_.execute());
  EXPECT_EQ(bench_.fpu().fsw & fsw::exceptions, 0);
  EXPECT_TRUE(same(x87_st(bench_.fpu(), 0), {kX87IntegerBit, 0x4000}));
}

TEST_F(X87Host, results_do_not_depend_on_the_host_status) {
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    for (unsigned modrm = 0; modrm <= 0xff; ++modrm) {
      if (modrm < 0xc0 && (modrm & 0xc7) != 6) continue;
      if (bench_.decode(static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm)) == Emit::unknown) continue;
      for (unsigned i = 0; i < 40; ++i) {
        const X87State initial = values_.state();
        uint8_t operand[kOperandSize], stored[kOperandSize];
        fill_operand(values_, static_cast<uint8_t>(opcode), modrm >> 3 & 7, bench_.operand());
        std::memcpy(operand, bench_.operand(), kOperandSize);
        bench_.fpu() = initial;
        asm volatile("fnclex");
        ASSERT_TRUE(bench_.execute());
        const X87State clean = bench_.fpu();
        std::memcpy(stored, bench_.operand(), kOperandSize);

        std::memcpy(bench_.operand(), operand, kOperandSize);
        bench_.fpu() = initial;
        uint16_t environment[14];
        asm volatile("fnstenv %0" : "=m"(environment));
        environment[2] = static_cast<uint16_t>(fsw::condition | (values_.bits() & fsw::exceptions));
        asm volatile("fldenv %0" : : "m"(environment));
        ASSERT_TRUE(bench_.execute());
        ASSERT_EQ(text(clean), text(bench_.fpu())) << hex(opcode) << " " << hex(modrm) << " from " << text(initial);
        ASSERT_EQ(std::memcmp(stored, bench_.operand(), kOperandSize), 0) << hex(opcode) << " " << hex(modrm);
      }
    }
  }
}

TEST_F(X87Host, host_state_is_the_default_after_every_instruction) {
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    for (unsigned modrm = 0; modrm <= 0xff; ++modrm) {
      if (modrm < 0xc0 && (modrm & 0xc7) != 6) continue;
      if (bench_.decode(static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm)) == Emit::unknown) continue;
      for (unsigned i = 0; i < 100; ++i) {
        bench_.fpu() = values_.state();
        ASSERT_TRUE(bench_.execute());
        uint16_t environment[14];
        asm volatile("fnstenv %0\n\tfldenv %0" : "+m"(environment));
        ASSERT_EQ(environment[0], 0x37f) << hex(opcode) << " " << hex(modrm);
        ASSERT_EQ(environment[2] & (fsw::ES | fsw::SF | fsw::top_mask), 0) << hex(opcode) << " " << hex(modrm);
        ASSERT_EQ(environment[4], 0xffff) << hex(opcode) << " " << hex(modrm);
      }
    }
  }
}

}  // namespace
}  // namespace retrovisor::soft
