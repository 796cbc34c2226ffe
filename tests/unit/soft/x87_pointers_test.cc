// FIP, FDP, FOP and the selectors by processor model: as measured, on any host; and every encoding against the host.
#include <gtest/gtest.h>

#include <array>

#include "tests/unit/soft/x87_bench.h"
#include "vmm/kvm/host_model.h"
#include "vmm/soft/sse_state.h"

namespace retrovisor::soft {
namespace {

struct Pointers {
  uint64_t fip, fdp;
  uint16_t fop, fcs, fds;
  bool operator==(const Pointers&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Pointers& p) {
  return out << std::hex << "fip " << p.fip << " fdp " << p.fdp << " fop " << p.fop << " fcs " << p.fcs << " fds " << p.fds;
}

constexpr uint64_t kHere = 0x401006;  // of the bench's instruction
constexpr uint16_t kCode = 0x33, kData = 0x2b;
constexpr uint8_t kFldM64 = 6, kFdivM32 = 0x36, kFdivSt0 = 0xf0;  // ModRM
constexpr Pointers kOld{0x1111, 0x2222, 0x333, 0, 0};

class X87Pointers : public testing::TestWithParam<ProcessorModel> {
 protected:
  X87Pointers() {
    cpu().processor_model = GetParam();
    cpu().s.segment[CS].selector = kCode;
    cpu().s.segment[DS].selector = kData;
    set(kOld);
    std::memset(bench_.operand(), 0, kOperandSize);
  }
  bool amd() const { return GetParam() == ProcessorModel::amd; }
  bool intel() const { return GetParam() == ProcessorModel::intel; }
  SoftCpu& cpu() { return bench_.cpu(); }
  X87State& fpu() { return bench_.fpu(); }
  void set(const Pointers& p) {
    fpu().fip = p.fip;
    fpu().fdp = p.fdp;
    fpu().fop = p.fop;
    fpu().fcs = p.fcs;
    fpu().fds = p.fds;
  }
  Pointers now() { return {fpu().fip, fpu().fdp, fpu().fop, fpu().fcs, fpu().fds}; }
  // Those that FXSAVE or FXSAVE64 shows.
  Pointers saved(bool wide) {
    FpuArea area;
    area.put_x87(GetParam(), fpu(), wide);
    if (wide) return {area.at<uint64_t>(8), area.at<uint64_t>(16), area.at<uint16_t>(6), 0, 0};
    return {area.at<uint32_t>(8), area.at<uint32_t>(16), area.at<uint16_t>(6), area.at<uint16_t>(12), area.at<uint16_t>(20)};
  }
  X87Bench bench_;
};

TEST_P(X87Pointers, without_an_unmasked_exception_intel_moves_fip_alone) {
  ASSERT_TRUE(bench_.run(0xdd, kFldM64));
  const uint16_t code = amd() ? kCode : uint16_t{0}, data = amd() ? kData : uint16_t{0};
  EXPECT_EQ(now(), intel() ? (Pointers{kHere, 0x2222, 0x333, 0, 0}) : (Pointers{kHere, kOperandAddress, 0x506, code, data}));
  set(kOld);
  ASSERT_TRUE(bench_.run(0xd9, 0xe8));  // fld1: no operand
  EXPECT_EQ(now(), intel() ? (Pointers{kHere, 0x2222, 0x333, 0, 0}) : (Pointers{kHere, 0x2222, 0x1e8, code, 0}));
  // Masked exceptions move nothing either.
  set(kOld);
  ASSERT_TRUE(bench_.run(0xd8, kFdivM32));
  EXPECT_EQ(fpu().fsw & fsw::exceptions, fsw::ZE);
  EXPECT_EQ(now(), intel() ? (Pointers{kHere, 0x2222, 0x333, 0, 0}) : (Pointers{kHere, kOperandAddress, 0x036, code, data}));
}

TEST_P(X87Pointers, an_unmasked_exception_moves_all) {
  const uint16_t code = amd() ? kCode : uint16_t{0}, data = amd() ? kData : uint16_t{0};
  x87_push(fpu(), kX87One);
  fpu().fcw = 0x340;
  ASSERT_TRUE(bench_.run(0xd8, kFdivM32));
  EXPECT_EQ(now(), (Pointers{kHere, kOperandAddress, 0x036, code, data}));
  fpu().fsw = fsw::C0;
  fpu().tag = 0;
  set(kOld);
  ASSERT_TRUE(bench_.run(0xd8, kFdivSt0));  // an empty register; FDP is of another instruction
  EXPECT_EQ(fpu().fsw & (fsw::ES | fsw::SF), fsw::ES | fsw::SF);
  EXPECT_EQ(now(), (Pointers{kHere, 0x2222, 0x0f0, code, 0}));
}

TEST_P(X87Pointers, fxsave_shows_them_on_amd_only_while_an_exception_waits) {
  set({0x123456789abc, 0xfedcba987654, 0x555, kCode, kData});
  const Pointers none{};
  EXPECT_EQ(saved(true), amd() ? none : (Pointers{0x123456789abc, 0xfedcba987654, 0x555, 0, 0}));
  EXPECT_EQ(saved(false), amd() ? none : (Pointers{0x56789abc, 0xba987654, 0x555, kCode, kData}));
  fpu().fsw |= fsw::IE | fsw::ES | fsw::B;
  EXPECT_EQ(saved(true), (Pointers{0x123456789abc, 0xfedcba987654, 0x555, 0, 0}));
  EXPECT_EQ(saved(false), (Pointers{0x56789abc, 0xba987654, 0x555, kCode, kData}));
}

TEST_P(X87Pointers, images_load_them) {
  FpuArea area;
  area.put(0, uint16_t{0x37e});
  area.put(6, uint16_t{0x5123});
  area.put(8, uint64_t{0x1122334455667788});
  area.put(16, uint64_t{0x99aabbccddeeff00});
  area.get_x87(GetParam(), fpu(), true);
  EXPECT_EQ(now(), amd() ? (Pointers{0x334455667788, 0xffffbbccddeeff00, 0x123, 0, 0})
                         : (Pointers{0x1122334455667788, 0x99aabbccddeeff00, 0x123, 0, 0}))
      << "the opcode has eleven bits";
  area.get_x87(GetParam(), fpu(), false);
  EXPECT_EQ(now(), intel() ? (Pointers{0x55667788, 0xddeeff00, 0x123, 0, 0}) : (Pointers{0x55667788, 0xddeeff00, 0x123, 0x3344, 0xbbcc}));
  // FLDENV
  const uint32_t environment[7] = {0xffff037f, 0xffff0000, 0xffffffff, 0x11223344, 0x07770033, 0x55667788, 0xffff002b};
  std::memcpy(bench_.operand(), environment, sizeof environment);
  ASSERT_TRUE(bench_.run(0xd9, 0x26));
  EXPECT_EQ(now(), (Pointers{0x11223344, 0x55667788, 0x777, intel() ? uint16_t{0} : kCode, intel() ? uint16_t{0} : kData}));
}

TEST_P(X87Pointers, an_exit_from_kvm_loses_them_on_amd_unless_an_exception_waits) {
  const Pointers all{0x1234, 0x5678, 0x555, kCode, kData};
  set(all);
  x87_pointers_through_memory(GetParam(), fpu());
  EXPECT_EQ(now(), amd() ? Pointers{} : all);
  set(all);
  fpu().fsw |= fsw::IE | fsw::ES | fsw::B;
  x87_pointers_through_memory(GetParam(), fpu());
  EXPECT_EQ(now(), amd() ? (Pointers{0x1234, 0x5678, 0x555, 0, 0}) : all);
}

INSTANTIATE_TEST_SUITE_P(Every, X87Pointers, testing::Values(ProcessorModel::model, ProcessorModel::amd, ProcessorModel::intel));

// ---- Against the host ----

// What one instruction does to the pointers: loads an image, runs it, and tells what FNSTENV and FXSAVE64 show.
class HostPointers {
 public:
  struct Shown {
    Pointers environment, image;
    bool operator==(const Shown&) const = default;
  };
  HostPointers() : code_(mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  ~HostPointers() { munmap(code_, kPageSize); }
  HostPointers(const HostPointers&) = delete;
  HostPointers& operator=(const HostPointers&) = delete;

  Shown run(uint8_t opcode, uint8_t modrm, const X87State& f, void* operand) {
    // fxrstor64 [rdi]; the instruction; fxsave64 [rdx]; fnstenv [rcx]; fnclex; fninit; ret
    const std::array<uint8_t, 18> code = {0x48, 0x0f, 0xae, 0x0f, opcode, modrm, 0x48, 0x0f, 0xae,
                                          0x02, 0xd9, 0x31, 0xdb, 0xe2,   0xdb,  0xe3, 0xc3, 0x90};
    mprotect(code_, kPageSize, PROT_READ | PROT_WRITE);
    std::memcpy(code_, code.data(), code.size());
    mprotect(code_, kPageSize, PROT_READ | PROT_EXEC);
    FpuArea in, out;
    asm volatile("fxsave64 %0" : "+m"(in));  // MXCSR and the XMM registers stay
    in.put_x87(ProcessorModel::model, f, true);
    alignas(16) uint32_t environment[7] = {};
    reinterpret_cast<void (*)(void*, void*, void*, void*)>(code_)(&in, operand, &out, environment);
    const uint64_t here = reinterpret_cast<uint64_t>(code_) + 4, there = reinterpret_cast<uint64_t>(operand);
    // Addresses of this process stand for those of the bench.
    const auto ip = [&](uint64_t v, uint64_t mask) { return v == (here & mask) ? kHere : v; };
    const auto dp = [&](uint64_t v, uint64_t mask) { return v == (there & mask) ? kOperandAddress : v; };
    return {{ip(environment[3], 0xffffffff), dp(environment[5], 0xffffffff), static_cast<uint16_t>(environment[4] >> 16 & 0x7ff),
             static_cast<uint16_t>(environment[4]), static_cast<uint16_t>(environment[6])},
            {ip(out.at<uint64_t>(8), ~uint64_t{0}), dp(out.at<uint64_t>(16), ~uint64_t{0}), out.at<uint16_t>(6), 0, 0}};
  }

 private:
  void* code_;
};

TEST(X87PointersOnTheHost, every_encoding_moves_them_as_the_model_says) {
  const ProcessorModel model = vendor_of(kvm::host_processor_model());
  if (model == ProcessorModel::model) GTEST_SKIP() << "no model of this host's processor";
  HostPointers host;
  X87Bench bench;
  SoftCpu& cpu = bench.cpu();
  cpu.processor_model = model;
  asm("mov %%cs, %0" : "=r"(cpu.s.segment[CS].selector));
  asm("mov %%ds, %0" : "=r"(cpu.s.segment[DS].selector));
  X87Values values(0x9017);
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    for (unsigned modrm = 0; modrm <= 0xff; ++modrm) {
      if (modrm < 0xc0 && (modrm & 0xc7) != 6) continue;  // [rsi]
      if (bench.decode(static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm)) == Emit::unknown) continue;
      for (unsigned round = 0; round < 24; ++round) {
        X87State f = values.state();
        if (round % 2 == 0) f.fcw = static_cast<uint16_t>(f.fcw & ~fcw::masks);
        if (round % 3 == 0) f.tag = 0;  // stack faults
        f.fsw = static_cast<uint16_t>(f.fsw & ~fsw::exceptions);
        f.fip = 0x11112222;
        f.fdp = 0x33334444;
        f.fop = 0x2aa;
        uint8_t operand[kOperandSize];
        for (uint8_t& b : operand) b = static_cast<uint8_t>(values.bits());
        HostPointers::Shown theirs{}, ours{};
        // A thread switch between the instruction and FNSTENV can lose them on some hosts: then again.
        for (unsigned tries = 0; tries == 0 || (tries < 4 && theirs != ours); ++tries) {
          std::memcpy(bench.operand(), operand, kOperandSize);
          uint8_t theirs_operand[kOperandSize];
          std::memcpy(theirs_operand, operand, kOperandSize);
          theirs = host.run(static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm), f, theirs_operand);
          bench.fpu() = f;
          ASSERT_TRUE(bench.execute());
          const X87State& g = bench.fpu();
          FpuArea area;
          area.put_x87(model, g, true);
          ours = {{static_cast<uint32_t>(g.fip), static_cast<uint32_t>(g.fdp), g.fop, g.fcs, g.fds},
                  {area.at<uint64_t>(8), area.at<uint64_t>(16), area.at<uint16_t>(6), 0, 0}};
        }
        ASSERT_EQ(theirs.environment, ours.environment) << std::hex << opcode << " " << modrm << " from " << text(f);
        ASSERT_EQ(theirs.image, ours.image) << std::hex << opcode << " " << modrm << " from " << text(f);
      }
    }
  }
}

}  // namespace
}  // namespace retrovisor::soft
