// The segments that sequences run with: Linux's flat ones, and a local descriptor table that both sides install.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "tests/conformance/state.h"

namespace retrovisor::conformance {

struct Descriptor {
  enum class Kind : uint8_t { data, stack /* data that expands down */, code };
  uint32_t base = 0;
  uint32_t limit = 0;     // as encoded: in bytes, or in pages less one
  Kind kind = Kind::data;
  bool pages = false;     // G
  bool big = true;        // D/B
  bool open = true;       // data: writable, code: readable
  bool present = true;
  bool long_code = false; // L

  bool code() const { return kind == Kind::code; }
  bool readable() const { return !code() || open; }
  bool writable() const { return !code() && open; }
  // The first and the last offset that may be accessed.
  uint64_t first() const { return kind == Kind::stack ? uint64_t{byte_limit()} + 1 : 0; }
  uint64_t last() const { return kind != Kind::stack ? byte_limit() : big ? 0xffffffff : 0xffff; }
  uint32_t byte_limit() const { return pages ? limit << 12 | 0xfff : limit; }
  // As it lies in a descriptor table: privilege level 3, accessed.
  uint64_t encoded() const;
};

// What the selectors of the local descriptor table stand for, by index.
namespace ldt {
inline constexpr unsigned kWindows = 8;           // 16-bit code: 64 sequences each
inline constexpr uint32_t kWindowSlots = kSlots / kWindows;
enum : unsigned {
  code16 = 0,              // kWindows of them
  code32 = kWindows,       // not flat
  execute_only,
  absent_code,
  short_code,              // 32-bit, ends within the executable page
  short_code16,            // 16-bit, its 64 KiB end there
  long_code16,             // 16-bit, goes on where its 64 KiB end
  arena_code32,            // the arena as code
  arena_code16,
  arena,                   // data, just the arena
  small,                   // 16-bit data: the first two writable pages
  read_only,
  down32,                  // expands down
  down16,
  high,                    // begins with the last page below 4 GiB and wraps around
  absent,
  wrap16,                  // kWrap, with a 16-bit and a 32-bit stack pointer
  wrap32,
  stack32,                 // expand down, just the stack's pages
  stack16,
  odd,                     // not on a page's border, nor a dword's
  paged,                   // limit in pages
  count
};
constexpr uint16_t selector(unsigned index) { return static_cast<uint16_t>(index << 3 | 7); }
}  // namespace ldt

const std::array<Descriptor, ldt::count>& local_descriptors();

// What a selector that user mode may load stands for. None if there is no such, or it is null.
std::optional<Descriptor> descriptor_of(uint16_t selector);

// Linear address of the instruction that `state` is at.
uint64_t linear_ip(const State& state);

}  // namespace retrovisor::conformance
