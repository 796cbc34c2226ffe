// Schedulers other than the machine's own, plugged in from here.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/unit/machine/smp_bench.h"

namespace retrovisor {
namespace {

// One instruction a turn, in order.
class OneInstruction final : public Scheduler {
 public:
  Turn next(Position, VcpuId last, Runnable runnable, uint32_t vcpus) const override {
    for (uint32_t i = 1; i <= vcpus; ++i)
      if (const VcpuId id((last.value + i) % vcpus); runnable.has(id)) return {id, 1};
    return {last, 1};
  }
};

// Whom and how long chance decides, whose state is the machine's.
class RandomScheduler final : public Scheduler {
 public:
  explicit RandomScheduler(uint64_t seed) : state_(seed) {}
  Turn next(Position, VcpuId, Runnable runnable, uint32_t vcpus) const override {
    uint64_t nth = (state_ >> 33) % runnable.count();
    for (uint32_t i = 0; i < vcpus; ++i)
      if (runnable.has(VcpuId(i)) && nth-- == 0) return {VcpuId(i), 1 + (state_ >> 20) % 300};
    return {};
  }
  void begin(const Turn&) override { state_ = state_ * 6364136223846793005 + 1442695040888963407; }
  void save(StateWriter& out) const override { out.u64("random", state_); }
  void restore(StateReader& in) override { in.u64("random", state_); }

 private:
  uint64_t state_;
};

constexpr uint32_t kShared = 0x3000, kOwn = 0, kCode = 0x10000, kCodeSize = 0x1000;

// Each processor counts one number up, by a load and a store that others come between, and its own; now and then it sleeps until its
// neighbour wakes it.
void load(SmpBench& bench, uint32_t vcpus) {
  SmpCode handler(0xf000);
  handler.store(SmpBench::kEoi, 0);
  handler.iret();
  handler.put_into(bench);
  bench.gate(0x40, 0xf000);
  for (uint32_t i = 0; i < vcpus; ++i) {
    SmpCode code(kCode + i * kCodeSize);
    bench.cpu(i).rip = code.here();
    code.store(SmpBench::kSvr, 0x1ff);
    code.store(SmpBench::kIcrHigh, (i + 1) % vcpus << 24);
    const uint32_t loop = code.here();
    code.sti();
    code.plain({0xa1});  // mov eax, [kShared]
    code.word(kShared);
    code.inc_own(kOwn);
    code.plain({0x8d, 0x44, 0x40, static_cast<uint8_t>(i + 1)});  // lea eax, [eax + 2 eax + i + 1]
    code.plain({0xa3});  // mov [kShared], eax
    code.word(kShared);
    code.store(SmpBench::kIcrLow, 0x40);
    if (i != 0) code.hlt();
    code.jump(loop);
    code.put_into(bench);
  }
}

TEST(Scheduler, of_one_instruction_a_turn_takes_them_in_order) {
  SmpBench bench(3, [] { return std::make_unique<OneInstruction>(); });
  for (uint32_t i = 0; i < 3; ++i) {
    SmpCode code(kCode + i * kCodeSize);
    bench.cpu(i).rip = code.here();
    const uint32_t loop = code.here();
    code.inc_own(kOwn);
    code.jump(loop);
    code.put_into(bench);
  }
  std::vector<uint32_t> order;
  Interest interest;
  interest.events = mask_of(Observation::Kind::instruction) | mask_of(Observation::Kind::vcpu_switch);
  uint64_t switches = 0;
  interest.hit = [&](const Observation& o) {
    if (o.kind == Observation::Kind::instruction) order.push_back(o.vcpu.value);
    else ++switches;
    return false;
  };
  const Subscription subscription = bench.machine->observers().subscribe(interest);
  bench.machine->run_until(Position(60));
  ASSERT_EQ(order.size(), 60u);
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], (i + 1) % 3);
  EXPECT_EQ(switches, 60u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(bench.word(SmpBench::data(i) + kOwn), 10u);
}

TEST(Scheduler, any_cutting_of_a_run_gives_the_same_run_with_random_schedulers) {
  constexpr uint64_t kEnd = 20'000;
  std::map<uint64_t, int> results;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    std::mt19937_64 random(seed);
    const auto vcpus = static_cast<uint32_t>(2 + random() % 3);
    const SchedulerFactory scheduler = [seed] { return std::make_unique<RandomScheduler>(seed * 0x9e3779b97f4a7c15); };
    SmpBench whole(vcpus, scheduler), cut(vcpus, scheduler), other(vcpus, scheduler);
    load(whole, vcpus);
    load(cut, vcpus);
    load(other, vcpus);
    ASSERT_EQ(whole.machine->run_until(Position(kEnd)).reason, StopReason::position);
    while (cut.machine->position() < Position(kEnd)) {
      const Position at = std::min(Position(kEnd), cut.machine->position() + 1 + random() % (random() % 8 == 0 ? 3000 : 40));
      const Stop stop = cut.machine->run_until(at);
      ASSERT_EQ(cut.machine->position(), at) << to_string(stop.reason) << ", seed " << seed;
      if (random() % 16 != 0) continue;
      // And goes on from here in another machine, or again in this one.
      Machine& m = *other.machine;
      const auto pages = cut.machine->written_pages()->take();
      for (const uint64_t page : pages) m.restore_page(page, cut.machine->memory().host(PhysAddr(page << kPageShift)));
      ASSERT_TRUE(m.restore_state(cut.machine->save_cpu_state(), cut.machine->save_device_state()).ok());
      ASSERT_EQ(m.digest(), cut.machine->digest());
      if (random() % 2 == 0) std::swap(cut.machine, other.machine);
    }
    EXPECT_EQ(cut.machine->digest(), whole.machine->digest()) << "seed " << seed;
    ++results[whole.word(kShared)];
  }
  EXPECT_GT(results.size(), 30u) << "who comes between whom should differ";
}

}  // namespace
}  // namespace retrovisor
