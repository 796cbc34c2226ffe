// Items that need more than one instruction to make sense: a count or a pointer is set up first.
#include "tests/conformance/builder.h"

namespace retrovisor::conformance {

using namespace status;

// --- integer ---------------------------------------------------------------------------------------------------------

void Builder::divide() {
  static constexpr unsigned kSizes[] = {8, 16, 32, 64};
  const unsigned bits = is64() ? random_.of(kSizes) : kSizes[random_.pick(3)];
  const bool is_signed = random_.chance(50);
  const bool memory = random_.chance(30);
  const unsigned divisor = free_register(1 << RAX | 1 << RDX);
  if (!memory) set_register(divisor, random_.integer() | (random_.chance(98) ? 1 : 0));
  if (bits == 8) {
    if (is_signed) {
      append(plain(0x98, 16), named("cbw"));
    } else {
      append_bytes({0x0f, 0xb6, 0xc0}, "movzx");
    }
    known_[RAX].reset();
  } else if (is_signed) {
    append(plain(0x99, bits), named("cwd"));
    known_[RDX].reset();
  } else if (random_.chance(80)) {
    set_register(RDX, random_.below(8));
  }
  const unsigned digit = is_signed ? 7 : 6;
  const unsigned opcode = bits == 8 ? 0xf6 : 0xf7;
  Encoding e = register_form(0, opcode, digit, divisor);
  if (memory) e = memory_form(0, opcode, digit, choose_memory(bits / 8, 1, kAnywhere));
  if (bits != 8) e.operand = low(bits);
  if (is64() && bits == 8 && !memory) e.rex = true;  // SPL and so on rather than AH
  append(e, named(is_signed ? "idiv" : "div", 0, flags));
  forget(1 << RAX | 1 << RDX);
}

// CMPXCHG that succeeds: the accumulator is loaded from the operand first.
void Builder::compare_exchange() {
  const bool wide = random_.chance(40);
  const bool quad = is64() && random_.chance(50);
  const unsigned operand = quad ? 64 : 32;
  const unsigned bytes = operand / 8 * (wide ? 2 : 1);
  const uint64_t target = good_target(bytes, bytes);
  const auto load = [&](unsigned reg, uint64_t from) {
    Encoding e = memory_form(0, 0x8b, reg, express(from));
    e.operand = low(operand);
    append(e, named("mov"));
    known_[reg].reset();
  };
  load(RAX, target);
  if (wide) load(RDX, target + operand / 8);
  const Memory m = express(target);
  Encoding e = wide ? memory_form(1, 0xc7, 1, m) : memory_form(1, 0xb1, random_.pick(registers()), m);
  if (quad || !wide) e.operand = low(operand);
  e.lock = random_.chance(60);
  append(e, named("cmpxchg", wide ? ZF : flags));
  forget(wide ? 1 << RAX | 1 << RDX : 1 << RAX);
}

void Builder::pop_flags() {
  uint32_t value = static_cast<uint32_t>(random_.next()) & (flag::arithmetic | flag::DF | flag::fixed);
  if (random_.chance(4)) value |= static_cast<uint32_t>(flag::AC);
  if (random_.chance(10)) value |= static_cast<uint32_t>(flag::NT);
  if (random_.chance(30)) value |= static_cast<uint32_t>(flag::ID);
  if (random_.chance(20)) value |= static_cast<uint32_t>(flag::IOPL | flag::IF);  // no effect without the privilege
  const unsigned bits = random_.chance(20) ? 16 : is64() ? 64 : 32;
  push_constant(value, bits);
  append(plain(0x9d, stack_operand(bits)), named("popf", flags));
  move_sp(bits / 8);
}

void Builder::enter() {
  const unsigned size = random_.pick(128);
  const unsigned level = random_.chance(70) ? 0 : random_.chance(80) ? random_.pick(5) : random_.pick(256);
  copy_register(RBP, RSP);  // nested frames read below it
  const bool narrow = random_.chance(10);
  const unsigned other = mode_bits() == 16 ? 32 : 16;
  Item item = named("enter");
  item.alignment_open = true;
  append(plain(0xc8, narrow ? other : 0, size | level << 16, 3), item);
  if (level == 0 && !narrow && known_[RSP] && stack_bits() == mode_bits()) {
    move_sp(-static_cast<int64_t>(mode_bits() / 8));
    known_[RBP] = known_[RSP];
    move_sp(-static_cast<int64_t>(size));
  } else {
    forget(1 << RBP | 1 << RSP);
  }
  if (random_.chance(60)) {
    append(plain(0xc9), named("leave"));
    forget(1 << RBP | 1 << RSP);
  }
}

// MOV with an offset in the instruction.
void Builder::move_absolute() {
  static constexpr unsigned kSizes[] = {1, 2, 4, 8};
  const unsigned bytes = is64() ? random_.of(kSizes) : kSizes[random_.pick(3)];
  const bool store = random_.chance(50);
  uint64_t target = choose_memory(bytes, 1, kAnywhere).target;
  Encoding e = plain(0xa0u | (store ? 2u : 0u) | (bytes == 1 ? 0u : 1u), bytes == 1 ? 0 : bytes * 8);
  if (is64()) {
    const bool narrow = random_.chance(30) && target >> 32 == 0;
    const SegReg segment = random_.chance(50) ? FS : GS;
    if (!narrow && random_.chance(20) && window(segment).readable) {
      e.segment = prefix_of(segment);
      target = window(segment).offset(target);
    }
    e.address = narrow ? 32 : 64;
  } else {
    static constexpr SegReg kSegments[] = {ES, CS, SS, DS, DS, DS, FS, GS};
    const SegReg segment = random_.of(kSegments);
    const Window w = window(segment);
    const uint64_t offset = w.offset(target);
    if (!w.covers(target, 0, bytes) && (!faulty_ || offset > 0xffffffff - 8)) return;
    if (segment != DS || random_.chance(10)) e.segment = prefix_of(segment);
    e.address = offset <= 0xffff && random_.chance(50) ? 16 : 32;
    target = offset;
  }
  e.imm = target;
  e.imm_size = e.address / 8;
  append(e, named("mov"));
  if (!store) known_[RAX].reset();
}

void Builder::translate() {
  const uint64_t table = page_address(PageKind::read_write) + random_.below(kPageSize - 256);
  Encoding e = plain(0xd7);
  if (is64()) {
    SegReg segment = random_.chance(80) ? DS : random_.chance(50) ? FS : GS;
    if (!window(segment).readable) segment = DS;
    if (segment != DS) e.segment = prefix_of(segment);
    set_register(RBX, window(segment).offset(table));
  } else {
    static constexpr SegReg kSegments[] = {ES, CS, SS, DS, DS, DS, FS, GS};
    const SegReg segment = random_.of(kSegments);
    const Window w = window(segment);
    if (!w.readable || !w.covers(table, 0, 256)) return;
    if (segment != DS) e.segment = prefix_of(segment);
    e.address = w.offset(table) <= 0xff00 && random_.chance(50) ? 16 : 32;
    set_register(RBX, w.offset(table) | (e.address == 16 ? random_.next() << 16 : 0));
  }
  append(e, named("xlat"));
  known_[RAX].reset();
}

void Builder::composite_integer() {
  switch (random_.pick(8)) {
    case 0:
    case 1: divide(); return;
    case 2: compare_exchange(); return;
    case 3: pop_flags(); return;
    case 4: enter(); return;
    case 5: move_absolute(); return;
    case 6: translate(); return;
    default: {  // a pointer for later use
      set_register(free_register(0), page_address(PageKind::read_write) + random_.below(kPageSize));
      return;
    }
  }
}

void Builder::composite_bits() {
  static constexpr unsigned kSizes[] = {16, 32, 64};
  const unsigned bits = is64() ? random_.of(kSizes) : kSizes[random_.pick(2)];
  if (random_.chance(50)) {  // BT and so on with a bit offset from a register: it reaches beyond the operand
    const unsigned reg = free_register(0);
    set_register(reg, random_.below(4000) - 2000);
    if (!known_[reg]) return;
    known_[reg].reset();  // must not become part of the address by accident of being small: express() may use it otherwise
    const unsigned operation = random_.pick(4);
    const uint64_t target = (page_address(PageKind::read_write) + 512 + random_.below(kPageSize - 1024)) & ~uint64_t{7};
    Encoding e = memory_form(1, 0xa3 + 8 * operation, reg, express(target, Reach{.before = 256, .after = 272}));
    e.operand = low(bits);
    e.lock = operation != 0 && random_.chance(15);
    append(e, named("bt", CF, flags & ~(CF | ZF)));
    return;
  }
  const unsigned count = random_.pick(bits == 64 ? 70 : 40);
  set_register(RCX, (random_.integer() & ~uint64_t{0xff}) | count);
  const bool doubled = random_.chance(50);
  Form f;
  f.map = doubled ? 1 : 0;
  f.digit = doubled ? op::reg : static_cast<int8_t>(random_.pick(8));
  Item item = named("shift by cl");
  if (!shift_effects(f, bits, count, item)) return;
  const unsigned opcode = doubled ? (random_.chance(50) ? 0xa5 : 0xad) : 0xd3;
  const unsigned reg = doubled ? random_.pick(registers()) : static_cast<unsigned>(f.digit);
  const bool memory = random_.chance(30);
  const unsigned rm = pick_register(true);
  need(item.reads);
  Encoding e = register_form(f.map, opcode, reg, rm);
  if (memory) e = memory_form(f.map, opcode, reg, choose_memory(bits / 8, 1, kAnywhere));
  e.operand = low(bits);
  append(e, item);
  if (!memory) known_[rm].reset();
}

// --- string ----------------------------------------------------------------------------------------------------------

// Where a string may begin that goes on for `reach` bytes either way, as seen through a segment. None if nowhere.
std::optional<uint64_t> Builder::string_begin(const Window& w, unsigned reach, unsigned address) {
  const bool wraps = !is64() && w.base == kWrap;
  if (wraps && address == 16 && random_.chance(50)) {  // 64 KiB around; no element lies across the border
    return kWrap + ((uint64_t{0} - (random_.below(reach) & ~uint64_t{3})) & 0xffff);
  }
  if (!is64() && faulty_ && random_.chance(10) && w.last < 0xffffffff && w.last > reach) {  // across the limit
    if (w.first != 0 && random_.chance(50)) return w.base + w.first + random_.below(reach);
    return (w.base + w.last - random_.below(reach)) & w.mask;
  }
  for (unsigned attempt = 0; attempt < 8; ++attempt) {
    uint64_t target = page_address(PageKind::read_write) + reach;
    target += random_.below(reach * 2 < kPageSize ? kPageSize - reach * 2 : 1);
    if (wraps) target = kWrap + (random_.chance(50) ? kWrapSize - kPageSize : 0) + (target & ~kPageMask);
    if (faulty_ && random_.chance(25)) {
      target = page_address(random_.chance(70) ? PageKind::read_write : PageKind::read_only) + random_.below(kPageSize);
    }
    if (is64()) return target;
    if (w.readable && w.covers(target, reach, reach) && (w.offset(target) + reach) >> address == 0) return target;
  }
  return std::nullopt;
}

void Builder::composite_string() {
  static constexpr uint8_t kOpcodes[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
  const uint8_t family = random_.of(kOpcodes);
  static constexpr unsigned kSizes[] = {1, 2, 4, 8};
  const unsigned bytes = is64() ? random_.of(kSizes) : kSizes[random_.pick(3)];
  const bool compares = family == 0xa6 || family == 0xae;
  const unsigned count = random_.chance(90) ? random_.pick(40) : random_.pick(200);
  Encoding e = plain(family | (bytes == 1 ? 0u : 1u), bytes == 1 ? 0 : bytes * 8);
  e.rep = random_.chance(20) ? uint8_t{0} : random_.chance(60) ? uint8_t{0xf3} : uint8_t{0xf2};
  e.address = random_.chance(is64() ? 90 : 75) ? mode_bits() : mode_ == Mode::bits32 ? 16 : 32;
  const unsigned reach = (e.rep == 0 ? 1 : count + 1) * bytes;
  // A register that holds `offset`; 16-bit addresses leave something above it.
  const auto point = [&](unsigned reg, uint64_t offset) {
    set_register(reg, e.address == 16 ? (offset & 0xffff) | random_.next() << 16 : offset);
  };
  SegReg segment = DS;
  const bool sourced = family == 0xa4 || family == 0xa6 || family == 0xac;
  if (sourced && is64() && random_.chance(8) && e.address == 64) segment = random_.chance(50) ? FS : GS;
  if (sourced && !is64() && random_.chance(20)) segment = static_cast<SegReg>(random_.pick(6));
  if (is64() && !window(segment).readable) segment = DS;
  if (segment != DS) e.segment = prefix_of(segment);
  const Window from = window(segment), to = window(ES);
  const auto source = sourced ? string_begin(from, reach, e.address) : 0;
  const auto destination = family != 0xac ? string_begin(to, reach, e.address) : 0;
  if (!source || !destination) return;
  if (random_.chance(70)) append_bytes({random_.chance(80) ? uint8_t{0xfc} : uint8_t{0xfd}}, "cld/std");
  if (family != 0xac) point(RDI, to.offset(*destination));
  if (sourced) {
    uint64_t begin = *source;
    if (random_.chance(30) && family != 0xac) {  // overlapping, or equal strings
      const uint64_t near = *destination + random_.below(33) - 16;
      if (is64() || (from.covers(near, reach, reach) && from.offset(near) >> e.address == 0)) begin = near;
    }
    point(RSI, from.offset(begin));
  }
  if (e.rep != 0) point(RCX, count);
  if (family == 0xae && random_.chance(50)) set_register(RAX, random_.chance(50) ? 0 : random_.integer());
  Item item = named("string");
  if (compares && (e.rep == 0 || count != 0)) item.defines = flags;
  // A fault within REP CMPS or SCAS: the flags may be those of before or of the last comparison (SDM 2B, REP).
  if (compares && e.rep != 0) item.undefined_on_fault = flags;
  append(e, item);
  forget(1 << RSI | 1 << RDI | 1 << RCX);
  if (family == 0xac) known_[RAX].reset();
}

}  // namespace retrovisor::conformance
