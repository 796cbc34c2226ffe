// What MMX and x87 stores that fault leave behind, by processor model. The answers were measured: AMD's on Zen 3, Intel's on
// family 6, model 0xcf; that all of them are the host's is for tests/conformance to say.
#include "sse_machine.h"
#include "vmm/soft/x87.h"

namespace retrovisor::soft {
namespace {

constexpr uint64_t kBad = SseMachine::kMissing;        // the page before it can be written
constexpr uint64_t kAfterBad = SseMachine::kReadOnly + kPageSize;  // behind the page that can only be read
constexpr uint16_t kTop = 5 << 11;

class X87Faults : public ::testing::TestWithParam<ProcessorModel> {
 protected:
  X87Faults() {
    m.cpu().processor_model = GetParam();
    s().x87 = X87State{};
    f().fsw = kTop;
    f().tag = 0x07;
    for (X87Register& r : f().r) r = {kOne, 0x3fff};
    std::fill_n(host(kBad - 16), 16, kUntouched);
    s().cr0 |= cr0::WP;
  }
  bool amd() const { return GetParam() == ProcessorModel::amd; }
  bool intel() const { return GetParam() == ProcessorModel::intel; }
  CpuState& s() { return m.s(); }
  X87State& f() { return s().x87; }
  uint8_t* host(uint64_t address) { return m.data() + (address - SseMachine::kData); }
  // Runs an instruction with its operand at `address`; its page fault is at `at`.
  void expect_page_fault(std::initializer_list<uint8_t> bytes, uint64_t address, uint64_t at) {
    s().gpr[RBX] = s().gpr[RDI] = address;
    m.expect_fault(bytes, vec::PF);
    EXPECT_EQ(m.cpu().fault.address, at);
  }
  // Bytes in front of the bad page that are no longer as they were.
  unsigned written() {
    unsigned count = 0;
    for (unsigned i = 0; i < 16; ++i) count += host(kBad - 16)[i] != kUntouched ? 1 : 0;
    return count;
  }
  static constexpr uint64_t kOne = 0x8123456789abcdef;
  static constexpr uint8_t kUntouched = 0xee;
  SseMachine m;
};

TEST_P(X87Faults, an_mmx_store_has_cleared_top_on_intel_when_it_faults) {
  for (const auto& bytes : {std::initializer_list<uint8_t>{0x0f, 0x7f, 0x0b}, {0x0f, 0x7e, 0x0b}, {0x0f, 0xe7, 0x0b}}) {
    f().fsw = kTop;
    expect_page_fault(bytes, kBad, kBad);
    EXPECT_EQ(f().fsw, intel() ? 0 : kTop);
    EXPECT_EQ(f().tag, 0x07);
    EXPECT_EQ(f().r[1].sign_exponent, 0x3fff);
  }
  // #GP of an address that is not canonical.
  f().fsw = kTop;
  s().gpr[RBX] = uint64_t{1} << 63;
  m.expect_fault({0x0f, 0x7f, 0x0b}, vec::GP);
  EXPECT_EQ(f().fsw, intel() ? 0 : kTop);
  // Loads change nothing.
  f().fsw = kTop;
  expect_page_fault({0x0f, 0x6f, 0x0b}, kBad, kBad);
  EXPECT_EQ(f().fsw, kTop);
}

TEST_P(X87Faults, a_masked_store_has_gone_over_to_mmx_when_it_faults) {
  f().r[2] = {UINT64_MAX, 0x3fff};
  expect_page_fault({0x0f, 0xf7, 0xca}, kBad, kBad);
  EXPECT_EQ(f().fsw, 0);
  EXPECT_EQ(f().tag, 0xff);
  EXPECT_EQ(f().r[1].sign_exponent, 0x3fff);
}

TEST_P(X87Faults, a_pending_exception_precedes_the_page_fault) {
  for (const auto& bytes : {std::initializer_list<uint8_t>{0x0f, 0x7f, 0x0b}, {0x0f, 0x6f, 0x0b}, {0x0f, 0xf7, 0xca}}) {
    f().fcw = 0x37e;
    f().fsw = kTop | fsw::IE | fsw::ES | fsw::B;
    s().gpr[RBX] = s().gpr[RDI] = kBad;
    m.expect_fault(bytes, vec::MF);
    EXPECT_EQ(f().fsw, kTop | fsw::IE | fsw::ES | fsw::B);
    EXPECT_EQ(f().tag, 0x07);
  }
}

TEST_P(X87Faults, conversions_from_memory_do_not_wait) {
  f().fcw = 0x37e;
  f().fsw = kTop | fsw::IE | fsw::ES | fsw::B;
  s().gpr[RBX] = SseMachine::kData;
  EXPECT_TRUE(m.run({0x0f, 0x2a, 0x03}));        // CVTPI2PS
  EXPECT_TRUE(m.run({0x66, 0x0f, 0x2a, 0x03}));  // CVTPI2PD
  m.expect_fault({0x0f, 0x2a, 0xc1}, vec::MF);   // with a register
}

TEST_P(X87Faults, conversions_to_mmx_have_gone_over_on_amd_when_they_raise_xm) {
  s().mxcsr = 0;
  s().xmm[0] = {{0x3fc666663fc66666, 0}};  // 1.55 twice
  m.expect_fault({0x0f, 0x2d, 0xc8}, vec::XM);
  EXPECT_EQ(f().fsw, amd() ? 0 : kTop);
  EXPECT_EQ(f().tag, amd() ? 0xff : 0x07);
}

struct Unmasked {
  const char* name;
  X87Register value;
  uint16_t control;
  std::initializer_list<uint8_t> bytes;
  uint16_t flags;  // that the exception leaves
};

// Both answers: Intel's does not look at the operand, others report the page fault and change nothing.
TEST_P(X87Faults, an_unmasked_exception_suppresses_a_store_before_its_page_fault_on_intel) {
  const Unmasked cases[] = {
      {"signaling NaN", {0x8000000000000001, 0x7fff}, 0x37e, {0xd9, 0x13}, fsw::IE},
      {"too large", {0x8000000000000001, 0x7ffe}, 0x377, {0xd9, 0x13}, fsw::OE},
      {"too small", {0x8000000000000001, 0x0001}, 0x36f, {0xdd, 0x13}, fsw::UE},
      {"no integer", {0x8000000000000001, 0x7ffe}, 0x37e, {0xdb, 0x1b}, fsw::IE},
      {"no decimal", {0x8000000000000001, 0x7ffe}, 0x37e, {0xdf, 0x33}, fsw::IE},
  };
  for (const Unmasked& c : cases) {
    f().fsw = kTop;
    f().tag = 0xff;
    f().fcw = c.control;
    f().r[5] = c.value;
    s().gpr[RBX] = kBad;
    if (intel()) {
      EXPECT_TRUE(m.run(c.bytes)) << c.name;
      EXPECT_EQ(f().fsw & ~fsw::C1, kTop | c.flags | fsw::ES | fsw::B) << c.name;
    } else {
      m.expect_fault(c.bytes, vec::PF);
      EXPECT_EQ(f().fsw, kTop) << c.name;
      EXPECT_EQ(f().fip, 0u) << c.name;
    }
  }
  // An empty register.
  f().tag = 0;
  f().fsw = kTop;
  f().fcw = 0x37e;
  if (intel()) {
    EXPECT_TRUE(m.run({0xdb, 0x3b}));
    EXPECT_EQ(f().fsw, kTop | fsw::IE | fsw::SF | fsw::ES | fsw::B);
  } else {
    m.expect_fault({0xdb, 0x3b}, vec::PF);
  }
}

TEST_P(X87Faults, a_masked_or_inexact_store_faults_first) {
  for (const uint16_t control : {uint16_t{0x37f}, uint16_t{0x35f}}) {
    f().tag = 0xff;
    f().fcw = control;
    expect_page_fault({0xd9, 0x1b}, kBad, kBad);  // FSTP m32 of what has more bits
    EXPECT_EQ(f().fsw, kTop);
    EXPECT_EQ(f().fip, 0u);
  }
}

TEST_P(X87Faults, ten_bytes_are_written_in_two_parts_on_intel) {
  f().tag = 0xff;
  expect_page_fault({0xdb, 0x3b}, kBad - 9, kBad);  // FSTP m80
  EXPECT_EQ(written(), intel() ? 8u : 0u);
  expect_page_fault({0xdb, 0x3b}, kBad - 8, kBad);
  std::fill_n(host(kBad - 16), 16, kUntouched);
  expect_page_fault({0xdb, 0x3b}, kBad - 5, kBad);  // in the first part: nothing
  EXPECT_EQ(written(), 0u);
  f().r[5] = {0xde0b6b3a763fffff, 0x403a};
  expect_page_fault({0xdf, 0x33}, kBad - 9, kBad);  // FBSTP
  EXPECT_EQ(written(), intel() ? 8u : 0u);
  EXPECT_EQ(f().fsw, kTop);
}

// FNSTENV, FNSAVE, FLDENV, FRSTOR: the first doubleword, then the last byte; FXSAVE and FXRSTOR: the last byte, then the first.
TEST_P(X87Faults, images_are_looked_at_from_both_ends_first) {
  struct Image {
    std::initializer_list<uint8_t> bytes;
    unsigned size, word;
  };
  const Image images[] = {{{0xd9, 0x33}, 28, 4},        {{0xd9, 0x23}, 28, 4},        {{0xdd, 0x33}, 108, 4},
                          {{0xdd, 0x23}, 108, 4},       {{0x66, 0xd9, 0x33}, 14, 2},  {{0x66, 0xd9, 0x23}, 14, 2},
                          {{0x66, 0xdd, 0x33}, 94, 2},  {{0x66, 0xdd, 0x23}, 94, 2}};
  for (const Image& image : images) {
    for (unsigned before = 1; before < image.size; ++before) {
      const uint64_t at = kBad - before;
      expect_page_fault(image.bytes, at, before < image.word ? kBad : at + image.size - 1);
    }
    expect_page_fault(image.bytes, kBad + 8, kBad + 8);
    EXPECT_EQ(written(), 0u);
  }
  for (const auto& bytes : {std::initializer_list<uint8_t>{0x0f, 0xae, 0x03}, {0x0f, 0xae, 0x0b}}) {
    for (unsigned before = 16; before < 512; before += 16) expect_page_fault(bytes, kBad - before, kBad - before + 511);
    expect_page_fault(bytes, kBad, kBad + 511);
  }
  for (unsigned before = 16; before < 512; before += 16)  // the last page can be written, the first not
    expect_page_fault({0x0f, 0xae, 0x03}, kAfterBad - before, kAfterBad - before);
  EXPECT_EQ(written(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Every, X87Faults, testing::Values(ProcessorModel::model, ProcessorModel::amd, ProcessorModel::intel));

}  // namespace
}  // namespace retrovisor::soft
