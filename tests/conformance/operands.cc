// Memory operands of the builder: where they point, and how an instruction says so.
#include <algorithm>
#include <bit>
#include <utility>

#include "tests/conformance/builder.h"

namespace retrovisor::conformance {
namespace {

constexpr uint8_t kNone = 0xff;
constexpr std::array<uint8_t, 6> kPrefixes = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};

}  // namespace

// --- segments --------------------------------------------------------------------------------------------------------

uint8_t Builder::prefix_of(SegReg reg) { return kPrefixes[reg]; }

SegReg Builder::segment_of(const Memory& m) {
  for (unsigned i = 0; i < 6; ++i) {
    if (m.segment == kPrefixes[i]) return static_cast<SegReg>(i);
  }
  return m.base == RSP || m.base == RBP ? SS : DS;
}

Window Builder::window(SegReg reg) const {
  Window w;
  if (is64()) {
    const bool based = reg == FS || reg == GS;
    w.base = based ? base_[reg] : 0;
    w.last = ~uint64_t{0};
    w.big = true;
    w.readable = w.writable = !based || selector_[reg];
    return w;
  }
  w.mask = 0xffffffff;
  if (!selector_[reg]) return w;
  const auto d = descriptor_of(*selector_[reg]);
  if (!d) return w;
  w.base = base_[reg];
  w.first = d->first();
  w.last = d->last();
  w.readable = d->readable();
  w.writable = d->writable();
  w.big = d->big;
  return w;
}

void Builder::loaded(SegReg reg, uint16_t selector) {
  selector_[reg] = selector;
  const auto d = descriptor_of(selector);
  base_[reg] = d ? d->base : 0;
}

// --- targets ---------------------------------------------------------------------------------------------------------

uint64_t Builder::page_address(PageKind kind) {
  for (;;) {
    const unsigned p = random_.pick(kArenaPages);
    if (kArenaLayout[p] == kind) return kArena + p * kPageSize;
  }
}

uint64_t Builder::good_target(unsigned bytes, unsigned alignment) {
  if (alignment <= 1 && random_.chance(4)) {  // across two pages
    const uint64_t border = random_.chance(50) ? kArena + 2 * kPageSize : kStackBegin + kPageSize;
    return border - random_.below(bytes == 0 ? 1 : bytes);
  }
  uint64_t page = page_address(PageKind::read_write);
  if (!is64() && random_.chance(8)) {
    static constexpr uint64_t kAliases[] = {kTop, kWrap, kWrap + kWrapSize - kPageSize};
    page = random_.of(kAliases);
  }
  uint64_t offset = random_.below(kPageSize - bytes + 1);
  if (random_.chance(5)) offset = random_.chance(50) ? 0 : kPageSize - bytes;
  return page + (offset & ~uint64_t{alignment == 0 ? 0 : alignment - 1});
}

bool Builder::try_express(uint64_t target, const Reach& reach, Memory& out) {
  struct Pair {
    uint8_t base, index;
  };
  // SDM 2A table 2-1.
  static constexpr Pair kPairs[] = {{RBX, RSI}, {RBX, RDI}, {RBP, RSI}, {RBP, RDI}, {RSI, kNone},
                                    {RDI, kNone}, {RBP, kNone}, {RBX, kNone}, {kNone, kNone}};
  Memory m;
  m.target = target;
  m.address = mode_bits();
  if (is64() ? random_.chance(8) : random_.chance(15)) m.address = mode_ == Mode::bits32 ? 16 : 32;
  const unsigned shape = random_.pick(20);
  m.rip = is64() && shape < 2;
  uint64_t sum = 0;
  if (m.address == 16) {
    const Pair& p = random_.of(kPairs);
    m.base = p.base;
    m.index = p.index;
    for (const uint8_t r : {m.base, m.index}) {
      if (r == kNone) continue;
      if (!known_[r]) return false;
      sum += *known_[r];
    }
  } else if (!m.rip) {
    if (shape >= 3) {
      m.base = low(random_.pick(registers()));
      if (!known_[m.base]) return false;
      sum = *known_[m.base];
    }
    if (shape >= 12) {
      m.index = low(random_.pick(registers()));
      if (m.index == RSP || !known_[m.index]) return false;
      m.scale = low(random_.pick(4));
      sum += *known_[m.index] << m.scale;
    }
  }
  if (reach.segment && !is64()) {
    if (segment_of(m) != *reach.segment || random_.chance(5)) m.segment = prefix_of(*reach.segment);
  } else if (is64() ? random_.chance(8) : random_.chance(15)) {
    static constexpr SegReg kAny[] = {ES, CS, SS, DS};
    m.segment = prefix_of(!is64() && random_.chance(60) ? random_.of(kAny) : random_.chance(50) ? FS : GS);
  }
  const Window w = window(segment_of(m));
  if (!(reach.writable ? w.writable : w.readable) || !w.covers(target, reach.before, reach.after)) return false;
  const uint64_t effective = w.offset(target);
  if (m.address < 64 && effective >> m.address != 0) return false;
  // Where an operand that is accessed in parts crosses 64 KiB, 16-bit addresses may wrap around within it.
  const bool in_parts = reach.after > 16 || reach.after == 10;
  if (m.address == 16 && in_parts && effective + reach.after > 0x10000) return false;
  if (m.rip) {
    const auto distance = static_cast<int64_t>(effective - sequence_.address);
    if (distance < INT32_MIN + 4096 || distance > INT32_MAX - 4096) return false;
  } else {
    m.disp = static_cast<int32_t>(static_cast<uint32_t>(effective - sum));
    if (m.address == 64 && static_cast<uint64_t>(static_cast<int64_t>(m.disp)) != effective - sum) return false;
    if (m.address == 16) m.disp = static_cast<int16_t>(static_cast<uint16_t>(effective - sum));
  }
  out = m;
  return true;
}

Memory Builder::express(uint64_t target, const Reach& reach) {
  Memory m;
  for (unsigned attempt = 0; attempt < 12; ++attempt) {
    if (try_express(target, reach, m)) return m;
  }
  m = Memory{};
  m.target = target;
  if (!is64()) {
    const SegReg segment = reach.segment ? *reach.segment : home_;
    m.address = 32;
    m.segment = prefix_of(segment);
    m.disp = static_cast<int32_t>(static_cast<uint32_t>(window(segment).offset(target)));
  } else if (target >> 31 == 0) {
    m.address = 64;
    m.disp = static_cast<int32_t>(target);
  } else {
    // Only non-canonical targets lie that high: any address will do for the same fault, except that a register is needed.
    m.wild = true;
    m.base = low(random_.pick(16));
  }
  return m;
}

// An address outside a segment's limit, or through a segment that does not allow it.
std::optional<Memory> Builder::outside_segment(unsigned bytes, unsigned alignment, uint64_t mask) {
  static constexpr SegReg kSegments[] = {ES, CS, SS, DS, FS, GS};
  const SegReg reg = random_.of(kSegments);
  if (!selector_[reg]) return std::nullopt;
  const Window w = window(reg);
  uint64_t offset = random_.below(kArenaSize);  // any will do if nothing is allowed
  if (w.readable) {
    if (w.first == 0 && w.last == 0xffffffff) {
      if (w.writable) return std::nullopt;
      offset = w.offset(good_target(bytes, 1));
    } else if (w.first != 0) {
      offset = w.first - 1 - random_.below(bytes);
      if (!w.big && random_.chance(40)) offset = w.last + 1 - random_.below(bytes);
    } else {
      offset = w.last + 1 - random_.below(bytes) + (random_.chance(30) ? random_.below(kPageSize) : 0);
    }
  }
  // Off its alignment, too, an address would have two reasons for an exception: #SS or #GP.
  if (alignment > 1 && reg == SS) return std::nullopt;
  Memory m;
  m.segment = prefix_of(reg);
  m.address = 32;
  m.disp = static_cast<int32_t>(static_cast<uint32_t>(offset & mask));
  m.wild = true;
  return m;
}

// Registers and a displacement as they come.
std::optional<Memory> Builder::anywhere(unsigned alignment) {
  Memory m;
  m.wild = true;
  if (random_.chance(90)) m.base = low(random_.pick(registers()));
  if (random_.chance(40)) {
    m.index = low(random_.pick(registers()));
    if (m.index == RSP) m.index = kNone;
    m.scale = low(random_.pick(4));
  }
  m.disp = static_cast<int32_t>(static_cast<uint32_t>(random_.integer()));
  m.address = is64() && !random_.chance(10) ? 64 : 32;
  if (alignment > 1 && (m.base == RSP || m.base == RBP)) return std::nullopt;  // #SS or #GP: see above
  if (!is64()) {
    // Whether an operand may wrap around at the end of a 4 GiB segment is the implementation's business (SDM 3A 5.3).
    uint64_t offset = static_cast<uint32_t>(m.disp);
    for (const auto& [reg, scale] : {std::pair{m.base, uint8_t{0}}, std::pair{m.index, m.scale}}) {
      if (reg == kNone) continue;
      if (!known_[reg]) return std::nullopt;
      offset += *known_[reg] << scale;
    }
    if ((offset & 0xffffffff) > 0xffffffff - 1024) return std::nullopt;
  }
  return m;
}

// An operand that cannot be accessed, or may not be. None if the dice fell badly.
std::optional<Memory> Builder::bad_memory(unsigned bytes, unsigned alignment, bool aligned, bool inside) {
  const uint64_t mask = aligned ? ~uint64_t{bytes - 1} : ~uint64_t{0};
  const bool across = !aligned && bytes > 1 && !inside;
  switch (random_.pick(10)) {
    case 0:
    case 1: return express((page_address(PageKind::read_only) + random_.below(kPageSize - bytes)) & mask);
    case 2: return express((page_address(PageKind::none) + random_.below(kPageSize - bytes)) & mask);
    case 3:
    case 4:  // over the end of a page, into nothing or a page that may not be written
      if (across) {
        static constexpr unsigned kEnds[] = {3, 5, 7, 12};
        if (!is64() && random_.chance(15)) {  // over 4 GiB, if there is a segment whose offsets do not end there as well
          Memory m;
          const uint64_t target = kTop + kPageSize - 1 - random_.below(bytes - 1);
          return try_express(target, Reach{.after = bytes}, m) ? std::optional(m) : std::nullopt;
        }
        return express(kArena + random_.of(kEnds) * kPageSize - 1 - random_.below(bytes - 1));
      }
      break;
    case 5:  // into a page from nothing, or from one that may not be written
      if (across) {
        static constexpr unsigned kStarts[] = {1, 4, 6, 10};
        return express(kArena + random_.of(kStarts) * kPageSize - 1 - random_.below(bytes - 1));
      }
      break;
    case 6: {
      if (!is64()) return outside_segment(bytes, alignment, mask);
      for (unsigned r = 0; r < 16; ++r) {  // non-canonical
        if (!known_[r] || *known_[r] < uint64_t{1} << 48 || *known_[r] >= uint64_t{0xffff} << 48) continue;
        Memory m;
        m.base = low(r);
        m.disp = static_cast<int32_t>(random_.below(256)) - 128;
        // Off its alignment as well, an address would have two reasons for an exception.
        if (alignment > 1) m.disp = static_cast<int32_t>((uint64_t{0} - *known_[r]) & (alignment - 1));
        m.wild = true;
        return m;
      }
      break;
    }
    case 7:  // off its alignment
      if (alignment > 1 && !aligned) return express(good_target(bytes, 1));
      break;
    default:
      if (!aligned) return anywhere(alignment);
      break;
  }
  return std::nullopt;
}

Memory Builder::choose_memory(unsigned bytes, unsigned alignment, unsigned how) {
  const bool inside = (how & kInside) != 0;
  if (faulty_ && (how & kNeverFaults) == 0 && random_.chance(20)) {
    const bool aligned = (how & kNaturallyAligned) != 0 && bytes > 1;
    if (const auto bad = bad_memory(bytes, alignment, aligned, inside)) return *bad;
  }
  if ((how & kNaturallyAligned) != 0) alignment = std::max(alignment, bytes);
  if (inside) {
    return express((page_address(PageKind::read_write) + 64 + random_.below(kPageSize - 128 - bytes)) & ~uint64_t{15});
  }
  if (alignment <= 1 && std::has_single_bit(bytes) && random_.chance(50)) alignment = bytes;
  Reach reach{.after = std::max(bytes, 1u)};
  reach.writable = (how & kNeverFaults) != 0 || !random_.chance(8);
  return express(good_target(bytes, alignment), reach);
}

}  // namespace retrovisor::conformance
