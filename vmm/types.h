// Strong types for the quantities that must never be mixed up: addresses, positions, time, vCPU ids.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace retrovisor {

// A number that cannot be confused with another kind of number. `Tag` makes the kind.
template <class Tag, class Rep = uint64_t>
struct Strong {
  Rep value{};
  constexpr Strong() = default;
  constexpr explicit Strong(Rep v) : value(v) {}
  constexpr auto operator<=>(const Strong&) const = default;
  constexpr Strong operator+(Rep n) const { return Strong(static_cast<Rep>(value + n)); }
  constexpr Strong operator-(Rep n) const { return Strong(static_cast<Rep>(value - n)); }
  constexpr Rep operator-(Strong o) const { return static_cast<Rep>(value - o.value); }
  constexpr Strong& operator+=(Rep n) { value = static_cast<Rep>(value + n); return *this; }
};

// Guest-linear address: after segmentation, before paging ("linear address", SDM 3A 3.1).
using LinearAddr = Strong<struct LinearTag>;
// Guest-physical address: what paging yields, what buses and DMA see.
using PhysAddr = Strong<struct PhysTag>;
// Number of instructions the whole machine has retired; each REP iteration counts one. Names one machine state.
using Position = Strong<struct PositionTag>;
// Nanoseconds of guest time since reset. Under the soft engine: position * 1 ns + idle time skipped.
using VirtualTime = Strong<struct VirtualTimeTag>;
using VcpuId = Strong<struct VcpuIdTag, uint32_t>;

inline constexpr Position kNoPosition{UINT64_MAX};
inline constexpr VirtualTime kNever{UINT64_MAX};
inline constexpr uint32_t kMaxVcpus = 16;

inline constexpr uint64_t kPageShift = 12;
inline constexpr uint64_t kPageSize = uint64_t{1} << kPageShift;
inline constexpr uint64_t kPageMask = ~(kPageSize - 1);

// A range of guest-physical bytes.
struct PhysRange {
  PhysAddr begin;
  uint64_t size = 0;
};

}  // namespace retrovisor
