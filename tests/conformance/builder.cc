#include "tests/conformance/builder.h"

#include <algorithm>
#include <cstring>

namespace retrovisor::conformance {
namespace {

constexpr uint8_t kNone = 0xff;
constexpr uint64_t kNonCanonical = 0x0000900000000000;

uint64_t truncate(uint64_t v, unsigned bytes) { return bytes >= 8 ? v : v & ((uint64_t{1} << 8 * bytes) - 1); }

}  // namespace

Builder::Builder(const Generator& generator, uint64_t index) : generator_(generator), random_(generator.seed_, index) {
  sequence_.index = index;
  sequence_.address = kCode + index % kSlots * kSlotSize;
}

uint64_t Builder::page_address(PageKind kind) {
  for (;;) {
    const unsigned p = random_.pick(kArenaPages);
    if (kArenaLayout[p] == kind) return kArena + p * kPageSize;
  }
}

uint64_t Builder::segment_base(uint8_t prefix) const {
  return prefix == 0x64 ? sequence_.start.fs_base : prefix == 0x65 ? sequence_.start.gs_base : 0;
}

void Builder::choose_start() {
  State& s = sequence_.start;
  faulty_ = random_.chance(25);
  for (unsigned r = 0; r < 16; ++r) {
    switch (random_.pick(6)) {
      case 0:
      case 1: s.gpr[r] = page_address(PageKind::read_write) + random_.below(kPageSize); break;
      case 2: s.gpr[r] = random_.chance(70) ? random_.below(64) : ~random_.below(64); break;
      default: s.gpr[r] = random_.integer(); break;
    }
  }
  s.gpr[RSP] = kStackBegin + 0x800 + random_.below(0x100) * 8;
  if (random_.chance(10)) s.gpr[RSP] += random_.below(8);
  if (faulty_ && random_.chance(20)) {
    s.gpr[RSP] = random_.chance(50) ? kStackBegin + random_.below(40) : kStackEnd - random_.below(40);
    if (random_.chance(10)) s.gpr[RSP] = kNonCanonical + random_.below(64);
  }
  s.rip = sequence_.address;
  s.rflags = (random_.next() & (flag::arithmetic | flag::ID)) | (random_.chance(20) ? flag::DF : 0) | flag::IF | flag::fixed;
  const auto any_base = [&]() -> uint64_t {
    switch (random_.pick(4)) {
      case 0: return kArena + random_.below(kArenaSize);
      case 1: return random_.below(0x10000);
      case 2: return uint64_t{0} - random_.below(0x1000);
      default: return random_.next() >> 17;
    }
  };
  s.fs_base = any_base();
  s.gs_base = any_base();

  // The FXSAVE image.
  const auto put = [&](size_t at, auto value) { std::memcpy(s.fx.data() + at, &value, sizeof value); };
  uint16_t fcw = 0x37f;
  if (random_.chance(40)) {
    static constexpr uint16_t kPrecision[] = {0x000, 0x200, 0x300};
    fcw = static_cast<uint16_t>(0x40 | random_.of(kPrecision) | random_.pick(4) << 10 | 0x3f);
    if (random_.chance(25)) fcw = static_cast<uint16_t>(fcw & ~random_.pick(64));
  }
  uint16_t fsw = static_cast<uint16_t>(random_.next() & 0x7f00);          // TOP, C0-C3; bit 7 stays clear
  fsw = static_cast<uint16_t>(fsw | (random_.next() & 0x7f & (fcw | 0x40)));  // masked flags, SF
  if ((fsw & 1) == 0) fsw = static_cast<uint16_t>(fsw & ~0x40);
  if (random_.permille(15) && (fcw & 0x3f) != 0x3f) {
    const unsigned pending = ~fcw & 0x3fu & static_cast<unsigned>(random_.next());
    if (pending != 0) fsw = static_cast<uint16_t>(fsw | pending | 0x8080);
  }
  put(0, fcw);
  put(2, fsw);
  s.fx[4] = static_cast<uint8_t>(random_.chance(40) ? 0xff : random_.next());
  uint32_t mxcsr = 0x1f80;
  if (random_.chance(40)) {
    mxcsr = 0x1f80 | static_cast<uint32_t>(random_.next() & 0xe07f);  // flags, DAZ, RC, FTZ
    if (random_.chance(25)) mxcsr &= ~(static_cast<uint32_t>(random_.pick(64)) << 7);
  }
  put(24, mxcsr);
  for (unsigned i = 0; i < 8; ++i) {
    const Random::Extended x = random_.extended();
    put(32 + 16 * i, x.significand);
    put(32 + 16 * i + 8, x.sign_exponent);
  }
  for (unsigned i = 0; i < 16; ++i) {
    const size_t at = 160 + 16 * i;
    switch (random_.pick(4)) {
      case 0:
        for (unsigned k = 0; k < 4; ++k) put(at + 4 * k, random_.single());
        break;
      case 1:
        for (unsigned k = 0; k < 2; ++k) put(at + 8 * k, random_.real());
        break;
      default:
        for (unsigned k = 0; k < 2; ++k) put(at + 8 * k, random_.integer());
        break;
    }
  }
  for (unsigned r = 0; r < 16; ++r) known_[r] = s.gpr[r];
}

// --- memory operands -------------------------------------------------------------------------------------------------

uint64_t Builder::good_target(unsigned bytes, unsigned alignment) {
  if (alignment <= 1 && random_.chance(4)) {  // across two pages
    const uint64_t border = random_.chance(50) ? kArena + 2 * kPageSize : kStackBegin + kPageSize;
    return border - random_.below(bytes == 0 ? 1 : bytes);
  }
  const uint64_t page = page_address(PageKind::read_write);
  uint64_t offset = random_.below(kPageSize - bytes + 1);
  if (random_.chance(5)) offset = random_.chance(50) ? 0 : kPageSize - bytes;
  return page + (offset & ~uint64_t{alignment == 0 ? 0 : alignment - 1});
}

bool Builder::try_express(uint64_t target, Memory& out) {
  Memory m;
  m.target = target;
  if (random_.chance(8)) m.segment = random_.chance(50) ? 0x64 : 0x65;
  const uint64_t effective = target - segment_base(m.segment);
  m.addr32 = random_.chance(8);
  const unsigned shape = random_.pick(20);
  if (shape == 0 || shape == 1) {
    m.rip = true;
    if (m.addr32 && effective >> 32 != 0) return false;
    const auto distance = static_cast<int64_t>(effective - sequence_.address);
    if (distance < INT32_MIN + 4096 || distance > INT32_MAX - 4096) return false;
    out = m;
    return true;
  }
  uint64_t sum = 0;
  if (shape >= 3) {
    m.base = static_cast<uint8_t>(random_.pick(16));
    if (!known_[m.base]) return false;
    sum = *known_[m.base];
  }
  if (shape >= 12) {
    m.index = static_cast<uint8_t>(random_.pick(16));
    if (m.index == RSP || !known_[m.index]) return false;
    m.scale = static_cast<uint8_t>(random_.pick(4));
    sum += *known_[m.index] << m.scale;
  }
  if (m.addr32) {
    if (effective >> 32 != 0) return false;
    m.disp = static_cast<int32_t>(static_cast<uint32_t>(effective - sum));
  } else {
    m.disp = static_cast<int32_t>(static_cast<uint32_t>(effective - sum));
    if (static_cast<uint64_t>(static_cast<int64_t>(m.disp)) != effective - sum) return false;
  }
  out = m;
  return true;
}

Memory Builder::express(uint64_t target) {
  Memory m;
  for (unsigned attempt = 0; attempt < 12; ++attempt) {
    if (try_express(target, m)) return m;
  }
  m = Memory{};
  m.target = target;
  if (target >> 31 == 0) {
    m.disp = static_cast<int32_t>(target);
  } else {
    // Only non-canonical targets lie that high: any address will do for the same fault, except that a register is needed.
    m.wild = true;
    m.base = static_cast<uint8_t>(random_.pick(16));
  }
  return m;
}

Memory Builder::choose_memory(unsigned bytes, unsigned alignment, unsigned how) {
  if (faulty_ && (how & kNeverFaults) == 0 && random_.chance(20)) {
    const bool aligned = (how & kNaturallyAligned) != 0 && bytes > 1;
    const uint64_t mask = aligned ? ~uint64_t{bytes - 1} : ~uint64_t{0};
    switch (random_.pick(10)) {
      case 0:
      case 1: return express((page_address(PageKind::read_only) + random_.below(kPageSize - bytes)) & mask);
      case 2: return express((page_address(PageKind::none) + random_.below(kPageSize - bytes)) & mask);
      case 3:
      case 4:  // over the end of a page, into nothing or a page that may not be written
        if (!aligned && bytes > 1 && (how & kInside) == 0) {
          static constexpr unsigned kEnds[] = {3, 5, 7, 12};
          return express(kArena + random_.of(kEnds) * kPageSize - 1 - random_.below(bytes - 1));
        }
        break;
      case 5:  // into a page from nothing, or from one that may not be written
        if (!aligned && bytes > 1 && (how & kInside) == 0) {
          static constexpr unsigned kStarts[] = {1, 4, 6, 10};
          return express(kArena + random_.of(kStarts) * kPageSize - 1 - random_.below(bytes - 1));
        }
        break;
      case 6: {  // non-canonical
        for (unsigned r = 0; r < 16; ++r) {
          if (!known_[r] || *known_[r] < uint64_t{1} << 48 || *known_[r] >= uint64_t{0xffff} << 48) continue;
          Memory m;
          m.base = static_cast<uint8_t>(r);
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
        if (!aligned) {  // anywhere
          Memory m;
          m.wild = true;
          m.base = random_.chance(90) ? static_cast<uint8_t>(random_.pick(16)) : kNone;
          if (random_.chance(40)) {
            m.index = static_cast<uint8_t>(random_.pick(16));
            if (m.index == RSP) m.index = kNone;
            m.scale = static_cast<uint8_t>(random_.pick(4));
          }
          m.disp = static_cast<int32_t>(static_cast<uint32_t>(random_.integer()));
          m.addr32 = random_.chance(10);
          if (alignment > 1 && (m.base == RSP || m.base == RBP)) break;  // #SS or #GP: see above
          return m;
        }
        break;
    }
  }
  if ((how & kNaturallyAligned) != 0) alignment = std::max(alignment, bytes);
  if ((how & kInside) != 0) {
    return express((page_address(PageKind::read_write) + 64 + random_.below(kPageSize - 128 - bytes)) & ~uint64_t{15});
  }
  if (alignment <= 1 && std::has_single_bit(bytes) && random_.chance(50)) alignment = bytes;
  return express(good_target(bytes, alignment));
}

// --- encoding --------------------------------------------------------------------------------------------------------

void Builder::append(const Encoding& e, Item item) {
  need(item.reads);
  std::array<uint8_t, 32> b{};
  unsigned n = 0;
  std::array<uint8_t, 8> prefixes{};
  unsigned count = 0;
  if (e.operand16) prefixes[count++] = 0x66;
  if (e.rep != 0) prefixes[count++] = e.rep;
  if (e.lock) prefixes[count++] = 0xf0;
  if (e.memory && e.mem.addr32) prefixes[count++] = 0x67;
  if (e.memory && e.mem.segment != 0) prefixes[count++] = e.mem.segment;
  if (random_.permille(15)) {  // a segment prefix that 64-bit mode ignores
    static constexpr uint8_t kIgnored[] = {0x26, 0x2e, 0x36, 0x3e};
    prefixes[count++] = random_.of(kIgnored);
  }
  for (unsigned i = 0; i < count; ++i) {  // in any order
    const unsigned k = i + random_.pick(count - i);
    std::swap(prefixes[i], prefixes[k]);
    b[n++] = prefixes[i];
  }
  uint8_t rex = 0;
  if (e.rex_w) rex |= 8;
  if (e.modrm && e.reg >= 8) rex |= 4;
  if (e.memory) {
    if (e.mem.index != kNone && e.mem.index >= 8) rex |= 2;
    if (e.mem.base != kNone && e.mem.base >= 8) rex |= 1;
  } else if ((e.modrm || e.in_opcode) && e.rm >= 8) {
    rex |= 1;
  }
  rex |= e.rex_junk;
  if (rex != 0 || e.rex) b[n++] = static_cast<uint8_t>(0x40 | rex);
  if (e.map != 0) b[n++] = 0x0f;
  if (e.map >= 2) b[n++] = e.map == 2 ? 0x38 : 0x3a;
  b[n++] = static_cast<uint8_t>(e.in_opcode ? e.opcode | (e.rm & 7) : e.opcode);
  unsigned disp_at = 0;
  if (e.modrm) {
    const unsigned reg = (e.reg & 7u) << 3;
    if (!e.memory) {
      b[n++] = static_cast<uint8_t>(0xc0 | reg | (e.rm & 7));
    } else if (e.mem.rip) {
      b[n++] = static_cast<uint8_t>(0x05 | reg);
      disp_at = n;
      n += 4;
    } else {
      const Memory& m = e.mem;
      const bool small = m.disp >= -128 && m.disp < 128;
      unsigned mod = 0;
      if (m.base != kNone) {
        if (m.disp == 0 && (m.base & 7) != 5) {
          mod = random_.chance(90) ? 0 : 1 + random_.pick(2);
        } else {
          mod = small && random_.chance(95) ? 1 : 2;
        }
      }
      const bool sib = m.base == kNone || m.index != kNone || (m.base & 7) == 4;
      b[n++] = static_cast<uint8_t>(mod << 6 | reg | (sib ? 4 : m.base & 7u));
      if (sib) {
        const unsigned index = m.index == kNone ? 4 : m.index & 7u;
        b[n++] = static_cast<uint8_t>(m.scale * 64u | index << 3 | (m.base == kNone ? 5 : m.base & 7u));
      }
      const unsigned bytes = m.base == kNone ? 4 : mod == 0 ? 0 : mod == 1 ? 1 : 4;
      std::memcpy(b.data() + n, &m.disp, bytes);
      n += bytes;
    }
  }
  std::memcpy(b.data() + n, &e.imm, e.imm_size);
  n += e.imm_size;
  if (e.memory && e.mem.rip) {
    const auto disp = static_cast<uint32_t>(e.mem.target - segment_base(e.mem.segment) - (sequence_.address + size_ + n));
    std::memcpy(b.data() + disp_at, &disp, 4);
  }
  if (n > 15) return;  // rather leave it out than run into #GP
  append_bytes(std::span<const uint8_t>(b.data(), n), item);
}

void Builder::append_bytes(std::span<const uint8_t> bytes, Item item) {
  std::copy(bytes.begin(), bytes.end(), item.bytes.begin());
  item.length = static_cast<uint8_t>(bytes.size());
  note(item);
  size_ += item.length;
  sequence_.items.push_back(item);
}

void Builder::append_bytes(std::initializer_list<uint8_t> bytes, const char* name, Status defines, Status undefines,
                           Status reads) {
  need(reads);
  Item item;
  item.name = name;
  item.defines = defines;
  item.undefines = undefines;
  item.reads = reads;
  append_bytes(std::span<const uint8_t>(bytes.begin(), bytes.size()), item);
}

void Builder::note(const Item& item) { undefined_ = (undefined_ & ~item.defines) | item.undefines; }

void Builder::need(Status reads) {
  if ((reads & undefined_ & status::flags) != 0) {  // cmp r, imm8
    Encoding e;
    e.opcode = 0x83;
    e.modrm = true;
    e.reg = 7;
    e.rm = static_cast<uint8_t>(random_.pick(16));
    e.rex_w = random_.chance(50);
    e.imm = random_.next() & 0xff;
    e.imm_size = 1;
    Item item;
    item.name = "cmp";
    item.defines = status::flags;
    append(e, item);
  }
  if ((reads & undefined_ & status::x87) != 0) append_bytes({0xd9, 0xe5}, "fxam", status::x87);
}

// --- instructions ----------------------------------------------------------------------------------------------------

unsigned Builder::pick_register(bool written) {
  for (;;) {
    const unsigned r = random_.pick(16);
    if (written && r == RSP && !random_.chance(10)) continue;
    return r;
  }
}

unsigned Builder::free_register(uint16_t but) {
  for (;;) {
    const unsigned r = random_.pick(16);
    if (r != RSP && (but >> r & 1) == 0) return r;
  }
}

void Builder::forget(uint16_t registers) {
  for (unsigned r = 0; r < 16; ++r) {
    if ((registers >> r & 1) != 0) known_[r].reset();
  }
}

void Builder::forget8(unsigned code) {
  known_[code].reset();
  if (code >= 4 && code < 8) known_[code - 4].reset();  // AH, CH, DH, BH
}

void Builder::set_register(unsigned reg, uint64_t value) {
  Encoding e;
  e.in_opcode = true;
  e.rm = static_cast<uint8_t>(reg);
  e.imm = value;
  e.opcode = 0xb8;
  e.imm_size = 8;
  e.rex_w = true;
  if (value >> 32 == 0 && random_.chance(70)) {
    e.imm_size = 4;
    e.rex_w = false;
  }
  Item item;
  item.name = "mov";
  append(e, item);
  known_[reg] = value;
}

void Builder::store_constant(uint64_t target, unsigned bytes, uint32_t value, bool tail) {
  Encoding e;
  e.opcode = 0xc7;
  e.modrm = e.memory = true;
  e.mem = express(target);
  e.operand16 = bytes == 2;
  e.rex_w = bytes == 8;
  e.imm = value;
  e.imm_size = bytes == 2 ? 2 : 4;
  Item item;
  item.tail = tail;
  item.name = "mov";
  append(e, item);
}

void Builder::load_address(unsigned reg, int64_t from_end) {
  Encoding e;
  e.opcode = 0x8d;
  e.rex_w = e.modrm = e.memory = true;
  e.reg = static_cast<uint8_t>(reg);
  e.mem.rip = true;
  // Its own length is 7: 48 8D 05 disp32 (an ignored prefix would make it 8, so it is encoded here without).
  const auto disp = static_cast<uint32_t>(from_end);
  const std::array<uint8_t, 7> b = {static_cast<uint8_t>(0x48 | (reg >= 8 ? 4 : 0)),
                                    0x8d,
                                    static_cast<uint8_t>(0x05 | (reg & 7) << 3),
                                    static_cast<uint8_t>(disp),
                                    static_cast<uint8_t>(disp >> 8),
                                    static_cast<uint8_t>(disp >> 16),
                                    static_cast<uint8_t>(disp >> 24)};
  Item item;
  item.name = "lea";
  append_bytes(b, item);
  known_[reg] = sequence_.address + size_ + static_cast<uint64_t>(from_end);
}

uint64_t Builder::immediate(const Form& f, unsigned bits, uint8_t& size) {
  switch (f.imm) {
    case Imm::none: size = 0; return 0;
    case Imm::b: size = 1; return random_.chance(50) ? random_.next() & 0xff : random_.integer() & 0xff;
    case Imm::count5: size = 1; return random_.chance(90) ? random_.below(bits + 2) : random_.next() & 0xff;
    case Imm::small: size = 1; return random_.below(8);
    case Imm::cmpstr: size = 1; return random_.below(128);
    case Imm::z: size = bits == 16 ? 2 : 4; return random_.integer();
    case Imm::v:
      size = static_cast<uint8_t>(bits / 8);
      return random_.chance(40) ? good_target(16, 1) : random_.integer();
  }
  return 0;
}

// What a shift or rotate does to the flags. `count` as encoded, or unknown. False: do not use it, its result is undefined.
bool Builder::shift_effects(const Form& f, unsigned bits, std::optional<unsigned> count, Item& item) {
  using namespace status;
  const bool doubled = f.map == 1;
  const bool rotate = !doubled && f.digit < 4;
  if (!doubled && (f.digit == 2 || f.digit == 3)) item.reads |= CF;
  if (!count) {
    item.undefines = rotate ? OF : OF | AF | (bits < 32 ? CF : 0);
    return true;
  }
  const unsigned n = *count & (bits == 64 ? 63 : 31);
  if (n == 0) return true;
  if (rotate) {
    item.defines = CF;
    (n == 1 ? item.defines : item.undefines) |= OF;
    return true;
  }
  if (doubled && n >= bits) return false;
  item.defines = CF | PF | ZF | SF;
  item.undefines = AF;
  (n == 1 ? item.defines : item.undefines) |= OF;
  if (n >= bits && f.digit != 7) {
    item.defines &= ~CF;
    item.undefines |= CF;
  }
  return true;
}

void Builder::form(const Form& f) {
  if (f.approximate && depth_ != 0) return;
  Encoding e;
  Item item;
  item.name = f.name;
  item.defines = f.defines;
  item.undefines = f.undefines;
  item.reads = f.reads;
  item.approximate = f.approximate;
  item.to_mmx = f.reg == File::mmx || f.rm == File::mmx;

  unsigned bits = 32;
  switch (f.size) {
    case Size::fixed: break;
    case Size::byte: bits = 8; break;
    case Size::v: {
      static constexpr uint8_t kSizes[] = {16, 32, 32, 32, 64, 64, 64};
      bits = random_.of(kSizes);
      break;
    }
    case Size::y: bits = random_.chance(50) ? 32 : 64; break;
    case Size::stack: bits = random_.chance(92) ? 64 : 16; break;
  }
  e.operand16 = bits == 16 || f.prefix == 0x66;
  e.rex_w = bits == 64 && f.size != Size::stack;
  e.rep = f.prefix == 0x66 ? uint8_t{0} : f.prefix;
  e.map = f.map;
  e.opcode = f.opcode;
  e.imm = immediate(f, bits, e.imm_size);
  e.modrm = f.digit != op::in_opcode && f.digit != op::none;
  e.in_opcode = f.digit == op::in_opcode;

  const bool has_rm = e.modrm || e.in_opcode;
  e.memory = e.modrm && f.rm_memory && (!f.rm_register || random_.chance(45));
  // BSF and BSR of 0 with a 32-bit destination: whether bits 63-32 are cleared is the implementation's business.
  const bool scan = f.map == 1 && (f.opcode == 0xbc || f.opcode == 0xbd) && f.prefix == 0;
  if (scan && bits == 32) e.memory = false;

  const auto choose = [&](File file, bool written) -> unsigned {
    switch (file) {
      case File::none: return 0;
      case File::mmx:
      case File::st: return random_.pick(8);
      case File::xmm: return random_.pick(16);
      default: return pick_register(written);
    }
  };
  e.reg = f.digit >= 0 ? static_cast<uint8_t>(f.digit) : static_cast<uint8_t>(choose(f.reg, f.writes_reg));
  if (has_rm && !e.memory) e.rm = static_cast<uint8_t>(choose(f.rm, f.writes_rm));
  if (f.rm == File::none && e.modrm && !e.memory) e.rm = static_cast<uint8_t>(random_.pick(8));  // fences

  if (e.memory) {
    unsigned bytes = f.memory != 0 ? f.memory : bits / 8;
    unsigned alignment = f.aligned ? bytes : 1;
    if (f.map == 1 && f.opcode == 0xc7 && f.size == Size::y) {  // CMPXCHG8B, CMPXCHG16B
      bytes *= 2;
      alignment = bytes == 16 ? 16 : 1;
    }
    // Also x87 stores: an unmasked exception may hold them back.
    item.alignment_open = (bytes > 8 && !f.aligned) || (f.group == Group::x87 && f.writes_rm);
    unsigned how = f.exact_memory ? kInside | kNeverFaults : kAnywhere;
    e.lock = f.lockable && !f.atomic && random_.chance(12);
    if (e.lock || f.atomic) how |= kNaturallyAligned;
    if (f.atomic && random_.chance(10)) e.lock = true;
    e.mem = choose_memory(bytes, alignment, how);
    if (e.mem.wild && (e.lock || f.atomic)) return;
  }

  // Byte registers 4-7 are AH, CH, DH, BH without REX.
  const bool byte_high = (f.rm == File::gpr8 && has_rm && !e.memory && e.rm >= 4 && e.rm < 8) ||
                         (f.reg == File::gpr8 && e.modrm && f.digit < 0 && e.reg >= 4 && e.reg < 8);
  if (byte_high) e.rex = random_.chance(50);
  if (random_.permille(10) && !byte_high && !e.in_opcode) e.rex = true;
  if ((f.rm == File::mmx || f.reg == File::mmx) && random_.chance(3)) {  // REX.R and REX.B do not reach MMX registers
    if (f.reg == File::mmx) e.rex_junk |= 4;
    if (f.rm == File::mmx && !e.memory) e.rex_junk |= 1;
  }

  if (f.shift) {
    std::optional<unsigned> count = 1;
    if (f.imm == Imm::count5) count = static_cast<unsigned>(e.imm & 0xff);
    if (f.by_cl) count = known_[RCX] ? std::optional<unsigned>(*known_[RCX] & 0xff) : std::nullopt;
    if (!shift_effects(f, bits, count, item)) return;
  }
  if (scan && bits == 32) {  // or r32, imm
    Encoding set;
    set.opcode = 0x81;
    set.modrm = true;
    set.reg = 1;
    set.rm = e.rm;
    set.imm = uint64_t{1} << random_.pick(32);
    set.imm_size = 4;
    Item before;
    before.name = "or";
    before.defines = status::flags & ~status::AF;
    before.undefines = status::AF;
    append(set, before);
    known_[e.rm].reset();
  }
  need(item.reads);
  ended_ = f.approximate;
  const std::optional<uint64_t> sp = known_[RSP];
  const size_t items = sequence_.items.size();
  append(e, item);
  if (sequence_.items.size() == items) return;

  // What registers hold now.
  const bool byte_rm = f.rm == File::gpr8, gpr_rm = f.rm == File::gpr || f.rm == File::gpr32;
  const bool gpr_reg = f.reg == File::gpr || f.reg == File::gpr32;
  forget(f.clobbers);
  if (f.writes_rm && has_rm && !e.memory) {
    if (byte_rm) forget8(e.rm);
    if (gpr_rm) known_[e.rm].reset();
  }
  if (f.writes_reg && f.reg == File::gpr8) forget8(e.reg);
  if (f.writes_reg && gpr_reg) known_[e.reg].reset();
  if (f.imm == Imm::v && bits == 64) known_[e.rm] = e.imm;
  if (f.imm == Imm::v && bits == 32) known_[e.rm] = truncate(e.imm, 4);
  if (f.map == 0 && f.opcode == 0x8d && bits == 64 && !e.mem.wild && !e.mem.addr32) {
    known_[e.reg] = e.mem.target - segment_base(e.mem.segment);
  }
  if (f.size == Size::stack && f.opcode != 0xc9 && !(f.writes_rm && !e.memory && e.rm == RSP)) {
    const bool pops = f.opcode == 0x58 || f.opcode == 0x8f;
    if (sp) known_[RSP] = pops ? *sp + bits / 8 : *sp - bits / 8;
  }
}

void Builder::random_item() {
  if (random_.chance(75) && !generator_.draw_.empty()) {
    form(generator_.forms_[generator_.draw_[random_.below(generator_.draw_.size())]]);
    return;
  }
  for (unsigned attempt = 0; attempt < 32; ++attempt) {
    const unsigned group = random_.pick(kGroups);
    if ((generator_.groups_ >> group & 1) == 0) continue;
    switch (static_cast<Group>(group)) {
      case Group::integer: composite_integer(); return;
      case Group::bits: composite_bits(); return;
      case Group::control: composite_control(); return;
      case Group::string: composite_string(); return;
      case Group::system: composite_system(); return;
      case Group::x87: composite_x87(); return;
      case Group::sse: composite_sse(); return;
      case Group::fault:
        if (random_.chance(15)) composite_fault();
        return;
      default: break;
    }
  }
}

Sequence Builder::build() {
  choose_start();
  const unsigned wanted = 1 + random_.pick(16);
  for (unsigned i = 0; i < wanted && !full(); ++i) random_item();
  return sequence_;
}

}  // namespace retrovisor::conformance
