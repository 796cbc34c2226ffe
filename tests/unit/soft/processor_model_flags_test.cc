// Flags that the manuals leave undefined, in both ways, on any host. The amd column was measured (Zen 5); tests/conformance
// compares it with the host's processor where that is one of AMD's.
#include "tests/unit/soft/system_machine.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {
namespace {

constexpr uint64_t C = flag::CF, P = flag::PF, A = flag::AF, Z = flag::ZF, S = flag::SF, O = flag::OF;
constexpr uint64_t kAll = C | P | A | Z | S | O;

struct Case {
  const char* name;
  std::initializer_list<uint8_t> code;
  uint64_t rax, rcx, rdx;
  uint64_t before;      // arithmetic flags
  uint64_t model, amd;  // and afterwards
};

class ProcessorModelFlagsTest : public SystemMachine {
 protected:
  static constexpr uint64_t kFxsave = 0x18000;
  void set(ProcessorModel how) { set_processor_model(how); }
  void start(const Case& c) {
    s().gpr[RAX] = c.rax;
    s().gpr[RCX] = c.rcx;
    s().gpr[RDX] = c.rdx;
    s().rflags = flag::fixed | c.before;
    code(c.code);
  }
  uint64_t flags() { return s().rflags & kAll; }
  void expect(const Case& c) {
    for (const ProcessorModel how : {ProcessorModel::model, ProcessorModel::amd}) {
      const bool amd = how == ProcessorModel::amd;
      if (c.code.size() != 1) enter_long(0);
      else enter_protected(0);  // the one-byte ones do not exist in 64-bit mode
      set(how);
      start(c);
      run();
      EXPECT_EQ(flags(), amd ? c.amd : c.model) << c.name << (amd ? " amd" : "");
    }
  }
};

TEST_F(ProcessorModelFlagsTest, shifts) {
  for (const Case& c : {
           Case{"shl eax, 1", {0xd1, 0xe0}, 1, 0, 0, 0, 0, A},
           Case{"shl al, 8", {0xc0, 0xe0, 8}, 1, 0, 0, 0, C | P | Z | O, C | P | A | Z | O},
           Case{"shl al, 9", {0xc0, 0xe0, 9}, 1, 0, 0, 0, P | Z, P | A | Z},
           Case{"shr eax, 1", {0xd1, 0xe8}, 0x80000000, 0, 0, 0, P | O, P | A | O},
           Case{"shr eax, 2", {0xc1, 0xe8, 2}, 0x80000000, 0, 0, 0, P | O, P | A},
           Case{"shr al, 8", {0xc0, 0xe8, 8}, 0x80, 0, 0, 0, C | P | Z | O, C | P | A | Z},
           Case{"sar eax, 3", {0xc1, 0xf8, 3}, 0x80000000, 0, 0, 0, P | S, P | A | S},
           Case{"shl eax, 0", {0xc1, 0xe0, 0}, 1, 0, 0, S | O, S | O, S | O},
           Case{"rol eax, 4", {0xc1, 0xc0, 4}, 0x10, 0, 0, S | A, S | A, S | A},
       })
    expect(c);
}

TEST_F(ProcessorModelFlagsTest, double_shifts) {
  for (const Case& c : {
           Case{"shld eax, edx, 2", {0x0f, 0xa4, 0xd0, 2}, 0x40000000, 0, 0, 0, C | P | Z, C | P | A | Z | O},
           Case{"shrd eax, edx, 2", {0x0f, 0xac, 0xd0, 2}, 0, 0, 1, 0, P, P | A | O},
           Case{"shld ax, dx, 16", {0x66, 0x0f, 0xa4, 0xd0, 16}, 1, 0, 0x8000, 0, C | P | S | O, C | P | A | S | O},
           Case{"shld ax, dx, 16", {0x66, 0x0f, 0xa4, 0xd0, 16}, 2, 0, 0x8000, 0, P | S | O, P | A | S},
       })
    expect(c);
}

// Here even the result depends on it.
TEST_F(ProcessorModelFlagsTest, double_shifts_of_16_bits_by_more) {
  const Case left{"shld ax, dx, 20", {0x66, 0x0f, 0xa4, 0xd0, 20}, 0x5678, 0, 0x1234, kAll, 0, 0};
  const Case right{"shrd ax, dx, 20", {0x66, 0x0f, 0xac, 0xd0, 20}, 0x5678, 0, 0x1234, kAll, 0, 0};
  const auto result = [&](const Case& c, ProcessorModel how) {
    enter_long(0);
    set(how);
    start(c);
    run();
    return s().gpr[RAX];
  };
  EXPECT_EQ(result(left, ProcessorModel::model), 0x2345U);
  EXPECT_EQ(result(left, ProcessorModel::amd), 0x2341U);
  EXPECT_EQ(flags(), A | P);
  EXPECT_EQ(result(right, ProcessorModel::model), 0x8123U);
  EXPECT_EQ(result(right, ProcessorModel::amd), 0x4123U);
  EXPECT_EQ(flags(), A | O);
}

TEST_F(ProcessorModelFlagsTest, multiplications_and_divisions) {
  for (const Case& c : {
           Case{"mul ecx", {0xf7, 0xe1}, 0x10, 0x08000000, 0, P | A | Z | S, P | S, P | A | Z | S},
           Case{"imul rcx", {0x48, 0xf7, 0xe9}, 1ULL << 63, 2, 0, Z | S, C | P | O, C | Z | S | O},
           Case{"imul eax, ecx", {0x0f, 0xaf, 0xc1}, 3, 5, 0, kAll, P, P | A | Z | S},
           Case{"imul eax, ecx, 0", {0x6b, 0xc1, 0}, 0, 5, 0, 0, P, 0},
           Case{"div ecx", {0xf7, 0xf1}, 9, 2, 0, kAll, kAll, C | A | O},
           Case{"idiv cl", {0xf6, 0xf9}, 9, 2, 0, P | Z, P | Z, A},
       })
    expect(c);
}

TEST_F(ProcessorModelFlagsTest, a_division_that_faults_changes_none) {
  for (const ProcessorModel how : {ProcessorModel::model, ProcessorModel::amd}) {
    enter_long(0);
    set(how);
    start({"div ecx", {0xf7, 0xf1}, 9, 0, 0, C | Z | O, 0, 0});
    run();
    EXPECT_EQ(flags(), C | Z | O);
  }
}

TEST_F(ProcessorModelFlagsTest, bit_scans) {
  for (const Case& c : {
           Case{"bsf eax, ecx", {0x0f, 0xbc, 0xc1}, 0, 0x80000001, 0, kAll, S, P},
           Case{"bsr eax, ecx", {0x0f, 0xbd, 0xc1}, 0, 0x12, 0, kAll, P, 0},
           Case{"bsf rax, rcx", {0x48, 0x0f, 0xbc, 0xc1}, 0, 0, 0, kAll, P | Z, P | Z},
       })
    expect(c);
}

// Within AMD's processors, too: Zen 3 (measured) changes ZF only. Intel's as Zen 5; samples_intel has more of them.
TEST_F(ProcessorModelFlagsTest, bit_scans_of_generations) {
  const auto result = [&](ProcessorModel how, uint64_t source, uint64_t before) {
    enter_long(0);
    set(how);
    start({"bsr eax, ecx", {0x0f, 0xbd, 0xc1}, 0x1234567800000000, source, 0, before, 0, 0});
    run();
    return flags();
  };
  for (const uint64_t before : {uint64_t{0}, kAll}) {
    EXPECT_EQ(result(ProcessorModel::amd_zen3, 0x12, before), before & ~Z);
    EXPECT_EQ(result(ProcessorModel::amd_zen3, 0, before), before | Z);
    EXPECT_EQ(s().gpr[RAX], 0x1234567800000000u);  // not touched, not even its upper half
    EXPECT_EQ(result(ProcessorModel::intel, 0x12, before), 0u);
    EXPECT_EQ(result(ProcessorModel::intel, 0x8, before), P);
    EXPECT_EQ(result(ProcessorModel::intel, 0, before), P | Z);
    EXPECT_EQ(s().gpr[RAX], 0x1234567800000000u);
  }
}

// A generation has all that is its vendor's.
TEST_F(ProcessorModelFlagsTest, generations_share_their_vendors_answers) {
  for (const ProcessorModel how : {ProcessorModel::amd, ProcessorModel::amd_zen3}) {
    enter_long(0);
    set(how);
    start({"shl eax, 1", {0xd1, 0xe0}, 1, 0, 0, 0, 0, A});
    run();
    EXPECT_EQ(flags(), A);
  }
}

// Intel's: a rotate of a register by an immediate keeps OF, other rotates set it as their first step would.
TEST_F(ProcessorModelFlagsTest, rotates_of_intels) {
  const auto result = [&](std::initializer_list<uint8_t> code, uint64_t rcx, uint64_t before) {
    enter_long(0);
    set(ProcessorModel::intel);
    start({"", code, 0x40000000, rcx, 0, before, 0, 0});
    run();
    return flags();
  };
  for (const uint64_t before : {uint64_t{0}, O}) {
    EXPECT_EQ(result({0xc1, 0xc0, 4}, 0, before), before);      // rol eax, 4
    EXPECT_EQ(result({0xc1, 0xc0, 1}, 0, before), O);           // rol eax, 1 in the same encoding
    EXPECT_EQ(result({0xd3, 0xc0}, 4, before), O);              // rol eax, cl
    EXPECT_EQ(result({0xc0, 0xd0, 9}, 0, before | C), before | C);  // rcl al, 9: round to where it was
  }
}

TEST_F(ProcessorModelFlagsTest, decimal_adjustments) {
  for (const Case& c : {
           Case{"daa", {0x27}, 0x7a, 0, 0, 0, A | S, A | S | O},
           Case{"das", {0x2f}, 0x9f, 0, 0, 0, C | P | A, C | P | A | O},
           Case{"aaa", {0x37}, 0x7f0a, 0, 0, 0, C | P | A | Z, C | A | S | O},
           Case{"aas", {0x3f}, 0x0105, 0, 0, A, C | P | A, C | P | A | S},
       })
    expect(c);
  // Two bytes each: 32-bit code all the same.
  for (const ProcessorModel how : {ProcessorModel::model, ProcessorModel::amd}) {
    enter_protected(0);
    set(how);
    start({"aad", {0xd5, 10}, 0x0c38, 0, 0, C, 0, 0});
    run();
    EXPECT_EQ(s().gpr[RAX], 0xb0U);
    EXPECT_EQ(flags(), how == ProcessorModel::amd ? S | A | O : S);
    enter_protected(0);
    start({"aam", {0xd4, 10}, 0x63, 0, 0, kAll, 0, 0});
    run();
    EXPECT_EQ(flags(), P);
  }
}

// AMD's processors have MXCSR.MM.
TEST_F(ProcessorModelFlagsTest, fxsave_shows_the_mask_of_mxcsr) {
  for (const ProcessorModel how : {ProcessorModel::model, ProcessorModel::intel, ProcessorModel::amd, ProcessorModel::amd_zen3}) {
    enter_long(0);
    set(how);
    start({"fxsave [rax]", {0x0f, 0xae, 0x00}, kFxsave, 0, 0, 0, 0, 0});
    run();
    EXPECT_EQ(at<uint32_t>(kFxsave + 28), vendor_of(how) == ProcessorModel::amd ? 0x2ffffu : 0xffffu);
  }
}

// Code that was decoded before does not go on in the old way.
TEST_F(ProcessorModelFlagsTest, apply_to_code_that_has_run) {
  enter_long(0);
  const Case shl{"shl eax, 1", {0xd1, 0xe0}, 1, 0, 0, 0, 0, A};
  start(shl);
  run();
  EXPECT_EQ(flags(), shl.model);
  set(ProcessorModel::amd);
  s().rip = kCode;
  run();
  EXPECT_EQ(flags(), shl.amd);
}

}  // namespace
}  // namespace retrovisor::soft
