// Every x87 instruction on pairs of special operands under every set of exception masks, against the host's x87 under the
// host's processor model; and what the models answer where they differ.
#include <gtest/gtest.h>

#include "tests/unit/soft/x87_bench.h"
#include "vmm/kvm/host_model.h"

namespace retrovisor::soft {
namespace {

struct Value {
  X87Register bits;
  bool always = false;  // one of each kind: these meet one another under all 64 sets of masks
};

std::vector<Value> values() {
  static constexpr Value kValues[] = {
      {{0, 0}, true},                   // zero
      {{1, 0}, true},                   // denormals
      {{0x4000000000000000, 0}},
      {{0x7fffffffffffffff, 0}},
      {{0x8000000000000000, 0}, true},  // pseudo-denormals
      {{0xffffffffffffffff, 0}},
      {{0x8000000000000000, 1}, true},  // smallest normal numbers
      {{0xffffffffffffffff, 2}},
      {{0xb333333333333333, 0x3ffe}},   // 0.7
      {{0x8000000000000000, 0x3ffe}},   // 0.5
      {{0x8000000000000000, 0x3fbe}},   // 2^-65
      {{0x8000000000000000, 0x3fff}, true},
      {{0x8000000000000001, 0x3fff}},
      {{0xc000000000000000, 0x3fff}},   // 1.5
      {{0x8000000000000000, 0x4000}},
      {{0xe000000000000000, 0x4000}},   // 3.5
      {{0x8000000000000000, 0x4005}},   // 64
      {{0x8000000000000000, 0x400d}},   // 16384
      {{0xc000000000000000, 0x400d}},   // 24576
      {{0x9c40000000000000, 0x400e}, true},  // 40000: scales everything to nothing or to infinity
      {{0x8000000000000000, 0x400f}},
      {{0x8000000000000000, 0x401e}},   // 2^31
      {{0xde0b6b3a763fffff, 0x403a}},   // just below 10^18
      {{0xde0b6b3a76400000, 0x403a}},
      {{0xffffffffffffffff, 0x403d}},   // just below 2^63
      {{0x8000000000000000, 0x403e}},
      {{0xffffffffffffffff, 0x403e}},
      {{0xffffffffffffffff, 0x7ffe}, true},  // largest
      {{0x8000000000000000, 0x7fff}, true},  // infinity
      {{0xc000000000000000, 0x7fff}, true},  // quiet NaNs
      {{0xc000000000000123, 0x7fff}},
      {{0xffffffffffffffff, 0x7fff}},
      {{0x8000000000000001, 0x7fff}, true},  // signaling NaNs
      {{0xbfffffffffffffff, 0x7fff}},
      {{0x4000000000000000, 0x3fff}, true},  // unnormals
      {{0, 0x3fff}},
      {{0x7fffffffffffffff, 0x7ffe}},
      {{0, 0x7fff}},                         // pseudo-infinity
      {{1, 0x7fff}},                         // pseudo-NaNs
      {{0x4000000000000000, 0x7fff}},
  };
  std::vector<Value> all;
  for (const Value& v : kValues) {
    all.push_back(v);
    all.push_back({{v.bits.mantissa, static_cast<uint16_t>(v.bits.sign_exponent | kX87Sign)}, v.always});
  }
  return all;
}

struct Instruction {
  const char* name;
  uint8_t opcode, modrm;
  bool binary = false;
  bool approximate = false;
};
constexpr Instruction kInstructions[] = {
    {"fadd", 0xd8, 0xc1, true},    {"fmul", 0xd8, 0xc9, true},    {"fcom", 0xd8, 0xd1, true},
    {"fcomp", 0xd8, 0xd9, true},   {"fsub", 0xd8, 0xe1, true},    {"fsubr", 0xd8, 0xe9, true},
    {"fdiv", 0xd8, 0xf1, true},    {"fdivr", 0xd8, 0xf9, true},   {"faddp", 0xde, 0xc1, true},
    {"fdivp", 0xde, 0xf9, true},   {"fcompp", 0xde, 0xd9, true},  {"fucom", 0xdd, 0xe1, true},
    {"fcomi", 0xdb, 0xf1, true},   {"fucomi", 0xdb, 0xe9, true},  {"fcomip", 0xdf, 0xf1, true},
    {"fld st1", 0xd9, 0xc1, true}, {"fxch", 0xd9, 0xc9, true},    {"fst st1", 0xdd, 0xd1, true},
    {"fstp st1", 0xdd, 0xd9, true}, {"fcmovne", 0xdb, 0xc9, true}, {"ffree", 0xdd, 0xc1},
    {"fchs", 0xd9, 0xe0},          {"fabs", 0xd9, 0xe1},          {"ftst", 0xd9, 0xe4},
    {"fxam", 0xd9, 0xe5},          {"fxtract", 0xd9, 0xf4},       {"fprem1", 0xd9, 0xf5, true},
    {"fdecstp", 0xd9, 0xf6},       {"fincstp", 0xd9, 0xf7},       {"fprem", 0xd9, 0xf8, true},
    {"fsqrt", 0xd9, 0xfa},         {"frndint", 0xd9, 0xfc},       {"fscale", 0xd9, 0xfd, true},
    {"fld m80", 0xdb, 0x2e},       {"fst m32", 0xd9, 0x16},       {"fst m64", 0xdd, 0x16},
    {"fstp m80", 0xdb, 0x3e},      {"fist m16", 0xdf, 0x16},      {"fist m32", 0xdb, 0x16},
    {"fistp m64", 0xdf, 0x3e},     {"fisttp m16", 0xdf, 0x0e},    {"fisttp m32", 0xdb, 0x0e},
    {"fisttp m64", 0xdd, 0x0e},    {"fbstp", 0xdf, 0x36},
    {"f2xm1", 0xd9, 0xf0, false, true},  {"fyl2x", 0xd9, 0xf1, true, true},   {"fptan", 0xd9, 0xf2, false, true},
    {"fpatan", 0xd9, 0xf3, true, true},  {"fyl2xp1", 0xd9, 0xf9, true, true}, {"fsincos", 0xd9, 0xfb, false, true},
    {"fsin", 0xd9, 0xfe, false, true},   {"fcos", 0xd9, 0xff, false, true},
};

class X87Specials : public testing::Test {
 protected:
  static constexpr uint16_t kExtended = 3 << fcw::pc_shift;

  X87State state(const X87Register& a, const X87Register& b, unsigned control, unsigned tag, uint16_t status) {
    X87State f;
    f.fcw = x87_control(static_cast<uint16_t>(control));
    f.fsw = status;
    f.tag = static_cast<uint8_t>(tag);
    f.r[0] = a;
    f.r[1] = b;
    for (unsigned i = 2; i < 8; ++i) f.r[i] = {0x8000000000000000 + i, 0x3ff1};
    return f;
  }

  // Runs both sides; false: they differ, and the failure is noted.
  bool compare(const Instruction& instruction, const X87State& initial) {
    uint8_t image[kOperandSize];
    std::memset(image, 0x5a, sizeof image);
    if (instruction.opcode == 0xdb && instruction.modrm == 0x2e) {  // the only one here that reads memory
      std::memcpy(image, &initial.r[0].mantissa, 8);
      std::memcpy(image + 8, &initial.r[0].sign_exponent, 2);
    }
    std::memcpy(bench_.operand(), image, sizeof image);
    const uint64_t rflags = flag::fixed | ((initial.fsw & fsw::C0) != 0 ? flag::arithmetic : 0);
    X87State host = initial;
    const HostX87::Outcome outcome = host_.run(host, image, 0, rflags);
    bench_.fpu() = initial;
    bench_.cpu().cc = cc_of_flags(rflags);
    if (!bench_.execute()) return fail(instruction, initial, host, "a fault");
    const X87State& f = bench_.fpu();

    // The last bit of a transcendental function is our own, and with it C1; a number that is tiny for one may not be for the
    // other. How far a partial remainder goes is not architectural.
    const bool settled = !instruction.approximate || (host.fsw & fsw::PE) == 0;
    const bool partial = (instruction.modrm == 0xf5 || instruction.modrm == 0xf8) && (host.fsw & fsw::C2) != 0;
    const unsigned difference = static_cast<unsigned>(host.fsw ^ f.fsw) & (settled ? 0xffff : 0xffff & ~fsw::C1);
    if (difference != 0) return fail(instruction, initial, host, "the status word");
    if (host.tag != f.tag) return fail(instruction, initial, host, "the tag");
    if (host.fcw != f.fcw) return fail(instruction, initial, host, "the control word");
    for (unsigned i = 0; i < 8; ++i) {
      if ((host.tag >> i & 1) == 0 || same(host.r[i], f.r[i]) || (partial && i == 0)) continue;
      if (settled || !near(host.r[i], f.r[i])) return fail(instruction, initial, host, "a register");
    }
    if (flags_of_cc(bench_.cpu().cc) != (outcome.rflags & flag::arithmetic)) return fail(instruction, initial, host, "RFLAGS");
    if (std::memcmp(image, bench_.operand(), sizeof image) != 0) return fail(instruction, initial, host, "memory");
    return true;
  }

  // At most two units in the last place apart, across a power of two, too.
  static bool near(const X87Register& a, const X87Register& b) {
    const auto ordered = [](const X87Register& v) {
      const unsigned exponent = v.sign_exponent & kX87MaxExponent;
      return static_cast<unsigned __int128>(exponent == 0 ? 1 : exponent) << 63 | (v.mantissa & ~kX87IntegerBit);
    };
    if (x87_negative(a) != x87_negative(b)) return false;
    const unsigned __int128 x = ordered(a), y = ordered(b);
    return (x > y ? x - y : y - x) <= 2;
  }

  bool fail(const Instruction& instruction, const X87State& initial, const X87State& host, const char* what) {
    ADD_FAILURE() << instruction.name << " differs in " << what << "\n before " << text(initial) << "\n host   " << text(host)
                  << "\n ours   " << text(bench_.fpu());
    return false;
  }

  // False: enough failures of this instruction.
  bool all_operands(const Instruction& instruction) {
    unsigned failures = 0;
    const auto all = values();
    const auto check = [&](const X87State& f) { return compare(instruction, f) || ++failures < 3; };
    static constexpr unsigned kFewMasks[] = {0x3f, 0, 0x3e, 0x3d, 0x3b, 0x37, 0x2f, 0x1f};
    for (const Value& a : all) {
      for (const Value& b : all) {
        if (!instruction.binary && &b != &all.front()) break;
        if (bench_.cpu().processor_model == ProcessorModel::intel && instruction.approximate && undefined(instruction, a.bits))
          continue;
        const auto with = [&](unsigned control, uint16_t status) { return check(state(a.bits, b.bits, control, 3, status)); };
        const bool every = !instruction.binary || (a.always && b.always);
        for (unsigned masks = 0; every && masks < 64; ++masks)
          if (!with(kExtended | masks, (masks & 1) != 0 ? fsw::condition : uint16_t{0})) return false;
        for (const unsigned masks : kFewMasks)
          if (!every && !with(kExtended | masks, 0)) return false;
        for (unsigned mode = 1; every && mode < 16; ++mode) {  // rounding and precision
          if ((mode >> 2) == 1) continue;                       // reserved
          const unsigned control = (mode & 3) << fcw::rc_shift | (mode >> 2) << fcw::pc_shift;
          if (!with(control | fcw::masks, fsw::condition) || !with(control, 0)) return false;
        }
      }
    }
    // Empty registers, and a full stack.
    for (const unsigned tag : {0x00u, 0x01u, 0x02u, 0xffu, 0x83u}) {
      for (const unsigned masks : {0x3fu, 0x3eu, 0x01u, 0u}) {
        for (const Value& a : all)
          if (a.always && !check(state(a.bits, kX87One, kExtended | masks, tag, fsw::condition))) return false;
      }
    }
    return true;
  }

  // Operands for which the manual defines no result; AMD's answers are measured.
  static bool undefined(const Instruction& instruction, const X87Register& x) {
    return instruction.modrm == 0xf9 && x87_negative(x) && (x.sign_exponent & kX87MaxExponent) >= 0x3ffd;
  }

  X87Bench bench_;
  HostX87 host_;
};

TEST_F(X87Specials, agree_with_the_host_under_every_mask) {
  const ProcessorModel model = vendor_of(kvm::host_processor_model());
  if (model == ProcessorModel::model) GTEST_SKIP() << "no model of this host's processor";
  bench_.cpu().processor_model = model;
  for (const Instruction& instruction : kInstructions) {
    ASSERT_NE(bench_.decode(instruction.opcode, instruction.modrm), Emit::unknown) << instruction.name;
    host_.assemble({instruction.opcode, instruction.modrm});
    all_operands(instruction);
  }
}

// ---- What the models answer where they differ, on any host ----

class X87Models : public testing::TestWithParam<ProcessorModel> {
 protected:
  X87Models() { bench_.cpu().processor_model = GetParam(); }
  bool amd() const { return GetParam() == ProcessorModel::amd; }
  X87State& fpu() { return bench_.fpu(); }
  // ST(1) = y, ST(0) = x.
  void operands(const X87Register& x, const X87Register& y, uint16_t control) {
    fpu() = X87State{};
    fpu().fcw = control;
    x87_push(fpu(), y);
    x87_push(fpu(), x);
  }
  X87Bench bench_;
};

// SDM 2 FSCALE, table "FSCALE Results": a scale of zero gives F. Measured on Intel: status 3002h; on AMD: B092h, and the
// result of an unmasked underflow.
TEST_P(X87Models, scaling_a_denormal_by_zero_underflows_on_amd_only) {
  for (const bool minus : {false, true}) {
    operands({1, 0}, x87_zero(minus), 0x36f);
    ASSERT_TRUE(bench_.run(0xd9, 0xfd));
    EXPECT_EQ(fpu().fsw, amd() ? 0xb092 : 0x3002);
    EXPECT_TRUE(same(x87_st(fpu(), 0), amd() ? X87Register{kX87IntegerBit, 0x5fc2} : X87Register{1, 0}));
    operands({1, 0}, x87_zero(minus), 0x37f);
    ASSERT_TRUE(bench_.run(0xd9, 0xfd));
    EXPECT_EQ(fpu().fsw, 0x3002);
    EXPECT_TRUE(same(x87_st(fpu(), 0), {1, 0}));
  }
  // A scale that is cut to zero is not zero (measured, both vendors).
  operands({1, 0}, {0xb333333333333333, 0x3ffe}, 0x36f);
  ASSERT_TRUE(bench_.run(0xd9, 0xfd));
  EXPECT_EQ(fpu().fsw, 0xb092);
}

// SDM 2 FCOMI: C1 is set to 0. APM 5 FCOMI, and measured: it is not affected.
TEST_P(X87Models, compares_that_set_rflags_leave_c1_alone_on_amd_only) {
  for (const uint8_t opcode : {uint8_t{0xdb}, uint8_t{0xdf}}) {
    for (const uint8_t modrm : {uint8_t{0xe9}, uint8_t{0xf1}}) {
      operands(kX87One, kX87One, 0x37f);
      fpu().fsw |= fsw::C1;
      ASSERT_TRUE(bench_.run(opcode, modrm));
      EXPECT_EQ((fpu().fsw & fsw::C1) != 0, amd());
    }
  }
}

// The manuals define FYL2XP1 above -(1 - sqrt(1/2)) only.
TEST_P(X87Models, logarithms_of_negative_numbers_plus_one) {
  const X87Register below{0xc000000000000000, 0xbfff};
  operands(below, kX87One, 0x37f);
  ASSERT_TRUE(bench_.run(0xd9, 0xf9));
  EXPECT_EQ(fpu().fsw, amd() ? 0x3820 : 0x3801);
  EXPECT_TRUE(same(x87_st(fpu(), 0), amd() ? below : kX87Indefinite));
  operands(below, x87_infinity(false), 0x37f);
  ASSERT_TRUE(bench_.run(0xd9, 0xf9));
  EXPECT_EQ(fpu().fsw, amd() ? 0x3800 : 0x3801);
  EXPECT_TRUE(same(x87_st(fpu(), 0), amd() ? x87_infinity(true) : kX87Indefinite));
}

INSTANTIATE_TEST_SUITE_P(Every, X87Models, testing::Values(ProcessorModel::model, ProcessorModel::amd, ProcessorModel::intel));

}  // namespace
}  // namespace retrovisor::soft
