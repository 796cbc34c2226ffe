// STI, MOV SS, HLT, NMI and IPIs on several processors whose turns end anywhere, compared with a plain model of the rules; and
// the loops that operating systems wait in, which must not lose a wake-up.
#include <gtest/gtest.h>
#include <algorithm>
#include <array>
#include <bitset>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/unit/machine/smp_bench.h"

namespace retrovisor {
namespace {

constexpr uint32_t kCounters = 8;
constexpr std::array<uint8_t, 3> kVectors = {0x31, 0x32, 0x51};  // two of one priority class, one above

class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  uint64_t below(uint64_t n) {
    const uint64_t key[] = {seed_, ++count_};
    return XXH3_64bits(key, sizeof key) % n;
  }

 private:
  uint64_t seed_, count_ = 0;
};

struct Step {
  enum Kind : uint8_t { nop, count, sti, cli, mov_ss, hlt, icr_high, icr_low, enable, eoi, iret, jump } kind = nop;
  uint32_t value = 0;  // count: which counter; icr: what is written; jump: number of the step to go on with
  uint32_t address = 0;
};

// --- programs ---------------------------------------------------------------------------------------------------------

struct Program {
  std::vector<Step> steps;
  std::vector<size_t> start;                            // of each processor
  std::array<size_t, kVectors.size()> handler{};
  size_t nmi_handler = 0;
};

uint32_t random_icr(Random& r) {
  const uint32_t vector = kVectors[r.below(kVectors.size())];
  switch (r.below(6)) {
    case 0: return 0x4400;             // NMI to the destination
    case 1: return 0x44000 | vector;   // to itself
    case 2: return 0xc4000 | vector;   // to all others
    default: return 0x4000 | vector;
  }
}

Step random_step(Random& r, uint32_t vcpus) {
  switch (r.below(16)) {
    case 0: case 1: case 2: return {Step::sti};
    case 3: return {Step::cli};
    case 4: case 5: return {Step::mov_ss};
    case 6: case 7: return {Step::hlt};
    case 8: case 9: return {Step::icr_high, static_cast<uint32_t>(r.below(vcpus)) << 24};
    case 10: case 11: case 12: return {Step::icr_low, random_icr(r)};
    case 13: return {Step::nop};
    default: return {Step::count, static_cast<uint32_t>(r.below(kCounters))};
  }
}

Program random_program(Random& r, uint32_t vcpus) {
  Program p;
  const auto body = [&](uint64_t most) {
    for (uint64_t n = 1 + r.below(most); n > 0; --n) p.steps.push_back(random_step(r, vcpus));
  };
  for (uint32_t i = 0; i < vcpus; ++i) {
    p.start.push_back(p.steps.size());
    p.steps.push_back({Step::enable});
    body(20);
    p.steps.push_back({Step::jump, static_cast<uint32_t>(p.start.back() + 1)});
  }
  for (size_t& handler : p.handler) {
    handler = p.steps.size();
    body(4);
    p.steps.push_back({Step::eoi});
    if (r.below(2) != 0) body(2);
    p.steps.push_back({Step::iret});
  }
  p.nmi_handler = p.steps.size();
  body(3);
  p.steps.push_back({Step::iret});
  return p;
}

void assemble(Program& p, SmpBench& bench) {
  // Jumps lead back alone, to addresses known by then.
  SmpCode code(0x10000);
  for (Step& s : p.steps) {
    s.address = code.here();
    switch (s.kind) {
      case Step::nop: code.nop(); break;
      case Step::count: code.inc_own(s.value * 4); break;
      case Step::sti: code.sti(); break;
      case Step::cli: code.cli(); break;
      case Step::mov_ss: code.mov_ss(); break;
      case Step::hlt: code.hlt(); break;
      case Step::icr_high: code.store(SmpBench::kIcrHigh, s.value); break;
      case Step::icr_low: code.store(SmpBench::kIcrLow, s.value); break;
      case Step::enable: code.store(SmpBench::kSvr, 0x1ff); break;
      case Step::eoi: code.store(SmpBench::kEoi, 0); break;
      case Step::iret: code.iret(); break;
      case Step::jump: code.jump(p.steps[s.value].address); break;
    }
  }
  code.put_into(bench);
  for (size_t i = 0; i < kVectors.size(); ++i) bench.gate(kVectors[i], p.steps[p.handler[i]].address);
  bench.gate(vec::NMI, p.steps[p.nmi_handler].address);
}

// --- the model --------------------------------------------------------------------------------------------------------

class Model {
 public:
  Model(const Program& program, HashedTurns turns) : program_(program), turns_(turns), cpus_(program.start.size()) {
    for (size_t i = 0; i < cpus_.size(); ++i) cpus_[i].at = program.start[i];
    cpus_[0].enabled = true;  // by the firmware
  }

  struct Cpu {
    size_t at = 0;  // number of the next step
    bool interrupts = false, shadow = false, halted = false, nmi_pending = false, nmi_blocked = false;
    bool enabled = false;  // the APIC takes fixed interrupts
    std::bitset<256> requested, in_service;
    uint32_t destination = 0;
    struct Frame {
      size_t at;
      bool interrupts;
    };
    std::vector<Frame> frames;
    std::array<uint32_t, kCounters> counters{};
  };

  // False: all processors wait for ever.
  bool run_until(uint64_t position) {
    while (position_ < position) {
      if (position_ >= turn_end_ || !can_run(current_)) {
        const size_t before = current_;
        bool found = false;
        for (size_t i = 1; i <= cpus_.size() && !found; ++i) {
          current_ = (before + i) % cpus_.size();
          found = can_run(current_);
        }
        if (!found) return false;
        turn_end_ = position_ + turn_length();
      }
      step(cpus_[current_]);
    }
    return true;
  }
  const Cpu& cpu(size_t i) const { return cpus_[i]; }
  uint64_t position() const { return position_; }
  uint64_t deliveries() const { return deliveries_; }

 private:
  uint64_t turn_length() const { return turns_.length(position_); }
  static int highest(const std::bitset<256>& set) {
    for (int v = 255; v >= 0; --v)
      if (set[static_cast<size_t>(v)]) return v;
    return -1;
  }
  // The vector that the APIC offers; -1: none.
  static int offered(const Cpu& c) {
    const int v = highest(c.requested);
    return v >= 0 && v / 16 > std::max(highest(c.in_service), 0) / 16 ? v : -1;
  }
  static bool wakes(const Cpu& c) { return (c.nmi_pending && !c.nmi_blocked) || (c.interrupts && offered(c) >= 0); }
  bool can_run(size_t i) const { return !cpus_[i].halted || wakes(cpus_[i]); }

  void enter(Cpu& c, size_t handler) {
    c.frames.push_back({c.at, c.interrupts});
    c.at = handler;
    c.interrupts = c.shadow = c.halted = false;
    ++deliveries_;
  }
  void send(Cpu& from, uint32_t icr) {
    for (size_t i = 0; i < cpus_.size(); ++i) {
      const bool self = &cpus_[i] == &from;
      const uint32_t shorthand = icr >> 18 & 3;
      if (shorthand == 0 ? i != from.destination : shorthand == 1 ? !self : self) continue;
      if ((icr & 0x700) == 0x400) cpus_[i].nmi_pending = true;
      else if (cpus_[i].enabled) cpus_[i].requested.set(icr & 0xff);
    }
  }
  // Delivers what is due, or else executes one instruction.
  void step(Cpu& c) {
    if (!c.shadow && c.nmi_pending && !c.nmi_blocked) {
      c.nmi_pending = false;
      c.nmi_blocked = true;
      return enter(c, program_.nmi_handler);
    }
    if (const int v = offered(c); !c.shadow && c.interrupts && v >= 0) {
      const auto vector = static_cast<size_t>(v);
      c.requested.reset(vector);
      c.in_service.set(vector);
      size_t which = 0;
      while (kVectors[which] != vector) ++which;
      return enter(c, program_.handler[which]);
    }
    const Step& s = program_.steps[c.at++];
    c.shadow = s.kind == Step::mov_ss || (s.kind == Step::sti && !c.interrupts);
    switch (s.kind) {
      case Step::nop: case Step::mov_ss: break;
      case Step::count: ++c.counters[s.value]; break;
      case Step::sti: c.interrupts = true; break;
      case Step::cli: c.interrupts = false; break;
      case Step::hlt: c.halted = true; break;
      case Step::icr_high: c.destination = s.value >> 24; break;
      case Step::icr_low: send(c, s.value); break;
      case Step::enable: c.enabled = true; break;
      case Step::eoi:
        if (const int v = highest(c.in_service); v >= 0) c.in_service.reset(static_cast<size_t>(v));
        break;
      case Step::iret:
        c.at = c.frames.back().at;
        c.interrupts = c.frames.back().interrupts;
        c.frames.pop_back();
        c.nmi_blocked = false;
        break;
      case Step::jump: c.at = s.value; break;
    }
    ++position_;
  }

  const Program& program_;
  const HashedTurns turns_;
  std::vector<Cpu> cpus_;
  size_t current_ = 0;
  uint64_t position_ = 0, turn_end_ = 0, deliveries_ = 0;
};

// --- tests ------------------------------------------------------------------------------------------------------------

std::string text(size_t at, bool interrupts, bool halted, bool nmi_blocked, uint64_t depth) {
  return "step " + std::to_string(at) + (interrupts ? " IF" : "") + (halted ? " halted" : "") + (nmi_blocked ? " in NMI" : "") +
         " depth " + std::to_string(depth);
}

size_t step_at(const Program& p, uint64_t address) {
  size_t i = 0;
  while (i < p.steps.size() && p.steps[i].address != address) ++i;
  return i;
}

// How many times as much as CI does: RETROVISOR_SMP_FACTOR, for long runs by hand.
uint64_t factor() {
  const char* text = std::getenv("RETROVISOR_SMP_FACTOR");
  return text == nullptr ? 1 : std::max<uint64_t>(1, std::strtoull(text, nullptr, 10));
}

TEST(RandomSmp, processors_follow_the_plain_model_wherever_turns_end) {
  constexpr uint64_t kInstructions = 3'000, kPiece = 101;
  const uint64_t programs = 400 * factor();
  uint64_t deliveries = 0;
  for (uint64_t seed = 1; seed <= programs; ++seed) {
    Random r(seed);
    const auto vcpus = static_cast<uint32_t>(2 + r.below(3));
    const HashedTurns turns{1 + r.below(12), r.below(3) == 0 ? 0 : seed};
    SmpBench bench(vcpus, turns);
    Program program = random_program(r, vcpus);
    assemble(program, bench);
    for (uint32_t i = 0; i < vcpus; ++i) bench.cpu(i).rip = program.steps[program.start[i]].address;
    Model model(program, turns);
    for (uint64_t position = kPiece; position <= kInstructions; position += kPiece) {
      const bool going_on = model.run_until(position);
      const Stop stop = bench.machine->run_until(Position(position));
      ASSERT_EQ(stop.reason == StopReason::halted_forever, !going_on) << "program " << seed << ", position " << position;
      ASSERT_EQ(bench.machine->position().value, model.position()) << "program " << seed;
      for (uint32_t i = 0; i < vcpus; ++i) {
        const CpuState& s = bench.cpu(i);
        const Model::Cpu& c = model.cpu(i);
        ASSERT_EQ(text(step_at(program, s.rip), (s.rflags & flag::IF) != 0, s.activity == Activity::halted, s.nmi_blocked,
                       (SmpBench::stack(i) - s.gpr[RSP]) / 12),
                  text(c.at, c.interrupts, c.halted, c.nmi_blocked, c.frames.size()))
            << "program " << seed << ", vCPU " << i << ", position " << position;
        for (uint32_t k = 0; k < kCounters; ++k) ASSERT_EQ(bench.word(SmpBench::data(i) + k * 4), c.counters[k]) << "program " << seed;
      }
      if (!going_on) break;
    }
    deliveries += model.deliveries();
  }
  EXPECT_GT(deliveries, programs * 20) << "the programs hardly interrupt each other";
}

// A token goes round; who has it not waits for it in HLT. Each pass is an IPI, and (at the latest) wakes one.
TEST(RandomSmp, no_wake_up_is_lost_behind_sti) {
  constexpr uint32_t kToken = 0, kPasses = 4, kOtherCode = 0x4000;
  const uint64_t wanted = 100'000 * factor();
  uint64_t passes = 0;
  for (uint64_t round = 0; passes < wanted; ++round) {
    Random r(round + 1);
    const auto vcpus = static_cast<uint32_t>(2 + r.below(3));
    const uint64_t each = 20'000;
    SmpBench bench(vcpus, HashedTurns{1 + r.below(12), r.below(3) == 0 ? 0 : round + 1});
    SmpCode handler(0xf000);
    handler.store(SmpBench::kEoi, 0);
    handler.iret();
    handler.put_into(bench);
    bench.gate(kVectors[0], 0xf000);
    SmpCode nmi(0xf800);
    nmi.iret();
    nmi.put_into(bench);
    bench.gate(vec::NMI, 0xf800);
    for (uint32_t i = 0; i < vcpus; ++i) {
      const uint32_t next = (i + 1) % vcpus;
      SmpCode code(0x10000 + i * kOtherCode);
      SmpCode got(code.here() + 0x800);
      bench.cpu(i).rip = code.here();
      code.store(SmpBench::kSvr, 0x1ff);
      const uint32_t loop = code.here();
      code.cli();
      code.compare_own(kToken);
      code.jump_if_not_zero(got.here());
      for (uint64_t n = r.below(3); n > 0; --n) code.nop();
      code.sti();
      if (r.below(2) != 0) code.mov_ss();
      code.hlt();
      code.jump(loop);
      got.dec_own(kToken);
      got.inc_own(kPasses);
      for (uint64_t n = r.below(4); n > 0; --n) got.nop();
      got.inc(SmpBench::data(next) + kToken);
      got.store(SmpBench::kIcrHigh, next << 24);
      got.store(SmpBench::kIcrLow, 0x4000u | kVectors[0]);
      if (r.below(4) == 0) got.store(SmpBench::kIcrLow, 0x4400);  // and an NMI on top
      got.jump(loop);
      code.put_into(bench);
      got.put_into(bench);
    }
    bench.put<uint32_t>(SmpBench::data(0) + kToken, 1);
    const auto done = [&] {
      uint64_t sum = 0;
      for (uint32_t i = 0; i < vcpus; ++i) sum += bench.word(SmpBench::data(i) + kPasses);
      return sum;
    };
    while (done() < each) {
      const Stop stop = bench.machine->run_until(bench.machine->position() + 100'000);
      ASSERT_EQ(stop.reason, StopReason::position) << "round " << round << ": a wake-up was lost after " << passes + done();
    }
    passes += done();
  }
  RecordProperty("wake_ups", std::to_string(passes));
  std::printf("%llu wake-ups, none lost\n", static_cast<unsigned long long>(passes));
}

}  // namespace
}  // namespace retrovisor
