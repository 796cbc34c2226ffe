// Runs every MMX and SSE instruction on the host's own registers and on a vCPU, and compares all that it left behind.
#include <sys/mman.h>

#include <random>
#include <string>

#include "sse_machine.h"

namespace retrovisor::soft {
namespace {

// What goes in and comes out. The instructions under test use registers 1 (ModRM.reg) and 2 (ModRM.rm), or memory at RBX.
struct alignas(16) Registers {
  Xmm xmm[3];
  uint64_t mm[2];   // MM1, MM2
  uint64_t gpr[3];  // RAX, RCX, RDX
  uint64_t flags;
  uint64_t mxcsr;
  uint8_t* memory;
};
static_assert(offsetof(Registers, memory) == 104);

class HostCode {
 public:
  HostCode() {
    void* p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) code_ = static_cast<uint8_t*>(p);
  }
  ~HostCode() {
    if (code_ != nullptr) munmap(code_, 4096);
  }
  HostCode(const HostCode&) = delete;
  HostCode& operator=(const HostCode&) = delete;
  bool usable() const { return code_ != nullptr; }

  void set(std::span<const uint8_t> bytes) {
    std::memcpy(code_, bytes.data(), bytes.size());
    code_[bytes.size()] = 0xc3;  // RET
  }
  void run(Registers& r) const {
    static constexpr uint32_t host_mxcsr = 0x1f80;  // not on the stack, which moves
    asm volatile(
        "sub $256, %%rsp\n\t"  // past the red zone
        "movdqa 0(%[r]), %%xmm0\n\tmovdqa 16(%[r]), %%xmm1\n\tmovdqa 32(%[r]), %%xmm2\n\t"
        "movq 48(%[r]), %%mm1\n\tmovq 56(%[r]), %%mm2\n\t"
        "mov 64(%[r]), %%rax\n\tmov 72(%[r]), %%rcx\n\tmov 80(%[r]), %%rdx\n\tmov 104(%[r]), %%rbx\n\t"
        "ldmxcsr 96(%[r])\n\tpushq $2\n\tpopfq\n\t"
        "call *%[code]\n\t"
        "pushfq\n\tpopq 88(%[r])\n\tstmxcsr 96(%[r])\n\tldmxcsr %[host]\n\t"
        "movdqa %%xmm0, 0(%[r])\n\tmovdqa %%xmm1, 16(%[r])\n\tmovdqa %%xmm2, 32(%[r])\n\t"
        "movq %%mm1, 48(%[r])\n\tmovq %%mm2, 56(%[r])\n\temms\n\t"
        "mov %%rax, 64(%[r])\n\tmov %%rcx, 72(%[r])\n\tmov %%rdx, 80(%[r])\n\t"
        "add $256, %%rsp"
        :
        : [r] "r"(&r), [code] "r"(code_), [host] "m"(host_mxcsr)
        : "rax", "rcx", "rdx", "rbx", "xmm0", "xmm1", "xmm2", "mm1", "mm2", "cc", "memory");
  }

 private:
  uint8_t* code_ = nullptr;
};

// Operands: random bits, and the numbers at which floating point and saturation turn.
class Operands {
 public:
  uint64_t bits() { return random_(); }
  Xmm vector(bool nans) {
    Xmm x;
    switch (random_() % 5) {
      case 0: x = {{bits(), bits()}}; break;
      case 1:
      case 2: x = {{single() | single() << 32, single() | single() << 32}}; break;
      case 3: x = {{real(), real()}}; break;
      default: x = {{small(), small()}}; break;
    }
    if (!nans) {
      // Exponents of all ones cannot be, in either format.
      for (uint64_t& q : x.q) q &= ~(uint64_t{1} << 30 | uint64_t{1} << 62);
    }
    return x;
  }
  uint64_t mmx() { return vector(true).q[random_() & 1]; }
  uint32_t mxcsr() {
    // All masked; any rounding, often with DAZ or FZ, sometimes with flags set already.
    const uint64_t r = random_();
    return 0x1f80 | static_cast<uint32_t>((r & 3) << 13 | ((r >> 2 & 7) == 0 ? 0x40 : 0) | ((r >> 5 & 7) == 0 ? 0x8000 : 0) |
                                          ((r >> 8 & 3) == 0 ? r >> 10 & 0x3f : 0));
  }

 private:
  uint64_t single() {
    static constexpr uint32_t kValues[] = {
        0,          0x80000000, 1,          0x80000001, 0x007fffff, 0x00800000, 0x3f800000, 0xbf800000, 0x3fc00000,
        0x40200000, 0x3f000000, 0x4b000000, 0x4f000000, 0xcf000000, 0x5f000000, 0x7f7fffff, 0x7f800000, 0xff800000,
        0x7fc00001, 0xffc12345, 0x7f800001, 0xffa00000, 0x33800000, 0x0c000000, 0x4efffffe};
    const uint64_t r = random_();
    return (r & 3) == 0 ? r >> 32 : kValues[(r >> 8) % std::size(kValues)];
  }
  uint64_t real() {
    static constexpr uint64_t kValues[] = {0,
                                           0x8000000000000000,
                                           1,
                                           0x000fffffffffffff,
                                           0x0010000000000000,
                                           0x3ff0000000000000,
                                           0xbff8000000000000,
                                           0x4004000000000000,
                                           0x41dfffffffc00000,
                                           0x41e0000000000000,
                                           0xc1e0000000200000,
                                           0x43e0000000000000,
                                           0xc3e0000000000000,
                                           0x7fefffffffffffff,
                                           0x7ff0000000000000,
                                           0xfff0000000000000,
                                           0x7ff8000000000001,
                                           0x7ff0000000000001,
                                           0xfff4000000000000,
                                           0x36a0000000000000,
                                           0x3810000000000000,
                                           0x380fffffffffffff,
                                           0x47efffffefffffff,
                                           0x3fe0000000000000};
    const uint64_t r = random_();
    return (r & 3) == 0 ? random_() : kValues[(r >> 8) % std::size(kValues)];
  }
  uint64_t small() {
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; ++i) {
      static constexpr uint8_t kBytes[] = {0, 1, 2, 0x7f, 0x80, 0xff, 'a', 'b', 0xfe, 0};
      v = v << 8 | kBytes[random_() % std::size(kBytes)];
    }
    return v;
  }

  std::mt19937_64 random_{20240607};
};

std::string hex(std::span<const uint8_t> bytes) {
  std::string out;
  for (const uint8_t b : bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    out += {kDigits[b >> 4], kDigits[b & 15], ' '};
  }
  return out;
}

class SseHost : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!host_.usable()) GTEST_SKIP() << "no executable memory on this host";
  }

  // One instruction with many operands. Returns whether there is such an instruction.
  bool check(std::vector<uint8_t> bytes, bool nans, unsigned trials) {
    bytes.push_back(0);  // an immediate, if one is wanted
    if (machine_.prepare(bytes) != Emit::next) return false;
    bytes.resize(machine_.insn().length);
    const bool immediate = machine_.insn().length != bytes_without_immediate_;
    // CVTPI2PS with a memory operand leaves the x87 registers alone (measured).
    const Insn& insn = machine_.insn();
    const bool mmx = machine_.fpu() == FpuClass::mmx && !(insn.map == OpMap::map_0f && insn.opcode == 0x2a && insn.memory);
    for (unsigned trial = 0; trial < trials && !HasFailure(); ++trial) {
      if (immediate) bytes.back() = static_cast<uint8_t>(operands_.bits());
      if (machine_.prepare(bytes) != Emit::next) {
        ADD_FAILURE() << hex(bytes) << "is known with one immediate only";
        return true;
      }
      Registers in{};
      for (Xmm& x : in.xmm) x = operands_.vector(nans);
      for (uint64_t& m : in.mm) m = operands_.mmx();
      for (uint64_t& g : in.gpr)
        g = trial % 2 == 0 ? operands_.bits() : static_cast<uint64_t>(static_cast<int64_t>(operands_.bits() % 41) - 20);
      in.mxcsr = operands_.mxcsr();
      alignas(16) std::array<uint8_t, 32> memory{};
      const Xmm source = operands_.vector(nans);
      std::memcpy(memory.data(), &source, 16);
      in.memory = memory.data();

      if (!run_guest(in, memory)) {
        ADD_FAILURE() << hex(bytes) << "faulted";
        return true;
      }
      Registers out = in;
      out.memory = memory.data();
      host_.set(bytes);
      host_.run(out);
      compare(in, out, memory, mmx, bytes);
    }
    return true;
  }

  void set_length_without_immediate(size_t n) { bytes_without_immediate_ = n; }

 private:
  [[nodiscard]] bool run_guest(const Registers& in, const std::array<uint8_t, 32>& memory) {
    CpuState& s = machine_.s();
    for (unsigned i = 0; i < 3; ++i) s.xmm[i] = in.xmm[i];
    s.x87 = X87State{};
    s.x87.fsw = 5 << 11;
    s.x87.r[1].mantissa = in.mm[0];
    s.x87.r[2].mantissa = in.mm[1];
    s.gpr[RAX] = in.gpr[0];
    s.gpr[RCX] = in.gpr[1];
    s.gpr[RDX] = in.gpr[2];
    s.mxcsr = static_cast<uint32_t>(in.mxcsr);
    machine_.cpu().cc = cc_of_flags(0);
    std::memcpy(machine_.data(), memory.data(), memory.size());
    return machine_.execute();
  }
  void compare(const Registers& in, const Registers& out, const std::array<uint8_t, 32>& memory, bool mmx,
               std::span<const uint8_t> bytes) {
    const CpuState& s = machine_.s();
    const std::string name = hex(bytes);
    const auto vector = [](const Xmm& x) { return std::array<uint64_t, 2>{x.q[0], x.q[1]}; };
    for (unsigned i = 0; i < 3; ++i) {
      EXPECT_EQ(vector(s.xmm[i]), vector(out.xmm[i]))
          << name << "xmm" << i << std::hex << " of " << in.xmm[1].q[0] << ' ' << in.xmm[1].q[1] << ", " << in.xmm[2].q[0]
          << ' ' << in.xmm[2].q[1] << " mxcsr " << in.mxcsr;
    }
    EXPECT_EQ(s.x87.r[1].mantissa, out.mm[0]) << name << "mm1";
    EXPECT_EQ(s.x87.r[2].mantissa, out.mm[1]) << name << "mm2";
    EXPECT_EQ(s.gpr[RAX], out.gpr[0]) << name << "rax";
    EXPECT_EQ(s.gpr[RCX], out.gpr[1]) << name << "rcx";
    EXPECT_EQ(s.gpr[RDX], out.gpr[2]) << name << "rdx";
    EXPECT_EQ(flags_of_cc(machine_.cpu().cc), out.flags & flag::arithmetic) << name << "flags";
    EXPECT_EQ(s.mxcsr, out.mxcsr) << name << "mxcsr from " << std::hex << in.mxcsr;
    EXPECT_EQ(std::memcmp(machine_.data(), memory.data(), memory.size()), 0) << name << "memory";
    if (mmx) {
      EXPECT_EQ(s.x87.tag, 0xff) << name;
      EXPECT_EQ(s.x87.fsw & 0x3800, 0) << name;
    } else {
      EXPECT_EQ(s.x87.tag, 0) << name;
      EXPECT_EQ(s.x87.fsw, 5 << 11) << name;
    }
  }

  HostCode host_;
  SseMachine machine_;
  Operands operands_;
  size_t bytes_without_immediate_ = 0;
};

// All prefixes, REX.W, register and memory operands of one opcode.
class SseHostOpcode : public SseHost {
 protected:
  unsigned check_opcode(std::vector<uint8_t> opcode, bool nans, unsigned trials) {
    unsigned forms = 0;
    for (const int prefix : {0, 0x66, 0xf3, 0xf2}) {
      for (const bool rex_w : {false, true}) {
        for (unsigned modrm : {0xcau, 0x0bu}) {  // registers 1 and 2; register 1 and [RBX]
          const bool group = opcode.size() == 1 && opcode[0] >= 0x71 && opcode[0] <= 0x73;
          for (unsigned extension = 0; extension < (group ? 8u : 1u); ++extension) {
            if (group) modrm = (modrm & 0xc7) | extension << 3;
            std::vector<uint8_t> bytes;
            if (prefix != 0) bytes.push_back(static_cast<uint8_t>(prefix));
            if (rex_w) bytes.push_back(0x48);
            bytes.push_back(0x0f);
            bytes.insert(bytes.end(), opcode.begin(), opcode.end());
            bytes.push_back(static_cast<uint8_t>(modrm));
            set_length_without_immediate(bytes.size());
            if (check(bytes, nans, trials)) ++forms;
            if (HasFailure()) return forms;
          }
        }
      }
    }
    return forms;
  }
};

bool combines_two_nans(uint8_t opcode) { return opcode == 0x7c || opcode == 0x7d; }

TEST_F(SseHostOpcode, map_0f_does_what_the_host_does) {
  unsigned forms = 0;
  for (unsigned opcode = 0; opcode < 256; ++opcode) {
    // The other maps; approximations (not comparable); EMMS, state instructions and masked stores (of other tests).
    if (opcode == 0x38 || opcode == 0x3a) continue;
    if (opcode == 0x52 || opcode == 0x53 || opcode == 0x77 || opcode == 0xae || opcode == 0xf7) continue;
    forms += check_opcode({static_cast<uint8_t>(opcode)}, !combines_two_nans(static_cast<uint8_t>(opcode)), 150);
    if (HasFailure()) return;
  }
  EXPECT_GT(forms, 700u);
}

TEST_F(SseHostOpcode, map_0f38_does_what_the_host_does) {
  unsigned forms = 0;
  for (unsigned opcode = 0; opcode < 256; ++opcode) {
    forms += check_opcode({0x38, static_cast<uint8_t>(opcode)}, true, 150);
    if (HasFailure()) return;
  }
  EXPECT_GT(forms, 200u);
}

TEST_F(SseHostOpcode, map_0f3a_does_what_the_host_does) {
  unsigned forms = 0;
  for (unsigned opcode = 0; opcode < 256; ++opcode) {
    const bool dot_product = opcode == 0x40 || opcode == 0x41;
    const bool string = opcode >= 0x60 && opcode <= 0x63;
    forms += check_opcode({0x3a, static_cast<uint8_t>(opcode)}, !dot_product, string ? 4000 : 600);
    if (HasFailure()) return;
  }
  EXPECT_GT(forms, 70u);
}

}  // namespace
}  // namespace retrovisor::soft
