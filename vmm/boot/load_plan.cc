#include "vmm/boot/load_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace retrovisor {
namespace {

// Below this are the interrupt vectors and the BIOS data area of real mode: nothing is placed there.
constexpr uint64_t kLowestPlace = 0x1000;

}  // namespace

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory, std::span<const PhysRange> reserved) {
  std::vector<MemoryMapEntry> map;
  map.push_back({0, kEbdaBegin, MemoryType::ram});
  map.push_back({kEbdaBegin, kBiosAreaEnd - kEbdaBegin, MemoryType::reserved});
  map.push_back({kBiosAreaEnd, memory.low_end() - kBiosAreaEnd, MemoryType::ram});
  for (const PhysRange& r : reserved) map.push_back({r.begin.value, r.size, MemoryType::reserved});
  if (memory.high_end() > kHighRamBegin) map.push_back({kHighRamBegin, memory.high_end() - kHighRamBegin, MemoryType::ram});
  std::sort(map.begin(), map.end(), [](const MemoryMapEntry& a, const MemoryMapEntry& b) { return a.begin < b.begin; });
  return map;
}

LoadPlan::LoadPlan(GuestMemory& memory, std::span<const PhysRange> reserved)
    : memory_(memory), map_(retrovisor::memory_map(memory, reserved)) {
  taken_.push_back({kEbdaBegin, kBiosAreaEnd, "the BIOS area"});
}

bool LoadPlan::is_ram(uint64_t begin, uint64_t size) const {
  const uint64_t end = begin + size;
  if (end < begin) return false;
  return end <= memory_.low_end() || (begin >= kHighRamBegin && end <= memory_.high_end());
}

const LoadPlan::Range* LoadPlan::overlap(uint64_t begin, uint64_t end) const {
  for (const Range& r : taken_)
    if (begin < r.end && r.begin < end) return &r;
  return nullptr;
}

bool LoadPlan::is_free(uint64_t begin, uint64_t size) const {
  return is_ram(begin, size) && overlap(begin, begin + size) == nullptr;
}

Result<void> LoadPlan::claim(uint64_t begin, uint64_t size, std::string_view what, std::string where) {
  if (size == 0) return {};
  if (!is_ram(begin, size)) {
    return Error{ErrorCode::bad_image,
                 fmt::format("{} does not fit into guest memory: {} bytes at {:#x}", what, size, begin), std::move(where)};
  }
  if (const Range* other = overlap(begin, begin + size)) {
    return Error{ErrorCode::bad_image,
                 fmt::format("{} at {:#x}..{:#x} overlaps {} at {:#x}..{:#x}", what, begin, begin + size - 1, other->what,
                             other->begin, other->end - 1),
                 std::move(where)};
  }
  taken_.push_back({begin, begin + size, std::string(what)});
  return {};
}

bool LoadPlan::find_below(uint64_t size, uint64_t align, uint64_t end, uint64_t& begin) const {
  // Every step goes below the begin of one taken range, so there are at most taken_.size() + 1 steps.
  while (size <= end && end - size >= kLowestPlace) {
    begin = (end - size) & ~(align - 1);
    if (begin < kLowestPlace) return false;
    const Range* other = overlap(begin, begin + size);
    if (other == nullptr) return true;
    end = other->begin;
  }
  return false;
}

Result<uint64_t> LoadPlan::place_high(uint64_t size, uint64_t align, uint64_t end, std::string_view what) {
  uint64_t begin = 0;
  size = std::max<uint64_t>(size, 1);
  if (!find_below(size, align, std::min(end, memory_.low_end()), begin)) {
    return Error{ErrorCode::bad_image, fmt::format("{} does not fit into guest memory: {} bytes", what, size), ""};
  }
  taken_.push_back({begin, begin + size, std::string(what)});
  return begin;
}

Result<uint64_t> LoadPlan::place_low(uint64_t size, uint64_t align, std::string_view what) {
  uint64_t begin = 0;
  size = std::max<uint64_t>(size, 1);
  if (!find_below(size, align, kEbdaBegin, begin)) return place_high(size, align, memory_.low_end(), what);
  taken_.push_back({begin, begin + size, std::string(what)});
  return begin;
}

Result<uint64_t> LoadPlan::put_low(std::span<const uint8_t> bytes, uint64_t align, std::string_view what) {
  auto at = place_low(bytes.size(), align, what);
  if (at) write(*at, bytes);
  return at;
}

Result<uint64_t> LoadPlan::put_string(std::string_view text, std::string_view what) {
  std::vector<uint8_t> bytes(text.begin(), text.end());
  bytes.push_back(0);
  return put_low(bytes, 16, what);
}

void LoadPlan::write(uint64_t begin, std::span<const uint8_t> bytes) {
  const bool ok = memory_.write(PhysAddr(begin), bytes);
  RV_ASSERT(ok);
}

void LoadPlan::clear(uint64_t begin, uint64_t size) {
  static constexpr std::array<uint8_t, kPageSize> kZeros{};
  for (uint64_t at = begin, end = begin + size; at < end;) {
    const uint64_t n = std::min(end - at, kPageSize - (at & (kPageSize - 1)));
    const uint8_t* p = memory_.host(PhysAddr(at));
    if (std::any_of(p, p + n, [](uint8_t b) { return b != 0; })) write(at, std::span(kZeros).first(n));
    at += n;
  }
}

}  // namespace retrovisor
