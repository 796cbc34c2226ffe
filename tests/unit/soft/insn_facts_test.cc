// What insn_facts.h says of instructions, held against what the emitters choose and what the handlers do.
#include "vmm/soft/insn_facts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <vector>

#include <fmt/format.h>

#include "tests/unit/soft/sse_machine.h"
#include "vmm/soft/memory_operand.h"

namespace retrovisor::soft {
namespace {

// Every opcode of every map behind `prefixes`, with ModRM bytes from `modrms`; what follows is zeros and `tail`.
template <class F>
void each_encoding(const std::vector<std::vector<uint8_t>>& prefixes, const std::vector<uint8_t>& modrms, F f) {
  static const std::vector<std::vector<uint8_t>> kMaps = {{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
  for (const auto& prefix : prefixes) {
    for (const auto& map : kMaps) {
      for (unsigned opcode = 0; opcode < 256; ++opcode) {
        for (const uint8_t modrm : modrms) {
          std::array<uint8_t, kMaxInsnLength> bytes{};
          size_t at = 0;
          for (const uint8_t b : prefix) bytes[at++] = b;
          for (const uint8_t b : map) bytes[at++] = b;
          bytes[at++] = static_cast<uint8_t>(opcode);
          bytes[at++] = modrm;
          bytes[at] = 3;  // of an immediate
          f(bytes, static_cast<uint8_t>(opcode));
        }
      }
    }
  }
}

std::string text(std::span<const uint8_t> bytes) {
  std::string out;
  for (const uint8_t b : bytes) out += fmt::format("{:02x} ", b);
  return out;
}

TEST(InsnFacts, flow_is_what_the_emitters_make_of_it) {
  std::vector<uint8_t> modrms(256);
  for (unsigned i = 0; i < 256; ++i) modrms[i] = static_cast<uint8_t>(i);
  unsigned known = 0, ends = 0;
  for (const uint8_t mode : {block_mode::code16, block_mode::code32, block_mode::code64}) {
    std::vector<std::vector<uint8_t>> prefixes = {{}, {0x66}, {0xf2}, {0xf3}, {0xf0}};
    if (mode == block_mode::code64) prefixes.push_back({0x48});
    each_encoding(prefixes, modrms, [&](const auto& bytes, uint8_t) {
      Insn insn;
      if (decode(bytes.data(), bytes.size(), mode, insn) != DecodeStatus::ok) return;
      for (const bool flat : {false, true}) {
        insn.flat = flat;
        Op op;
        prepare_op(insn, 0, op);
        FpuClass fpu{};
        const Emit kind = emit(insn, fpu, op);
        if (kind == Emit::unknown) continue;
        ++known;
        const Flow flow = flow_of(insn);
        ends += flow != Flow::next;
        ASSERT_EQ(kind == Emit::next, flow == Flow::next) << unsigned{mode} << ": " << text(bytes);
        if (kind == Emit::branch) {
          ASSERT_TRUE(flow == Flow::conditional || flow == Flow::jump || flow == Flow::call) << text(bytes);
        }
      }
    });
  }
  EXPECT_GT(known, 1'000'000u);
  EXPECT_GT(ends, 100'000u);
}

// A fixed sequence of numbers.
class Numbers {
 public:
  uint64_t next() {
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    return state_ >> 32 ^ state_ << 13;
  }

 private:
  uint64_t state_ = 1;
};

class Execution {
 public:
  explicit Execution(bool code64) {
    if (!code64) m_.use_32_bit_code();
    m_.s().segment[SS].attributes |= seg::DB;
    start_ = m_.s();
  }

  struct After {
    bool done = false;
    CpuState s;
    uint64_t flags = 0;
    std::array<uint8_t, 0x800> memory{};
  };

  bool prepare(std::span<const uint8_t> bytes, ProcessorModel how) { return m_.prepare_any(bytes, how) != Emit::unknown; }
  const Insn& insn() const { return m_.insn(); }
  const CpuState& before() const { return before_; }

  // What registers and memory are to begin with.
  void choose(Numbers& numbers) {
    before_ = start_;
    for (unsigned i = 0; i < 16; ++i) before_.gpr[i] = numbers.next();
    if (numbers.next() % 2 == 0) before_.gpr[RDX] = 0;  // so that divisions have results
    if (numbers.next() % 4 == 0) before_.gpr[RAX] &= 0xff;
    if (numbers.next() % 2 == 0) before_.gpr[RCX] &= 7;
    before_.gpr[RBX] = SseMachine::kData + 0x100;
    before_.gpr[RSI] = SseMachine::kData + 0x200;
    before_.gpr[RDI] = SseMachine::kData + 0x300;
    before_.gpr[RBP] = SseMachine::kData + 0x400;
    before_.gpr[RSP] = SseMachine::kData + 0x500;
    const bool equal = numbers.next() % 2 == 0;
    for (size_t i = 0; i < memory_.size(); ++i) memory_[i] = equal ? uint8_t{0} : static_cast<uint8_t>(numbers.next());
    for (auto& r : before_.x87.r) r = {numbers.next() | uint64_t{1} << 63, static_cast<uint16_t>(0x3ff0 + numbers.next() % 32)};
    before_.x87.tag = 0xff;
    before_.x87.fcw = 0x37f;
    before_.mxcsr = 0x1f80;
    for (Xmm& x : before_.xmm) x = {{numbers.next(), numbers.next()}};
  }

  After run(uint64_t flags) {
    m_.s() = before_;
    std::memcpy(m_.data(), memory_.data(), memory_.size());
    set_rflags(m_.cpu(), flags | flag::fixed);
    After out;
    out.done = m_.execute();
    out.flags = get_rflags(m_.cpu());
    out.s = m_.s();
    std::memcpy(out.memory.data(), m_.data(), out.memory.size());
    return out;
  }

 private:
  SseMachine m_;
  CpuState start_, before_;
  std::array<uint8_t, 0x800> memory_{};
};

// BT and its kin with memory and a register, whose bit number counts from the operand on.
bool reaches_beyond(const Insn& insn) { return insn.memory && insn.map == OpMap::map_0f && (insn.opcode & 0xe7) == 0xa3; }

bool same_but_flags(const Execution::After& a, const Execution::After& b) {
  return a.s.gpr == b.s.gpr && a.s.rip == b.s.rip && a.memory == b.memory && std::memcmp(&a.s.xmm, &b.s.xmm, sizeof a.s.xmm) == 0 &&
         std::memcmp(&a.s.x87.r, &b.s.x87.r, sizeof a.s.x87.r) == 0 && a.s.x87.fsw == b.s.x87.fsw && a.s.mxcsr == b.s.mxcsr;
}

constexpr std::array kFlags = {flag::CF, flag::PF, flag::AF, flag::ZF, flag::SF, flag::OF, flag::DF};
constexpr std::array kModels = {ProcessorModel::model, ProcessorModel::amd, ProcessorModel::intel, ProcessorModel::amd_zen3};
// As many as it takes for each flag to matter once to each instruction that reads it.
constexpr unsigned kTrials = 12;

// Runs each instruction that falls through twice with one flag different: what differs afterwards is what it reads, what is not as
// it was is what it writes.
void check_flags(bool code64) {
  Execution e(code64);
  Numbers numbers;
  std::vector<uint8_t> modrms;
  for (unsigned reg = 0; reg < 8; ++reg) {
    modrms.push_back(static_cast<uint8_t>(reg << 3 | 3));         // [rbx]
    modrms.push_back(static_cast<uint8_t>(0xc0 | reg << 3 | 2));  // dl, dx, edx
  }
  std::vector<std::vector<uint8_t>> prefixes = {{}, {0x66}, {0xf2}, {0xf3}};
  if (code64) prefixes.push_back({0x48});
  struct Seen {
    uint64_t read = 0, written = 0, says_read = 0, says_written = 0;
  };
  std::map<uint64_t, Seen> seen;  // by opcode map, opcode, ModRM.reg
  unsigned runs = 0;
  each_encoding(prefixes, modrms, [&](const auto& bytes, uint8_t) {
    for (unsigned trial = 0; trial < kTrials; ++trial) {
      if (!e.prepare(bytes, kModels[trial % kModels.size()])) return;
      const Insn insn = e.insn();
      if (flow_of(insn) != Flow::next || reaches_beyond(insn)) return;
      const FlagUse use = flag_use_of(insn);
      ASSERT_EQ(use.kept & ~use.written, 0) << text(bytes);
      Seen& s = seen[uint64_t(insn.map) << 32 | uint64_t{insn.opcode} << 16 | uint64_t(insn.has_modrm ? insn.reg_field() : 0) << 8 | insn.rep];
      e.choose(numbers);
      const uint64_t flags = numbers.next() & kBlockFlags;
      for (const uint64_t f : kFlags) {
        const auto a = e.run(flags & ~f), b = e.run(flags | f);
        ++runs;
        const std::string where = fmt::format("{} flag {:#x} flags {:#x} trial {}", text(bytes), f, flags, trial);
        ASSERT_TRUE(may_leave(insn) || (a.done && b.done)) << where;
        if (!a.done || !b.done) continue;
        const uint64_t out_a = a.flags & kBlockFlags, out_b = b.flags & kBlockFlags;
        const bool matters = !same_but_flags(a, b) || ((out_a ^ out_b) & ~f) != 0;
        const bool turns = (out_a & f) != 0 && (out_b & f) == 0;  // CMC
        if (matters || turns) s.read |= f;
        s.written |= (out_a ^ (flags & ~f)) | (out_b ^ (flags | f));
        s.says_read |= use.read;
        s.says_written |= use.written & ~unsigned{use.kept};
        if ((use.read & f) == 0) {
          ASSERT_FALSE(matters) << where;
          if ((use.written & ~unsigned{use.kept} & f) != 0) {
            ASSERT_EQ(out_a & f, out_b & f) << where;
          }
        }
        if ((use.written & f) == 0) {
          ASSERT_EQ(out_a & f, 0u) << where;
          ASSERT_EQ(out_b & f, f) << where;
        }
      }
    }
  });
  EXPECT_GT(runs, 100'000u);
  // Nothing is said that never happens.
  for (const auto& [key, s] : seen) {
    EXPECT_EQ(s.says_read & ~s.read, 0u) << fmt::format("{:#x}", key);
    EXPECT_EQ(s.says_written & ~s.written, 0u) << fmt::format("{:#x}", key);
  }
}
TEST(InsnFacts, flags_are_those_that_handlers_read_and_write_in_64_bit_code) { check_flags(true); }
TEST(InsnFacts, flags_are_those_that_handlers_read_and_write_in_32_bit_code) { check_flags(false); }

TEST(InsnFacts, memory_operands_are_the_bytes_that_handlers_touch) {
  SseMachine m;
  std::vector<uint8_t> modrms;
  for (unsigned reg = 0; reg < 8; ++reg) modrms.push_back(static_cast<uint8_t>(reg << 3 | 3));  // [rbx]
  const CpuState start = m.s();
  unsigned checked = 0;
  const auto run_at = [&](uint64_t at) {
    m.s() = start;
    m.s().x87.fcw = 0x37f;
    m.s().x87.tag = 0xff;
    m.s().mxcsr = 0x1f80;
    m.s().gpr[RBX] = at;
    m.s().gpr[RSP] = SseMachine::kData + 0x800;
    set_rflags(m.cpu(), flag::fixed);
    return m.execute();
  };
  const auto fill = [&](uint64_t at, uint8_t with) {
    for (unsigned i = 0; i < 16; ++i) m.put<uint8_t>(at + i, with);
  };
  each_encoding({{}, {0x66}, {0xf2}, {0xf3}, {0x48}}, modrms, [&](const auto& bytes, uint8_t opcode) {
    if (m.prepare_any(bytes, ProcessorModel::model) != Emit::next || !m.insn().memory || !m.insn().has_modrm || m.insn().opcode != opcode) return;
    const Insn insn = m.insn();
    // Bit numbers are zero here, but in the registers that point somewhere.
    if (reaches_beyond(insn) && (insn.reg == RBX || insn.reg == RSP)) return;
    const MemoryOperands operands = memory_operands_of(insn);
    const auto* named = std::find_if(operands.begin(), operands.end(), [](const MemoryOperand& o) { return !o.implicit; });
    const bool none = named == operands.end();
    const MemoryOperand o = none ? MemoryOperand{} : *named;
    ASSERT_TRUE(none || o.base == RBX) << text(bytes);
    if (none) {
      ASSERT_TRUE(run_at(SseMachine::kMissing)) << text(bytes);
      ++checked;
      return;
    }
    ASSERT_FALSE(run_at(SseMachine::kMissing)) << text(bytes);
    const bool divides = insn.map == OpMap::one_byte && (insn.opcode | 1) == 0xf7 && insn.reg_field() >= 6;
    if (o.size == 0 || divides) return;
    // All bytes but the last before a page that there is not: a page fault, or one for lack of alignment.
    ASSERT_FALSE(run_at(SseMachine::kMissing - o.size + 1)) << text(bytes) << o.size;
    // Memory of zeros is good for all but a few loads of FPU state.
    const uint64_t last = SseMachine::kMissing - o.size;
    for (unsigned i = 0; i < o.size; ++i) m.put<uint8_t>(last + i, 0);
    ASSERT_TRUE(run_at(last)) << text(bytes) << o.size << " vector " << unsigned{m.cpu().fault.vector};
    const bool writes = o.use != MemoryUse::read;
    ASSERT_EQ(run_at(SseMachine::kReadOnly), !writes) << text(bytes);
    if (o.use == MemoryUse::write && o.size <= 16) {  // nothing of the old contents is left
      fill(last, 0);
      ASSERT_TRUE(run_at(last));
      std::array<uint8_t, 16> one{}, other{};
      std::memcpy(one.data(), &m.data()[last - SseMachine::kData], o.size);
      for (unsigned i = 0; i < o.size; ++i) m.put<uint8_t>(last + i, 0xff);
      ASSERT_TRUE(run_at(last));
      std::memcpy(other.data(), &m.data()[last - SseMachine::kData], o.size);
      ASSERT_EQ(one, other) << text(bytes);
    }
    ++checked;
  });
  EXPECT_GT(checked, 1000u);
}

}  // namespace
}  // namespace retrovisor::soft
