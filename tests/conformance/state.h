// What a sequence starts from and what it leaves behind, in the form that the native and the soft side share.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "vmm/types.h"

namespace retrovisor::conformance {

// Linear addresses, the same on both sides. All lie below 4 GiB, so that 32-bit addressing and RIP-relative operands
// reach them.
inline constexpr uint64_t kArena = 0x20000000;
inline constexpr unsigned kArenaPages = 14;
inline constexpr uint64_t kArenaSize = kArenaPages * kPageSize;
enum class PageKind : uint8_t { none, read_only, read_write, executable };  // executable: writable too
inline constexpr std::array<PageKind, kArenaPages> kArenaLayout = {
    PageKind::none,       PageKind::read_write, PageKind::read_write, PageKind::none,       PageKind::read_write,
    PageKind::read_only,  PageKind::read_write, PageKind::none,       PageKind::executable, PageKind::none,
    PageKind::read_write, PageKind::read_write, PageKind::none,       PageKind::none,
};
inline constexpr uint64_t kExecutable = kArena + 8 * kPageSize;
inline constexpr uint64_t kStackBegin = kArena + 10 * kPageSize;
inline constexpr uint64_t kStackEnd = kArena + 12 * kPageSize;

inline constexpr uint64_t kCode = 0x21000000;  // sequence i of a batch starts at kCode + i * kSlotSize
inline constexpr unsigned kSlotSize = 1000;   // not a divisor of the page size: some instructions cross pages
inline constexpr unsigned kSlots = 512;
inline constexpr uint64_t kCodeSize = uint64_t{kSlots} * kSlotSize;
inline constexpr uint64_t kCodeMapped = (kCodeSize + kPageSize - 1) & kPageMask;
inline constexpr uint64_t kExit = 0x2b5e7000;  // sequences end by jumping here; no address that arises by itself

// More names for pages of the arena, for the modes that have segments. In a 64 KiB segment that begins at kWrap the last
// page is the stack's first, and the first page the stack's second: what wraps at 64 KiB stays in one piece. kTop is the
// last page below 4 GiB.
inline constexpr uint64_t kWrap = 0x22000000;
inline constexpr uint64_t kWrapSize = 0x10000;
inline constexpr uint64_t kTop = 0xfffff000;
inline constexpr uint64_t kTopAlias = kArena + 2 * kPageSize;

// The selectors of Linux's user mode.
inline constexpr uint16_t kUserCs = 0x33, kUserCs32 = 0x23, kUserSs = 0x2b;

// What kind of code runs: 64-bit mode, and compatibility mode with 32- and 16-bit code segments.
enum class Mode : uint8_t { bits64, bits32, bits16 };
inline constexpr unsigned kModes = 3;

struct State {
  std::array<uint64_t, 16> gpr;
  uint64_t rip;  // an offset into the code segment
  uint64_t rflags;
  uint64_t fs_base;
  uint64_t gs_base;
  std::array<uint16_t, 6> selector;  // indexed by SegReg
  std::array<uint16_t, 2> unused;
  alignas(16) std::array<uint8_t, 512> fx;  // FXSAVE64 image
};

inline constexpr unsigned kLine = 64;
inline constexpr unsigned kMaxLines = 160;  // a page and a half and some more
struct Line {
  uint32_t offset;  // from kArena
  std::array<uint8_t, kLine> bytes;
};

inline constexpr uint8_t kNoFault = 0xff;
inline constexpr uint8_t kLost = 0xfe;  // did not come to an end, or killed the process

struct Outcome {
  uint8_t vector;       // kNoFault, kLost or the exception's number
  uint32_t error_code;  // 0 for exceptions without one
  uint64_t cr2;         // 0 unless #PF
  State state;
  uint32_t lines_count;  // changed lines, ascending; those behind kMaxLines are not kept
  std::array<Line, kMaxLines> lines;
};

using ArenaBytes = std::array<uint8_t, kArenaSize>;

struct Batch {
  unsigned count = 0;  // <= kSlots
  std::vector<State> states;              // kSlots
  std::vector<uint8_t> code;              // kCodeSize
  ArenaBytes arena;                       // before each sequence
  Batch() : states(kSlots), code(kCodeSize), arena{} {}
};

// Compares the arena's writable pages with `pristine`, notes the changed lines in `out` and undoes the changes.
// `page(i)` is the host address of page i; `restore(p, offset, bytes)` puts back a line of page p.
template <class Page, class Restore>
[[gnu::always_inline]] inline void collect_lines(const uint8_t* pristine, Page page, Restore restore, Outcome& out) {
  out.lines_count = 0;
  for (unsigned p = 0; p < kArenaPages; ++p) {
    if (kArenaLayout[p] != PageKind::read_write && kArenaLayout[p] != PageKind::executable) continue;
    const uint8_t* now = page(p);
    const uint8_t* then = pristine + p * kPageSize;
    for (unsigned at = 0; at < kPageSize; at += kLine) {
      if (__builtin_memcmp(now + at, then + at, kLine) == 0) continue;
      if (out.lines_count < kMaxLines) {
        Line& line = out.lines[out.lines_count];
        line.offset = static_cast<uint32_t>(p * kPageSize + at);
        __builtin_memcpy(line.bytes.data(), now + at, kLine);
      }
      ++out.lines_count;
      restore(p, at, then + at);
    }
  }
}

}  // namespace retrovisor::conformance
