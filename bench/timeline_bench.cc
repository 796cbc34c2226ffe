// What a timeline costs: the first pass beside a plain replay, bytes per checkpoint, single steps backwards at random
// positions, and how long it takes to find who wrote a variable of the kernel.
// Usage: timeline_bench TRACE KERNEL INITRD [OPERATIONS [SEED]]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "replay/replay_session.h"
#include "replay/timeline.h"
#include "vmm/cpu/page_walk.h"

namespace retrovisor {
namespace {

using HostClock = std::chrono::steady_clock;

// Of this process, so that other work on the host does not count.
double cpu_ms() { return static_cast<double>(std::clock()) * 1e3 / CLOCKS_PER_SEC; }

double ms_since(HostClock::time_point begin) {
  return std::chrono::duration<double, std::milli>(HostClock::now() - begin).count();
}

std::vector<uint8_t> file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

[[noreturn]] void fail(const Error& e) {
  fmt::print(stderr, "timeline_bench: {}\n", e.text());
  std::exit(1);
}

template <class T>
T take(Result<T> result) {
  if (!result) fail(result.error());
  return std::move(result).value();
}

struct Times {
  std::vector<double> ms;
  double at(double share) {
    std::sort(ms.begin(), ms.end());
    return ms.empty() ? 0 : ms[std::min(ms.size() - 1, static_cast<size_t>(share * static_cast<double>(ms.size())))];
  }
};

// 8-byte words of kernel data (upper 2 GiB), as they are now.
std::vector<std::pair<uint64_t, uint64_t>> kernel_words(Machine& m) {
  std::vector<std::pair<uint64_t, uint64_t>> out;
  const CpuState& s = m.vcpu(VcpuId(0)).state;
  constexpr uint64_t kKernel = 0xffffffff80000000;
  for (uint64_t page = kKernel; page < kKernel + (uint64_t{1} << 30); page += kPageSize) {
    const PageWalk walk = walk_page(s, m.memory(), LinearAddr(page), {}, false);
    if (!walk.ok || !walk.writable || !m.memory().is_ram(walk.phys)) continue;
    for (uint64_t at = 0; at < kPageSize; at += 8) {
      uint64_t value = 0;
      std::copy_n(m.memory().host(walk.phys + at), 8, reinterpret_cast<uint8_t*>(&value));
      out.emplace_back(page + at, value);
    }
  }
  return out;
}

// Variables of the kernel that got the value they have at the end early, between an eighth and a quarter of the way.
std::vector<uint64_t> early_variables(Timeline& t) {
  std::vector<uint64_t> out;
  take(t.seek(t.end()));
  const auto last = kernel_words(t.machine());
  take(t.seek(Position(t.end().value / 4)));
  const auto middle = kernel_words(t.machine());
  take(t.seek(Position(t.end().value / 8)));
  const auto early = kernel_words(t.machine());
  const auto value_in = [](const auto& words, uint64_t address, uint64_t otherwise) {
    const auto it = std::lower_bound(words.begin(), words.end(), std::pair(address, uint64_t{0}));
    return it != words.end() && it->first == address ? it->second : otherwise;
  };
  for (const auto& [address, value] : last)
    if (value != 0 && value_in(middle, address, ~value) == value && value_in(early, address, value) != value)
      out.push_back(address);
  return out;
}

int run_main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: timeline_bench TRACE KERNEL INITRD [OPERATIONS [SEED]]\n");
    return 2;
  }
  const size_t operations = argc > 4 ? std::strtoull(argv[4], nullptr, 0) : 500;
  std::mt19937_64 random(argc > 5 ? std::strtoull(argv[5], nullptr, 0) : 1);
  BootImages images;
  images.kernel = file(argv[2]);
  images.initrd = file(argv[3]);

  // The best of several, in turns.
  double plain = 1e99, pass = 1e99;
  std::unique_ptr<Timeline> timeline;
  for (int round = 0; round < 3; ++round) {
    {
      auto session = take(ReplaySession::open(argv[1], images));
      const double begin = cpu_ms();
      const ReplayResult result = take(session->run({}));
      plain = std::min(plain, cpu_ms() - begin);
      if (result.divergence) fail(result.divergence->error());
    }
    timeline.reset();
    timeline = take(Timeline::open(argv[1], images, {}));
    const double begin = cpu_ms();
    take(timeline->seek(timeline->end()));
    pass = std::min(pass, cpu_ms() - begin);
  }
  fmt::print("recording                  {} instructions\n", timeline->end().value);
  fmt::print("plain replay               {:.0f} ms of CPU\n", plain);
  fmt::print("first pass                 {:.0f} ms of CPU, {:.3f} of a plain replay\n", pass, pass / plain);
  const CheckpointFigures f = timeline->checkpoints();
  fmt::print("checkpoints                {}, {:.1f} MiB together, {} pages of {} captured are stored\n", f.count,
             static_cast<double>(f.bytes) / 1048576, f.pages_stored, f.pages_captured);
  fmt::print("bytes per page captured    {:.0f}, {:.3f} of a page\n",
             static_cast<double>(f.bytes) / static_cast<double>(f.pages_captured),
             static_cast<double>(f.bytes) / static_cast<double>(f.pages_captured) / kPageSize);

  Times seeks, steps;
  for (size_t i = 0; i < operations; ++i) {
    const Position p(1 + random() % (timeline->end().value - 1));
    auto begin = HostClock::now();
    take(timeline->seek(p));
    seeks.ms.push_back(ms_since(begin));
    begin = HostClock::now();
    take(timeline->seek(p - 1));
    steps.ms.push_back(ms_since(begin));
  }
  fmt::print("seek to a random position  p50 {:.2f} ms, p99 {:.2f} ms\n", seeks.at(0.5), seeks.at(0.99));
  fmt::print("step back from there       p50 {:.2f} ms, p99 {:.2f} ms\n", steps.at(0.5), steps.at(0.99));
  Times row;
  take(timeline->seek(Position(timeline->end().value / 2)));
  for (size_t i = 0; i < operations * 4; ++i) {
    const auto begin = HostClock::now();
    take(timeline->seek(timeline->position() - 1));
    row.ms.push_back(ms_since(begin));
  }
  fmt::print("steps back in a row        p50 {:.2f} ms, p99 {:.2f} ms, most {:.2f} ms\n", row.at(0.5), row.at(0.99),
             row.at(1));

  const auto variables = early_variables(*timeline);
  Times finds, continues;
  double most_cpu = 0;
  Times nothing;  // for variables that nobody wrote
  size_t through_others = 0;
  take(timeline->seek(timeline->end()));
  for (size_t i = 0; i < 50 && !variables.empty(); ++i) {
    const uint64_t address = variables[random() % variables.size()];
    auto begin = HostClock::now();
    const double cpu_begin = cpu_ms();
    Machine& m = timeline->machine();
    const PageWalk walk = walk_page(m.vcpu(VcpuId(0)).state, m.memory(), LinearAddr(address), {}, false);
    if (!walk.ok) continue;
    const ByteWatch bytes{{walk.phys, 8}, LinearAddr(address)};
    const auto found = take(timeline->last_change({bytes}, VcpuId(0))).write;
    if (found && (found->through.value & kPageMask) != (address & kPageMask)) ++through_others;
    (found ? finds : nothing).ms.push_back(ms_since(begin));
    most_cpu = std::max(most_cpu, cpu_ms() - cpu_begin);
    StopConditions conditions;
    conditions.bytes.push_back({bytes.bytes, std::nullopt});
    begin = HostClock::now();
    const TimelineStop stop = take(timeline->backward(conditions, timeline->begin()));
    if (found) continues.ms.push_back(ms_since(begin));
    if (found ? stop.position != found->position : stop.reason != TimelineStop::Reason::begin) {
      fmt::print(stderr, "timeline_bench: last_change and backward disagree about {:#x}\n", address);
      return 1;
    }
    take(timeline->seek(timeline->end()));
  }
  fmt::print("kernel variables           {} written early only, {} of them looked for, {} were written through another page\n",
             variables.size(), finds.ms.size(), through_others);
  fmt::print("last write from the end    p50 {:.0f} ms, p90 {:.0f} ms, most {:.0f} ms ({:.0f} ms of CPU)\n", finds.at(0.5),
             finds.at(0.9), finds.at(1), most_cpu);
  fmt::print("  where there is none      p50 {:.0f} ms, most {:.0f} ms, {} of them\n", nothing.at(0.5), nothing.at(1),
             nothing.ms.size());
  fmt::print("backward from the end      p50 {:.0f} ms, p90 {:.0f} ms, most {:.0f} ms\n", continues.at(0.5),
             continues.at(0.9), continues.at(1));
  const CheckpointFigures g = timeline->checkpoints();
  fmt::print("afterwards                 {} checkpoints, {:.1f} MiB\n", g.count, static_cast<double>(g.bytes) / 1048576);
  return 0;
}

}  // namespace
}  // namespace retrovisor

int main(int argc, char** argv) { return retrovisor::run_main(argc, argv); }
