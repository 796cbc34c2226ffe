#include "tests/conformance/segments.h"

#include "vmm/cpu/registers.h"

namespace retrovisor::conformance {
namespace {

using Kind = Descriptor::Kind;

Descriptor flat() {
  Descriptor d;
  d.limit = 0xfffff;
  d.pages = true;
  return d;
}

Descriptor make(uint64_t base, uint32_t limit, Kind kind, bool big) {
  Descriptor d;
  d.base = static_cast<uint32_t>(base);
  d.limit = limit;
  d.kind = kind;
  d.big = big;
  return d;
}

std::array<Descriptor, ldt::count> build() {
  std::array<Descriptor, ldt::count> t{};
  constexpr uint32_t kWindow = ldt::kWindowSlots * kSlotSize;
  static_assert(kWindow <= 0x10000);
  for (unsigned i = 0; i < ldt::kWindows; ++i) {
    t[ldt::code16 + i] = make(kCode + i * kWindow, kWindow - 1, Kind::code, false);
  }
  t[ldt::code32] = make(kCode - kPageSize, kPageSize + kCodeSize - 1, Kind::code, true);
  t[ldt::execute_only] = make(kArena, kArenaSize - 1, Kind::code, true);
  t[ldt::execute_only].open = false;
  t[ldt::absent_code] = t[ldt::code32];
  t[ldt::absent_code].present = false;
  t[ldt::short_code] = make(kExecutable, 0x7ff, Kind::code, true);
  t[ldt::short_code16] = make(kExecutable + 0x800 - 0x10000, 0xffff, Kind::code, false);
  t[ldt::long_code16] = make(kExecutable + 0x800 - 0x10000, 0xfffff, Kind::code, false);
  t[ldt::long_code16].pages = true;
  t[ldt::arena_code32] = make(kArena, kArenaSize - 1, Kind::code, true);
  t[ldt::arena_code16] = make(kArena, kArenaSize - 1, Kind::code, false);
  t[ldt::arena] = make(kArena, kArenaSize - 1, Kind::data, true);
  t[ldt::small] = make(kArena + kPageSize, 2 * kPageSize - 1, Kind::data, false);
  t[ldt::read_only] = t[ldt::arena];
  t[ldt::read_only].open = false;
  t[ldt::down32] = make(kArena, 2 * kPageSize - 1, Kind::stack, true);
  t[ldt::down16] = make(kArena, kPageSize + 0x7f, Kind::stack, false);
  t[ldt::high] = flat();
  t[ldt::high].base = static_cast<uint32_t>(kTop);
  t[ldt::absent] = t[ldt::arena];
  t[ldt::absent].present = false;
  t[ldt::wrap16] = make(kWrap, kWrapSize - 1, Kind::data, false);
  t[ldt::wrap32] = make(kWrap, kWrapSize - 1, Kind::data, true);
  t[ldt::stack32] = make(kStackBegin - 4 * kPageSize, 4 * kPageSize - 1, Kind::stack, true);
  t[ldt::stack16] = make(kStackEnd - 0x10000, 0xdfff, Kind::stack, false);
  t[ldt::odd] = make(kArena + kPageSize + 3, 0xffb, Kind::data, true);
  t[ldt::paged] = make(kArena, 2, Kind::data, true);
  t[ldt::paged].pages = true;
  return t;
}

}  // namespace

uint64_t Descriptor::encoded() const {
  uint64_t attributes = seg::S | seg::DPL | seg::accessed;
  if (code()) attributes |= seg::code;
  if (kind == Kind::stack) attributes |= seg::conforming_or_down;
  if (open) attributes |= seg::readable_or_writable;
  if (present) attributes |= seg::P;
  if (long_code) attributes |= seg::L;
  if (big && !long_code) attributes |= seg::DB;
  if (pages) attributes |= seg::G;
  return (limit & 0xffff) | uint64_t{base & 0xffffff} << 16 | (attributes & 0xff) << 40 | uint64_t{limit >> 16 & 0xf} << 48 |
         (attributes >> 12 & 0xf) << 52 | uint64_t{base >> 24} << 56;
}

const std::array<Descriptor, ldt::count>& local_descriptors() {
  static const std::array<Descriptor, ldt::count> table = build();
  return table;
}

std::optional<Descriptor> descriptor_of(uint16_t selector) {
  if ((selector & 4) != 0) {
    const unsigned index = selector >> 3;
    return index < ldt::count ? std::optional(local_descriptors()[index]) : std::nullopt;
  }
  Descriptor d = flat();
  switch (selector | 3) {
    case kUserSs: return d;
    case kUserCs:
    case kUserCs32:
      d.kind = Kind::code;
      d.long_code = (selector | 3) == kUserCs;
      return d;
    default: return std::nullopt;
  }
}

uint64_t linear_ip(const State& state) {
  const auto cs = descriptor_of(state.selector[CS]);
  if (!cs || cs->base == 0) return state.rip;
  return (state.rip + cs->base) & 0xffffffff;
}

}  // namespace retrovisor::conformance
