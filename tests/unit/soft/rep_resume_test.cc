// What shows of a repeated string instruction between two of its iterations, under each processor model: RF, and the flags of CMPS
// and SCAS.
#include "tests/unit/soft/system_machine.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {
namespace {

constexpr uint64_t kArithmetic = flag::arithmetic;
constexpr uint64_t kBefore = flag::CF | flag::SF | flag::OF;  // no comparison below leaves these
constexpr uint64_t kEqual = flag::ZF | flag::PF;
constexpr uint64_t kSource = 0x30000, kTarget = 0x31000;
constexpr ProcessorModel kModels[] = {ProcessorModel::model, ProcessorModel::amd, ProcessorModel::intel};

class RepResume : public SystemMachine, public ::testing::WithParamInterface<ProcessorModel> {
 protected:
  RepResume() { set_processor_model(GetParam()); }
  bool amd() const { return GetParam() == ProcessorModel::amd; }
  bool intel() const { return GetParam() == ProcessorModel::intel; }
  uint64_t rf() { return s().rflags & flag::RF; }
  uint64_t flags() { return s().rflags & kArithmetic; }
  void prepare(std::initializer_list<uint8_t> text, uint64_t count) {
    enter_long(0);
    code(text);
    s().gpr[RSI] = kSource;
    s().gpr[RDI] = kTarget;
    s().gpr[RCX] = count;
    s().gpr[RDX] = 0x100;
    s().gpr[RAX] = 0;
    s().rflags |= kBefore;
    changed();
  }
};

TEST_P(RepResume, rf_is_set_until_the_last_iteration) {
  for (const uint8_t opcode : std::initializer_list<uint8_t>{0xa4, 0xa6, 0xaa, 0xac, 0xae}) {
    prepare({0xf3, opcode}, 3);
    run();
    EXPECT_NE(rf(), 0u) << unsigned{opcode};
    run();
    EXPECT_NE(rf(), 0u) << unsigned{opcode};
    EXPECT_EQ(s().rip, kCode);
    run();
    EXPECT_EQ(rf(), 0u) << unsigned{opcode};
    EXPECT_EQ(s().rip, kCode + 2);
  }
}

TEST_P(RepResume, rf_that_was_set_stays_until_the_last_iteration) {
  prepare({0xf3, 0xaa}, 100);
  s().rflags |= flag::RF;
  run();
  EXPECT_NE(rf(), 0u);
  run(97);
  EXPECT_EQ(s().gpr[RCX], 2u);
  EXPECT_NE(rf(), 0u);
  run(2);
  EXPECT_EQ(rf(), 0u);
  // Nor does it last into what follows.
  prepare({0x90, 0xf3, 0xaa}, 3);
  s().rflags |= flag::RF;
  run(2);
  EXPECT_EQ(s().gpr[RCX], 2u);
  EXPECT_NE(rf(), 0u);
}

TEST_P(RepResume, a_trap_in_the_middle_pushes_rf_but_on_amd) {
  for (const uint64_t before : {uint64_t{0}, flag::RF}) {
    prepare({0xf3, 0xaa}, 3);
    s().rflags |= flag::TF | before;
    run(2);  // an iteration, and the jump of the handler
    ASSERT_EQ(s().rip, handler(vec::DB));
    EXPECT_EQ((at<uint64_t>(s().gpr[RSP] + 16) & flag::RF) != 0, !amd() || before != 0);
  }
  // Behind the last iteration on none.
  prepare({0xf3, 0xaa}, 1);
  s().rflags |= flag::TF;
  run(2);
  ASSERT_EQ(s().rip, handler(vec::DB));
  EXPECT_EQ(at<uint64_t>(s().gpr[RSP] + 16) & flag::RF, 0u);
}

TEST_P(RepResume, string_io_sets_rf) {
  for (const uint8_t opcode : std::initializer_list<uint8_t>{0x6c, 0x6e}) {
    prepare({0xf3, opcode}, 2);
    run();
    EXPECT_NE(rf(), 0u);
    run();
    EXPECT_EQ(rf(), 0u);
    EXPECT_EQ(s().rip, kCode + 2);
  }
}

TEST_P(RepResume, comparisons_show_the_flags_of_the_iteration_or_of_before) {
  for (const uint8_t opcode : std::initializer_list<uint8_t>{0xa6, 0xae}) {
    prepare({0xf3, opcode}, 3);
    run();
    EXPECT_EQ(flags(), intel() ? kBefore : kEqual) << unsigned{opcode};
    run();
    EXPECT_EQ(flags(), intel() ? kBefore : kEqual) << unsigned{opcode};
    run();
    EXPECT_EQ(flags(), kEqual) << unsigned{opcode};
  }
}

TEST_P(RepResume, a_fault_in_the_middle_pushes_them) {
  prepare({0xf3, 0xa6}, 8);
  s().gpr[RDI] = kMissing - 3;
  run(4);  // three iterations, and the jump of the handler
  ASSERT_EQ(s().rip, handler(vec::PF));
  const auto pushed = at<uint64_t>(s().gpr[RSP] + 24);
  EXPECT_EQ(pushed & kArithmetic, intel() ? kBefore : kEqual);
  EXPECT_NE(pushed & flag::RF, 0u);
  EXPECT_EQ(s().gpr[RCX], 5u);
}

TEST_P(RepResume, an_interrupt_in_the_middle_pushes_them) {
  prepare({0xf3, 0xa6}, 8);
  s().rflags |= flag::IF;
  run(2);
  vcpu->intr = true;
  run();
  ASSERT_EQ(s().rip, handler(0x30));
  const auto pushed = at<uint64_t>(s().gpr[RSP] + 16);
  EXPECT_EQ(pushed & kArithmetic, intel() ? kBefore : kEqual);
  EXPECT_NE(pushed & flag::RF, 0u);
  EXPECT_EQ(rf(), 0u);
}

// In pieces or at once, the rest of an instruction that was resumed gives the same.
TEST_P(RepResume, the_rest_runs_alike_in_pieces) {
  CpuState whole;
  for (const uint64_t piece : {40u, 7u, 1u}) {
    prepare({0xf3, 0xa6, 0x90, 0x90}, 30);
    s().rflags |= flag::RF;
    for (uint64_t done = 0; done < 31;) {
      const uint64_t n = std::min<uint64_t>(piece, 31 - done);
      run(n);
      done += n;
    }
    if (piece == 40) whole = s();
    EXPECT_EQ(s().rip, kCode + 3);
    EXPECT_EQ(s().rflags, whole.rflags);
    EXPECT_EQ(s().gpr, whole.gpr);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RepResume, ::testing::ValuesIn(kModels), [](const auto& info) {
  return std::string(info.param == ProcessorModel::amd ? "amd" : info.param == ProcessorModel::intel ? "intel" : "model");
});

}  // namespace
}  // namespace retrovisor::soft
