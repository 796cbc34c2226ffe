#include "tests/conformance/builder.h"

#include <algorithm>
#include <cstring>

namespace retrovisor::conformance {
namespace {

constexpr uint64_t kNonCanonical = 0x0000900000000000;

uint64_t truncate(uint64_t v, unsigned bytes) { return bytes >= 8 ? v : v & ((uint64_t{1} << 8 * bytes) - 1); }

}  // namespace

Builder::Builder(const Generator& generator, uint64_t index)
    : generator_(generator), random_(generator.repertoire_.seed, index) {
  sequence_.index = index;
  sequence_.address = kCode + index % kSlots * kSlotSize;
}

uint64_t Builder::here() const {
  const uint64_t linear = sequence_.address + size_;
  return is64() ? linear : linear - base_[CS];
}

// --- start -----------------------------------------------------------------------------------------------------------

void Builder::choose_segments() {
  State& s = sequence_.start;
  const bool has_ldt = generator_.repertoire_.ldt;
  const auto any_base = [&]() -> uint64_t {
    switch (random_.pick(is64() ? 4 : 5)) {
      case 0: return kArena + random_.below(kArenaSize);
      case 4: return kArena - 0x10000 + random_.below(kArenaSize);  // 16-bit offsets reach their end in the arena
      case 1: return random_.below(0x10000);
      case 2: return (uint64_t{0} - random_.below(0x1000)) & mode_mask();
      default: return is64() ? random_.next() >> 17 : random_.next() >> 32;
    }
  };
  s.selector = {0, kUserCs, kUserSs, 0, 0, 0};
  if (is64()) {
    s.fs_base = any_base();
    s.gs_base = any_base();
  } else {
    static constexpr SegReg kHomes[] = {DS, DS, DS, ES, FS, GS};
    home_ = random_.of(kHomes);
    s.selector[CS] = kUserCs32;
    if (mode_ == Mode::bits32 && has_ldt && random_.chance(25)) s.selector[CS] = ldt::selector(ldt::code32);
    if (mode_ == Mode::bits16) {
      s.selector[CS] = ldt::selector(ldt::code16 + static_cast<unsigned>(sequence_.index % kSlots) / ldt::kWindowSlots);
    }
    const unsigned flat = mode_ == Mode::bits32 ? 60 : 25;
    if (!random_.chance(flat)) s.selector[SS] = stack_selector();
    for (const SegReg r : {ES, DS, FS, GS}) {
      s.selector[r] = kUserSs;
      if (r == home_) continue;
      if (random_.chance(5)) s.selector[r] = 0;
      if (has_ldt && !random_.chance(r == DS || r == ES ? flat : 35)) s.selector[r] = data_selector();
    }
  }
  for (unsigned r = 0; r < 6; ++r) loaded(static_cast<SegReg>(r), s.selector[r]);
  if (!is64()) {
    for (const SegReg r : {FS, GS}) {
      if (r != home_ && s.selector[r] == kUserSs) base_[r] = any_base();
    }
    s.fs_base = base_[FS];
    s.gs_base = base_[GS];
  }
  base_[FS] = s.fs_base;
  base_[GS] = s.gs_base;
}

void Builder::choose_start() {
  State& s = sequence_.start;
  const auto& modes = generator_.repertoire_.modes;
  do mode_ = static_cast<Mode>(random_.pick(kModes));
  while (!modes[static_cast<unsigned>(mode_)]);
  sequence_.mode = mode_;
  faulty_ = random_.chance(25);
  choose_segments();
  for (unsigned r = 0; r < 16; ++r) {
    switch (random_.pick(6)) {
      case 0:
      case 1: s.gpr[r] = page_address(PageKind::read_write) + random_.below(kPageSize); break;
      case 2: s.gpr[r] = random_.chance(70) ? random_.below(64) : ~random_.below(64); break;
      default: s.gpr[r] = random_.integer(); break;
    }
    if (r < 8) s.gpr[r] &= mode_mask();
  }
  uint64_t stack = stack_pointer(s.selector[SS]);
  if (random_.chance(10)) stack += random_.below(8);
  if (faulty_ && random_.chance(20)) {  // near an end of its pages
    const Window ss = window(SS);
    const uint64_t begin = ss.base == kWrap ? kWrap + kWrapSize - kPageSize : kStackBegin;
    stack = ss.offset(begin + (random_.chance(50) ? random_.below(40) : kStackEnd - kStackBegin - random_.below(40)));
    if (ss.base == kWrap && !ss.big) stack &= 0xffff;
  }
  s.gpr[RSP] = stack;
  if (is64() && faulty_ && random_.chance(2)) s.gpr[RSP] = kNonCanonical + random_.below(64);
  s.rip = here();
  s.rflags = (random_.next() & (flag::arithmetic | flag::ID)) | (random_.chance(20) ? flag::DF : 0) | flag::IF | flag::fixed;
  choose_vectors();
  for (unsigned r = 0; r < 16; ++r) known_[r] = s.gpr[r];
}

void Builder::choose_vectors() {
  State& s = sequence_.start;
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
}

// --- instructions ----------------------------------------------------------------------------------------------------

unsigned Builder::pick_register(bool written) {
  for (;;) {
    const unsigned r = random_.pick(registers());
    if (written && r == RSP && !random_.chance(10)) continue;
    return r;
  }
}

unsigned Builder::free_register(uint16_t but) {
  for (;;) {
    const unsigned r = random_.pick(registers());
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
  value &= mode_mask();
  Encoding e = short_form(0, 0xb8, reg, is64() ? 64 : 32);
  e.imm = value;
  e.imm_size = is64() ? 8 : 4;
  if (is64() && value >> 32 == 0 && random_.chance(70)) {
    e.imm_size = 4;
    e.operand = 0;
  }
  append(e, named("mov"));
  known_[reg] = value;
}

void Builder::copy_register(unsigned to, unsigned from) {
  Encoding e = register_form(0, 0x89, from, to);
  e.operand = is64() ? 64 : 32;
  append(e, named("mov"));
  known_[to] = known_[from];
}

void Builder::store_constant(uint64_t target, unsigned bytes, uint32_t value, bool tail) {
  if (bytes == 8 && !is64()) {
    store_constant(target, 4, value, tail);
    store_constant(target + 4, 4, 0, tail);
    return;
  }
  Encoding e = memory_form(0, 0xc7, 0, express(target));
  e.operand = low(bytes * 8);
  e.imm = value;
  e.imm_size = bytes == 2 ? 2 : 4;
  Item item = named("mov");
  item.tail = tail;
  append(e, item);
}

void Builder::move_sp(int64_t by) {
  if (!known_[RSP]) return;
  const uint64_t sp = *known_[RSP] + static_cast<uint64_t>(by);
  known_[RSP] = stack_bits() == 16 ? (*known_[RSP] & ~uint64_t{0xffff}) | (sp & 0xffff) : sp & mode_mask();
}

void Builder::push(unsigned reg, unsigned bits) {
  append(short_form(0, 0x50, reg, stack_operand(bits)), named("push"));
  move_sp(-static_cast<int64_t>((bits != 0 ? bits : mode_bits()) / 8));
}

void Builder::pop(unsigned reg, unsigned bits) {
  append(short_form(0, 0x58, reg, stack_operand(bits)), named("pop"));
  move_sp((bits != 0 ? bits : mode_bits()) / 8);
  known_[reg].reset();
}

void Builder::push_constant(uint32_t value, unsigned bits) {
  if (bits == 0) bits = mode_bits();
  append(plain(0x68, stack_operand(bits), value, bits == 16 ? 2 : 4), named("push"));
  move_sp(-static_cast<int64_t>(bits / 8));
}

// MOV reg, offset32.
Builder::Label Builder::load_label(unsigned reg) {
  const std::array<uint8_t, 6> b = {low(mode_ == Mode::bits16 ? 0x66 : 0x41), low(0xb8 | (reg & 7)), 0, 0, 0, 0};
  const unsigned skip = mode_ == Mode::bits16 || reg >= 8 ? 0 : 1;
  append_bytes(std::span<const uint8_t>(b.data() + skip, b.size() - skip), named("mov"));
  known_[reg].reset();
  return {sequence_.items.size() - 1};
}

void Builder::bind(const Label& label) {
  Item& item = sequence_.items[label.item];
  const auto value = static_cast<uint32_t>(here());
  std::memcpy(item.bytes.data() + item.length - 4, &value, 4);
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
  if (doubled && n >= bits && !own_model()) return false;
  item.defines = CF | PF | ZF | SF;
  item.undefines = AF;
  (n == 1 ? item.defines : item.undefines) |= OF;
  if (n >= bits && f.digit != 7) {
    item.defines &= ~CF;
    item.undefines |= CF;
  }
  return true;
}

unsigned Builder::choose_bits(const Form& f) {
  switch (f.size) {
    case Size::fixed: return 32;
    case Size::byte: return 8;
    case Size::v: {
      static constexpr uint8_t kSizes[] = {16, 32, 32, 32, 64, 64, 64};
      static constexpr uint8_t kLegacy[] = {16, 16, 32};
      return is64() ? random_.of(kSizes) : mode_ == Mode::bits32 ? 48u - random_.of(kLegacy) : random_.of(kLegacy);
    }
    case Size::y:
    case Size::vy: return !is64() || random_.chance(50) ? 32 : 64;
    case Size::stack:
      if (is64()) return random_.chance(92) ? 64 : 16;
      return random_.chance(85) ? mode_bits() : 48u - mode_bits();
  }
  return 32;
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
  if (f.piecemeal) item.open_on_fault = f.clobbers;
  item.to_mmx = f.reg == File::mmx || f.rm == File::mmx;

  const unsigned bits = choose_bits(f);
  if (f.size == Size::v || f.size == Size::vy) e.operand = low(bits);
  if (f.size == Size::y && bits == 64) e.operand = 64;
  if (f.size == Size::stack) e.operand = low(stack_operand(bits));
  e.prefix66 = f.prefix == 0x66;
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
  if (scan && bits == 32 && !own_model()) e.memory = false;

  const auto choose = [&](File file, bool written) -> unsigned {
    switch (file) {
      case File::none: return 0;
      case File::mmx:
      case File::st: return random_.pick(8);
      case File::xmm: return random_.pick(registers());
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
    item.write_open = f.write_open;
    item.order_open = bytes == 10;  // accessed in two parts: the second may leave the segment, the first meet no page
    unsigned how = f.exact_memory ? kInside | kNeverFaults : kAnywhere;
    e.lock = f.lockable && !f.atomic && random_.chance(12);
    if (e.lock || f.atomic) how |= kNaturallyAligned;
    if (f.atomic && random_.chance(10)) e.lock = true;
    e.mem = choose_memory(bytes, alignment, how);
    if (e.mem.wild && (e.lock || f.atomic)) return;
  }

  // Byte registers 4-7 are AH, CH, DH, BH without REX.
  const bool byte_high = is64() &&
                         ((f.rm == File::gpr8 && has_rm && !e.memory && e.rm >= 4 && e.rm < 8) ||
                          (f.reg == File::gpr8 && e.modrm && f.digit < 0 && e.reg >= 4 && e.reg < 8));
  if (byte_high) e.rex = random_.chance(50);
  if (is64() && random_.permille(10) && !byte_high && !e.in_opcode) e.rex = true;
  // REX.R and REX.B do not reach MMX registers.
  if (is64() && (f.rm == File::mmx || f.reg == File::mmx) && random_.chance(3)) {
    if (f.reg == File::mmx) e.rex_junk |= 4;
    if (f.rm == File::mmx && !e.memory) e.rex_junk |= 1;
  }

  if (f.shift) {
    std::optional<unsigned> count = 1;
    if (f.imm == Imm::count5) count = static_cast<unsigned>(e.imm & 0xff);
    if (f.by_cl) count = known_[RCX] ? std::optional<unsigned>(*known_[RCX] & 0xff) : std::nullopt;
    if (!shift_effects(f, bits, count, item)) return;
  }
  if (scan && bits == 32 && !own_model()) {  // or r32, imm
    Encoding set = register_form(0, 0x81, 1, e.rm);
    set.operand = 32;
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
  if (f.imm == Imm::v && bits >= 32) known_[e.rm] = truncate(e.imm, bits / 8);
  if (f.map == 0 && f.opcode == 0x8d && bits == (is64() ? 64u : 32u) && !e.mem.wild && e.mem.address == mode_bits()) {
    known_[e.reg] = window(segment_of(e.mem)).offset(e.mem.target);
  }
  if (f.pops != 0 && !(f.writes_rm && !e.memory && e.rm == RSP)) move_sp(f.pops * static_cast<int>(bits / 8));
}

bool Builder::random_form() {
  const auto& draw = generator_.draw_[static_cast<unsigned>(mode_)];
  if (draw.empty()) return false;
  form(generator_.forms_[draw[random_.below(draw.size())]]);
  return true;
}

void Builder::random_item() {
  if (random_.chance(75) && random_form()) return;
  for (unsigned attempt = 0; attempt < 32; ++attempt) {
    const auto group = static_cast<Group>(random_.pick(kGroups));
    if (!available(group)) continue;
    switch (group) {
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
      case Group::legacy:
        if (is64()) break;
        composite_legacy();
        return;
      default: break;
    }
  }
}

Sequence Builder::build() {
  choose_start();
  const unsigned wanted = generator_.repertoire_.single ? 1 : 1 + random_.pick(16);
  for (unsigned i = 0; i < wanted && !full(); ++i) random_item();
  if (own_model()) sequence_.settle(*generator_.repertoire_.own_model);
  return sequence_;
}

}  // namespace retrovisor::conformance
