// Unwind tables and stacks out of hostile memory: refused, or followed to a bounded end.
#include <algorithm>
#include <array>
#include <cstring>

#include "analysis/linux/unwind.h"
#include "tests/fuzz/target.h"

namespace retrovisor::fuzz {
namespace {

constexpr uint64_t kBegin = 0xffffffff81000000;

}  // namespace

size_t max_input() { return 16384; }

// The first eight bytes say how many entries there are, and where code, stack and frame begin; the rest is all of memory.
void run(std::span<const uint8_t> data) {
  if (data.size() < 8) return;
  std::array<uint16_t, 4> head{};
  std::memcpy(head.data(), data.data(), 8);
  const ImageMemory memory(kBegin, data.subspan(8));
  const auto table = OrcTable::read(memory, kBegin, kBegin + uint64_t{4} * head[0], head[0]);
  if (!table) {
    FUZZ_CHECK(!table.error().message.empty());
    return;
  }
  FUZZ_CHECK(table->size() == head[0]);
  const Unwinder unwinder(memory, [&](uint64_t ip) { return table->find(ip); });
  FrameRegisters frame;
  frame.ip = kBegin + head[1];
  for (auto& r : frame.gpr) r = kBegin + head[2];
  frame.gpr[5] = kBegin + head[3];
  UnwindEnd end{};
  const auto frames = unwinder.frames(frame, 64, &end);
  FUZZ_CHECK(!frames.empty() && frames.size() <= 64);
  FUZZ_CHECK(end != UnwindEnd::none || frames.size() == 64);
  for (size_t i = 0; i + 1 < frames.size(); ++i) FUZZ_CHECK(!frames[i].user);
}

std::vector<Bytes> seeds() {
  // Three entries: of calls, with the stack behind them, whose return addresses lead to them again.
  Bytes seed{3, 0, 4, 0, 0x20, 0, 0x28, 0};
  const auto put = [&seed](uint64_t value, int size) {
    for (int i = 0; i < size; ++i) seed.push_back(static_cast<uint8_t>(value >> 8 * i));
  };
  for (const int distance : {0, 0, 8}) put(static_cast<uint64_t>(distance), 4);
  for (const uint64_t bits : {uint64_t{0x0005}, uint64_t{0x0015}, uint64_t{0x0105}}) {
    put(8, 2);
    put(0xfff0, 2);
    put(bits, 2);
  }
  while (seed.size() < 8 + 512) put(kBegin + 4 + seed.size() % 12, 8);
  return {seed};
}

}  // namespace retrovisor::fuzz
