// What DecodedInsn::memory() says, held against every access that the engine makes: generated instructions in 64-, 32- and 16-bit
// code, each run once under an observer of all memory but tables.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tests/unit/soft/system_machine.h"
#include "vmm/soft/decoded_block.h"
#include "vmm/soft/soft_cpu.h"
#include "vmm/stepper.h"

namespace retrovisor::soft {
namespace {

using Kind = Observation::Kind;

struct Seen {
  Kind kind;
  uint64_t address;
  uint64_t size;
};

class MemoryOperandsOf : public SystemMachine {
 protected:
  static constexpr uint64_t kLowData = 0x28000, kLowEnd = 0x98000, kData = 0x100000, kEnd = 0x600000;
  // Selectors of code and of stacks, wherever one is read.
  static constexpr std::array<uint16_t, 2> kFills = {kCode0, kData0};

  void SetUp() override {
    watched_ = observers.subscribe({.breakpoints = {},
                                    .watches = {{LinearAddr(kLowData), kLowEnd - kLowData, true, true},
                                                {LinearAddr(kData), kEnd - kData, true, true}},
                                    .physical = {},
                                    .events = 0,
                                    .hit = [this](const Observation& o) {
                                      seen_.push_back({o.kind, o.address.value, o.size});
                                      return false;
                                    }});
    engine->stepper().observe(observers);
  }

  void fill(uint64_t begin, uint64_t end) {
    for (uint64_t at = begin & ~uint64_t{1}; at < end; at += 2) put<uint16_t>(at, fill_);
  }

  uint64_t next() {
    random_ = random_ * 6364136223846793005 + 1442695040888963407;
    return random_ >> 33;
  }

  // Registers that point to data, apart from each other.
  void choose(unsigned bits) {
    s() = start_;
    for (unsigned i = 0; i < 16; ++i) {
      const uint64_t value = bits == 16 ? 0x1000 + (next() % 0x40) * 0x40 : 0x180000 + (next() % 0x400) * 0x40;
      s().gpr[i] = value;
    }
    s().gpr[RSP] = bits == 16 ? 0x4000 : 0x2c0000;
    s().gpr[RBP] = bits == 16 ? 0x5000 : 0x300000;
    changed();
  }

  uint64_t linear(const MemoryOperand& o, const CpuState& before, const Insn& insn) const {
    const unsigned size = o.address_size != 0 ? o.address_size : (before.segment[SS].attributes & seg::DB) != 0 ? 4 : 2;
    uint64_t at = static_cast<uint64_t>(o.displacement);
    if (o.base == kRipBase) at += before.rip + insn.length;
    else if (o.base != kNoRegister) at += before.gpr[o.base];
    if (o.index != kNoRegister) at += o.implicit ? before.gpr[o.index] & 0xff : before.gpr[o.index] << o.scale;
    if (o.bit_register != kNoRegister) {
      const unsigned unused = 64 - 8 * o.size;
      const auto bit = static_cast<int64_t>(before.gpr[o.bit_register] << unused) >> unused;
      at += static_cast<uint64_t>((bit >> (o.size == 2 ? 4 : o.size == 4 ? 5 : 6)) * o.size);
    }
    if (size != 8) at &= (uint64_t{1} << (8 * size)) - 1;
    if (!before.mode64()) return (at + before.segment[o.segment].base) & 0xffffffff;
    return o.segment == FS || o.segment == GS ? at + before.segment[o.segment].base : at;
  }

  // An exception that may come of it, not of what it accesses.
  bool run_one() {
    seen_.clear();
    logged.events.clear();
    run();
    return logged.events.empty() || std::none_of(logged.events.begin(), logged.events.end(),
                                                 [](const JournalEvent& e) { return e.kind == EventKind::exception; });
  }

  static bool transfers_by_gate(const Insn& insn) {
    return insn.map == OpMap::one_byte && (insn.opcode == 0xcc || insn.opcode == 0xcd || insn.opcode == 0xce || insn.opcode == 0xf1);
  }
  // Accesses as much of its operand as its data say: a mask, XSAVE's components, a register that POPA passes over.
  static bool in_part(const Insn& insn, const MemoryOperand& o) {
    if (o.size == 0) return true;
    if (insn.map == OpMap::one_byte) return insn.opcode == 0xdd || insn.opcode == 0xd9;  // FRSTOR and the like: reserved bytes
    if (insn.map != OpMap::map_0f) return false;
    return insn.opcode == 0xf7 || insn.opcode == 0xae;
  }

  void check(std::span<const uint8_t> bytes, uint8_t mode, unsigned bits) {
    DecodedBlock block;
    decode_block({bytes, kPageSize}, {.mode = mode}, 1, nullptr, block);
    if (block.empty() || block.last().status != DecodeStatus::ok) return;
    const Insn& insn = block.last().insn;
    if (insn.map == OpMap::one_byte && insn.opcode == 0xf4) return;  // HLT
    choose(bits);
    const uint64_t text = (s().mode64() ? 0 : s().segment[CS].base) + s().rip;
    (void)memory->write(PhysAddr(text), bytes.first(insn.length));
    if (insn.map == OpMap::one_byte && insn.opcode == 0xcf) {  // IRET: to code, with a stack
      uint64_t at = s().gpr[RSP] + (s().mode64() ? 0 : s().segment[SS].base);
      for (const uint64_t value : {uint64_t{0x800}, uint64_t{kCode0}, uint64_t{2}, uint64_t{0x2000}, uint64_t{kData0}}) {
        for (unsigned i = 0; i < insn.operand_size; ++i) put<uint8_t>(at + i, static_cast<uint8_t>(value >> (8 * i)));
        at += insn.operand_size;
      }
    }
    const CpuState before = s();
    const bool done = run_one();
    const std::string where = fmt::format("{}-bit code: {:02x}", bits, fmt::join(bytes.first(insn.length), " "));
    for (const Seen& a : seen_)
      if (a.kind == Kind::write) fill(a.address, a.address + a.size);
    if (insn.map == OpMap::one_byte && insn.opcode == 0xcf) {
      const uint64_t stack = before.gpr[RSP] + (before.mode64() ? 0 : before.segment[SS].base);
      fill(stack, stack + 40);
    }
    if (!done) return;
    ++ran_;
    done_.insert(static_cast<unsigned>(insn.map) << 8 | insn.opcode);
    const MemoryOperands operands = block.last().memory();
    struct Place {
      const MemoryOperand* operand;
      uint64_t at, size;
      size_t first = SIZE_MAX;
      std::set<uint64_t> touched;
    };
    std::vector<Place> places;
    for (const MemoryOperand& o : operands) places.push_back({&o, linear(o, before, insn), o.size == 0 ? uint64_t{4096} : o.size, SIZE_MAX, {}});
    for (size_t i = 0; i < seen_.size(); ++i) {
      const Seen& a = seen_[i];
      for (uint64_t b = a.address; b < a.address + a.size; ++b) {
        bool listed = false;
        for (Place& p : places) {
          const bool kind = p.operand->use == MemoryUse::read_write || (p.operand->use == MemoryUse::write) == (a.kind == Kind::write);
          // XSAVE reads the header that it changes.
          const bool header = p.operand->size == 0;
          if (b - p.at >= p.size || (!kind && !header)) continue;
          listed = true;
          p.first = std::min(p.first, i);
          p.touched.insert(b);
        }
        if (!listed && transfers_by_gate(insn)) continue;
        if (!listed) {
          const char* how = a.kind == Kind::write ? "write" : "read";
          return fails(insn, fmt::format("an unlisted {}", how), fmt::format("{} at {:#x}, {} bytes", where, a.address, a.size));
        }
      }
    }
    size_t last = 0;
    for (const Place& p : places) {
      const auto covered = [&](uint64_t b) {
        return (b >= kLowData && b < kLowEnd) || (b >= kData && b < kEnd);
      };
      if (!covered(p.at) || !covered(p.at + p.size - 1)) continue;  // nobody looks there
      ++accesses_;
      if (in_part(insn, *p.operand)) continue;
      if (p.touched.count(p.at) == 0 || p.touched.count(p.at + p.size - 1) == 0)
        return fails(insn, "listed, and not accessed", fmt::format("{} at {:#x}, {} bytes", where, p.at, p.size));
      if (p.first < last) return fails(insn, "another order", where);
      last = p.first;
    }
  }

  // Each kind of instruction once.
  void fails(const Insn& insn, std::string_view what, const std::string& where) {
    failures_.emplace(fmt::format("map {} opcode {:02x} /{} operand size {}: {}", static_cast<unsigned>(insn.map), insn.opcode,
                                  insn.has_modrm ? insn.reg_field() : 0, insn.operand_size, what),
                      where);
  }

  void check_all(uint8_t mode, unsigned bits) {
    start_ = s();
    start_.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
    start_.x87.fcw = 0x37f;
    start_.x87.tag = 0xff;
    start_.mxcsr = 0x1f80;
    std::vector<std::vector<uint8_t>> prefixes = {{}, {0x66}, {0x67}, {0xf2}, {0xf3}, {0x64}, {0x66, 0x67}};
    if (bits == 64) prefixes.insert(prefixes.end(), {{0x48}, {0x67, 0x4c}, {0x2e}, {0x65, 0x48}});
    else prefixes.push_back({0x26});
    // [bx], [bp + 40h], [bp + si], [10h]; else also with SIB bytes: [rsp + 40h], [rbx + rsi * 4 + 40h]
    std::vector<std::vector<uint8_t>> operands = {{0xc1}, {0xc2}, {0x07}, {0x46, 0x40}, {0x02}};
    if (bits != 16) operands = {{0xc1}, {0xc2}, {0x03}, {0x45, 0x40}, {0x44, 0x24, 0x40}, {0x44, 0xb3, 0x40}, {0x05, 0x00, 0x20, 0x20, 0x00}};
    for (const uint16_t selector : kFills) {
      fill_ = selector;
      fill(kLowData, kLowEnd);
      fill(kData, kEnd);
      for (const auto& prefix : selector == kCode0 ? prefixes : std::vector<std::vector<uint8_t>>{{}})
        for (const auto& map : std::vector<std::vector<uint8_t>>{{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}})
          for (unsigned opcode = 0; opcode < 256; ++opcode)
            for (unsigned reg = 0; reg < 8; ++reg)
              for (const auto& operand : operands) {
                std::vector<uint8_t> bytes = prefix;
                bytes.insert(bytes.end(), map.begin(), map.end());
                bytes.push_back(static_cast<uint8_t>(opcode));
                bytes.push_back(static_cast<uint8_t>(operand[0] | reg << 3));
                bytes.insert(bytes.end(), operand.begin() + 1, operand.end());
                // Of immediates, offsets, selectors, ENTER's level: the selector, in each half.
                while (bytes.size() < 16) bytes.insert(bytes.end(), {static_cast<uint8_t>(selector), 0});
                bytes.resize(16);
                check(bytes, mode, bits);
              }
    }
    for (const auto& [what, where] : failures_) ADD_FAILURE() << what << ", as in " << where;
    // Among those that were done, and raised nothing: far transfers, ENTER, POP to memory, BTS, CMPXCHG8B, MASKMOVQ, XSAVE.
    for (const unsigned opcode : {0xcau, 0xcbu, 0xcfu, 0xffu, 0xc8u, 0x8fu, 0x1abu, 0x1c7u, 0x1f7u, 0x1aeu})
      EXPECT_EQ(done_.count(opcode), 1u) << std::hex << opcode;
    EXPECT_EQ(done_.count(0x9a), bits == 64 ? 0u : 1u);
    EXPECT_GT(ran_, 30'000u);
    EXPECT_GT(accesses_, 20'000u);
  }

  CpuState start_;
  Subscription watched_;
  std::vector<Seen> seen_;
  uint16_t fill_ = 0;
  uint64_t random_ = 1;
  unsigned ran_ = 0, accesses_ = 0;
  std::set<unsigned> done_;  // map and opcode
  std::map<std::string, std::string> failures_;
};

TEST_F(MemoryOperandsOf, instructions_in_64_bit_code_are_what_the_engine_accesses) {
  enter_long(0);
  s().segment[FS].base = 0x40000;
  s().segment[GS].base = 0x80000;
  check_all(block_mode_of(s()), 64);
}

TEST_F(MemoryOperandsOf, instructions_in_32_bit_code_are_what_the_engine_accesses) {
  enter_protected(0);
  for (unsigned r = 0; r < 6; ++r)
    if (r != CS) s().segment[r].base = 0x10000 * r;
  check_all(block_mode_of(s()), 32);
}

TEST_F(MemoryOperandsOf, instructions_in_16_bit_code_are_what_the_engine_accesses) {
  enter_real();
  for (unsigned r = 0; r < 6; ++r)
    if (r != CS) s().segment[r].base = 0x30000 + 0x10000 * r;
  check_all(block_mode_of(s()), 16);
}

}  // namespace
}  // namespace retrovisor::soft
