// Items that need more than one instruction to make sense: a count or a pointer set up first, a branch and its target.
#include <algorithm>
#include <cstring>
#include <iterator>

#include "tests/conformance/builder.h"

namespace retrovisor::conformance {

using namespace status;

namespace {

constexpr unsigned kMaxDepth = 2;  // of branches over branches

}  // namespace

// --- integer ---------------------------------------------------------------------------------------------------------

void Builder::divide() {
  static constexpr unsigned kSizes[] = {8, 16, 32, 64};
  const unsigned bits = random_.of(kSizes);
  const bool is_signed = random_.chance(50);
  const bool memory = random_.chance(30);
  const unsigned divisor = free_register(1 << RAX | 1 << RDX);
  if (!memory) set_register(divisor, random_.integer() | (random_.chance(98) ? 1 : 0));
  if (bits == 8) {
    if (is_signed) {
      append_bytes({0x66, 0x98}, "cbw");
    } else {
      append_bytes({0x0f, 0xb6, 0xc0}, "movzx");
    }
    known_[RAX].reset();
  } else if (is_signed) {
    if (bits == 16) append_bytes({0x66, 0x99}, "cwd");
    if (bits == 32) append_bytes({0x99}, "cdq");
    if (bits == 64) append_bytes({0x48, 0x99}, "cqo");
    known_[RDX].reset();
  } else if (random_.chance(80)) {
    set_register(RDX, random_.below(8));
  }
  const unsigned digit = is_signed ? 7 : 6;
  const unsigned opcode = bits == 8 ? 0xf6 : 0xf7;
  Encoding e = register_form(0, opcode, digit, divisor);
  if (memory) e = memory_form(0, opcode, digit, choose_memory(bits / 8, 1, kAnywhere));
  e.operand16 = bits == 16;
  e.rex_w = bits == 64;
  if (bits == 8 && !memory) e.rex = true;  // SPL and so on rather than AH
  append(e, named(is_signed ? "idiv" : "div", 0, flags));
  forget(1 << RAX | 1 << RDX);
}

// CMPXCHG that succeeds: the accumulator is loaded from the operand first.
void Builder::compare_exchange() {
  const bool wide = random_.chance(40);
  const bool quad = random_.chance(50);
  const unsigned bytes = (quad ? 8 : 4) * (wide ? 2 : 1);
  const uint64_t target = good_target(bytes, bytes);
  Encoding load = memory_form(0, 0x8b, RAX, express(target));
  load.rex_w = quad;
  append(load, named("mov"));
  known_[RAX].reset();
  if (wide) {
    load = memory_form(0, 0x8b, RDX, express(target + (quad ? 8 : 4)));
    load.rex_w = quad;
    append(load, named("mov"));
    known_[RDX].reset();
  }
  Encoding e = wide ? memory_form(1, 0xc7, 1, express(target)) : memory_form(1, 0xb1, random_.pick(16), express(target));
  e.rex_w = quad;
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
  if (random_.chance(20)) {
    append_bytes({0x66, 0x68, static_cast<uint8_t>(value), static_cast<uint8_t>(value >> 8)}, "push");
    append_bytes({0x66, 0x9d}, "popf", flags);
  } else {
    append_bytes({0x68, low(value), low(value >> 8), low(value >> 16), 0}, "push");
    append_bytes({0x9d}, "popf", flags);
  }
}

void Builder::enter() {
  const unsigned size = random_.pick(128);
  const unsigned level = random_.chance(70) ? 0 : random_.chance(80) ? random_.pick(5) : random_.pick(256);
  append_bytes({0x48, 0x89, 0xe5}, "mov");  // mov rbp, rsp: nested frames read below it
  known_[RBP] = known_[RSP];
  const bool narrow = random_.chance(10);
  const std::array<uint8_t, 5> b = {0x66, 0xc8, static_cast<uint8_t>(size), 0, static_cast<uint8_t>(level)};
  Item item = named("enter");
  item.alignment_open = true;
  append_bytes(std::span<const uint8_t>(b.data() + (narrow ? 0 : 1), narrow ? 5 : 4), item);
  if (level == 0 && !narrow && known_[RSP]) {
    known_[RBP] = *known_[RSP] - 8;
    known_[RSP] = *known_[RBP] - size;
  } else {
    forget(1 << RBP | 1 << RSP);
  }
  if (random_.chance(60)) {
    append_bytes({0xc9}, "leave");
    forget(1 << RBP | 1 << RSP);
  }
}

void Builder::composite_integer() {
  switch (random_.pick(8)) {
    case 0:
    case 1: divide(); return;
    case 2: compare_exchange(); return;
    case 3: pop_flags(); return;
    case 4: enter(); return;
    case 5: {  // MOV with an offset in the instruction
      static constexpr unsigned kSizes[] = {1, 2, 4, 8};
      const unsigned bytes = random_.of(kSizes);
      const bool store = random_.chance(50);
      uint64_t target = choose_memory(bytes, 1, kAnywhere).target;
      const bool narrow = random_.chance(30) && target >> 32 == 0;
      const uint8_t segment = random_.chance(20) ? (random_.chance(50) ? 0x64 : 0x65) : 0;
      if (!narrow) target -= segment_base(segment);
      const auto opcode = low(0xa0u | (store ? 2u : 0u) | (bytes == 1 ? 0u : 1u));
      std::array<uint8_t, 15> b{};
      unsigned n = 0;
      if (segment != 0 && !narrow) b[n++] = segment;
      if (narrow) b[n++] = 0x67;
      if (bytes == 2) b[n++] = 0x66;
      if (bytes == 8) b[n++] = 0x48;
      b[n++] = opcode;
      std::memcpy(b.data() + n, &target, narrow ? 4 : 8);
      append_bytes(std::span<const uint8_t>(b.data(), n + (narrow ? 4 : 8)), named("mov"));
      if (!store) known_[RAX].reset();
      return;
    }
    case 6: {  // XLAT
      set_register(RBX, page_address(PageKind::read_write) + random_.below(kPageSize - 256));
      append_bytes({0xd7}, "xlat");
      known_[RAX].reset();
      return;
    }
    default: {  // a pointer for later use
      set_register(free_register(0), page_address(PageKind::read_write) + random_.below(kPageSize));
      return;
    }
  }
}

void Builder::composite_bits() {
  static constexpr unsigned kSizes[] = {16, 32, 64};
  const unsigned bits = random_.of(kSizes);
  if (random_.chance(50)) {  // BT and so on with a bit offset from a register: it reaches beyond the operand
    const unsigned reg = free_register(0);
    set_register(reg, random_.below(4000) - 2000);
    if (!known_[reg]) return;
    known_[reg].reset();  // must not become part of the address by accident of being small: express() may use it otherwise
    const unsigned operation = random_.pick(4);
    const uint64_t target = (page_address(PageKind::read_write) + 512 + random_.below(kPageSize - 1024)) & ~uint64_t{7};
    Encoding e = memory_form(1, 0xa3 + 8 * operation, reg, express(target));
    e.operand16 = bits == 16;
    e.rex_w = bits == 64;
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
  const unsigned reg = doubled ? random_.pick(16) : static_cast<unsigned>(f.digit);
  const bool memory = random_.chance(30);
  const unsigned rm = pick_register(true);
  need(item.reads);
  Encoding e = register_form(f.map, opcode, reg, rm);
  if (memory) e = memory_form(f.map, opcode, reg, choose_memory(bits / 8, 1, kAnywhere));
  e.operand16 = bits == 16;
  e.rex_w = bits == 64;
  append(e, item);
  if (!memory) known_[rm].reset();
}

// --- control ---------------------------------------------------------------------------------------------------------

// A branch forward over some items; both ways lead to the same place.
void Builder::branch_over() {
  static constexpr Status kReads[8] = {OF, CF, ZF, CF | ZF, SF, PF, SF | OF, SF | OF | ZF};
  std::array<uint8_t, 8> b{};
  unsigned n = 0;
  Item item = named("jcc");
  bool wide = random_.chance(20);
  const unsigned kind = random_.pick(10);
  if (kind < 6) {
    const unsigned cond = random_.pick(16);
    item.reads = kReads[cond / 2];
    if (wide) {
      b[n++] = 0x0f;
      b[n++] = static_cast<uint8_t>(0x80 | cond);
    } else {
      b[n++] = static_cast<uint8_t>(0x70 | cond);
    }
  } else if (kind < 8) {
    item.name = "jmp";
    item.always = true;
    b[n++] = wide ? 0xe9 : 0xeb;
  } else {
    wide = false;
    item.name = "loop/jrcxz";
    if (random_.chance(20)) b[n++] = 0x67;
    const unsigned which = random_.pick(4);
    if (which < 2) item.reads = ZF;
    if (random_.chance(40)) set_register(RCX, random_.below(3));
    b[n++] = static_cast<uint8_t>(0xe0 + which);
    if (which < 3) known_[RCX].reset();
  }
  need(item.reads);
  const size_t at = sequence_.items.size();
  const unsigned disp_size = wide ? 4 : 1;
  append_bytes(std::span<const uint8_t>(b.data(), n + disp_size), item);

  const unsigned begin = size_;
  const auto known = known_;
  const Status undefined = undefined_;
  const unsigned count = 1 + random_.pick(3);
  ++depth_;
  for (unsigned i = 0; i < count && size_ - begin < 60 && !full(); ++i) random_item();
  --depth_;
  for (unsigned r = 0; r < 16; ++r) {
    if (known_[r] != known[r]) known_[r].reset();
  }
  ended_ = false;
  undefined_ = item.always ? undefined : undefined_ | undefined;
  const unsigned distance = size_ - begin;
  Item& branch = sequence_.items[at];
  if (!wide && distance > 127) {  // composites can be long: do not branch at all
    Item nop = named("nop");
    nop.length = branch.length;
    nop.bytes.fill(0x90);
    branch = nop;
    undefined_ |= undefined;
    return;
  }
  branch.target = static_cast<int>(sequence_.items.size());
  branch.bytes[n] = static_cast<uint8_t>(distance);
  if (wide) branch.bytes[n + 1] = static_cast<uint8_t>(distance >> 8);
}

// LOOP back over register operations.
void Builder::backward_loop() {
  set_register(RCX, 1 + random_.below(20));
  const unsigned begin = size_;
  const unsigned count = 1 + random_.pick(3);
  for (unsigned i = 0; i < count; ++i) {
    const unsigned rm = free_register(1 << RCX), reg = random_.pick(16);
    static constexpr uint8_t kOpcodes[] = {0x01, 0x29, 0x03, 0x2b, 0x39, 0x3b};  // add, sub, cmp: they define all flags
    const uint8_t opcode = random_.of(kOpcodes);
    const bool to_reg = (opcode & 2) != 0;
    Encoding e = register_form(0, opcode, to_reg ? rm : reg, to_reg ? reg : rm);
    e.rex_w = random_.chance(50);
    append(e, named("alu", flags));
    known_[rm].reset();
  }
  const uint8_t opcode = random_.chance(60) ? 0xe2 : random_.chance(50) ? 0xe0 : 0xe1;
  append_bytes({opcode, static_cast<uint8_t>(begin - (size_ + 2))}, "loop", 0, 0, opcode == 0xe2 ? 0 : ZF);
  known_[RCX].reset();
}

void Builder::indirect_branch() {
  const unsigned reg = free_register(0);
  const auto rex_b = static_cast<uint8_t>(reg >= 8 ? 0x41 : 0x40);
  const unsigned number = reg & 7;
  const unsigned kind = random_.pick(5);
  const unsigned junk = random_.pick(8);  // skipped bytes between the branch and its target
  const auto skip = [&](bool call) {
    for (unsigned i = 0; i < junk; ++i) append_bytes({0x90}, "nop");
    if (call && random_.chance(50)) {  // take the return address off again
      const unsigned to = free_register(0);
      append_bytes({static_cast<uint8_t>(to >= 8 ? 0x41 : 0x40), static_cast<uint8_t>(0x58 | (to & 7))}, "pop");
      known_[to].reset();
      return;
    }
    if (call && known_[RSP]) known_[RSP] = *known_[RSP] - 8;
  };
  switch (kind) {
    case 0: {  // call rel32
      append_bytes({0xe8, static_cast<uint8_t>(junk), 0, 0, 0}, "call");
      skip(true);
      return;
    }
    case 1: {  // call or jmp through a register
      const bool call = random_.chance(50);
      load_address(reg, 3 + junk);
      append_bytes({rex_b, 0xff, static_cast<uint8_t>((call ? 0xd0 : 0xe0) | number)}, call ? "call" : "jmp");
      skip(call);
      return;
    }
    case 2: {  // call or jmp through memory
      const bool call = random_.chance(50);
      const uint64_t slot = kArena + 0x1100 + random_.below(0x100) * 8;
      load_address(reg, 8 + 7 + junk);
      const uint8_t rex = reg >= 8 ? 0x4c : 0x48;
      append_bytes({rex, 0x89, low(0x04 | number << 3), 0x25, low(slot), low(slot >> 8), low(slot >> 16), low(slot >> 24)},
                   "mov");
      append_bytes({0xff, low(call ? 0x14 : 0x24), 0x25, low(slot), low(slot >> 8), low(slot >> 16), low(slot >> 24)},
                   call ? "call" : "jmp");
      skip(call);
      return;
    }
    default: {  // ret
      const bool pops = random_.chance(40);
      const unsigned extra = pops ? random_.pick(64) : 0;
      load_address(reg, 2 + (pops ? 3 : 1) + junk);
      append_bytes({rex_b, static_cast<uint8_t>(0x50 | number)}, "push");
      if (pops) {
        append_bytes({0xc2, static_cast<uint8_t>(extra), 0}, "ret");
      } else {
        append_bytes({0xc3}, "ret");
      }
      if (known_[RSP]) known_[RSP] = *known_[RSP] + extra;
      skip(false);
      return;
    }
  }
}

void Builder::far_transfer() {
  const unsigned reg = free_register(1 << RSP);
  const auto rex_b = static_cast<uint8_t>(reg >= 8 ? 0x41 : 0x40);
  const unsigned number = reg & 7;
  const uint64_t slot = kArena + 0x1100 + random_.below(0x100) * 8;
  const auto absolute = [&](uint8_t prefix, uint8_t opcode, uint8_t modrm, uint64_t address) {
    append_bytes({prefix, opcode, modrm, 0x25, low(address), low(address >> 8), low(address >> 16), low(address >> 24)},
                 "far");
  };
  switch (random_.pick(3)) {
    case 0: {  // retfq
      append_bytes({0x6a, kUserCs}, "push");
      load_address(reg, 4);
      append_bytes({rex_b, static_cast<uint8_t>(0x50 | number)}, "push");
      append_bytes({0x48, 0xcb}, "retf");
      return;
    }
    case 1: {  // jmp or call through m16:32
      const bool call = random_.chance(50);
      const uint64_t selector = slot + 4;
      append_bytes({0x66, 0xc7, 0x04, 0x25, low(selector), low(selector >> 8), low(selector >> 16), low(selector >> 24),
                    kUserCs, 0},
                   "mov");
      load_address(reg, 8 + 8);
      absolute(static_cast<uint8_t>(reg >= 8 ? 0x44 : 0x40), 0x89, static_cast<uint8_t>(0x04 | number << 3), slot);
      absolute(0x40, 0xff, call ? 0x1c : 0x2c, slot);
      if (call) known_[RSP].reset();
      return;
    }
    default: {  // iretq to the same privilege
      need(flags);
      append_bytes({0x48, 0x89, 0xe0}, "mov");  // mov rax, rsp
      known_[RAX] = known_[RSP];
      append_bytes({0x6a, kUserSs}, "push");
      append_bytes({0x50}, "push");
      append_bytes({0x9c}, "pushf", 0, 0, flags);
      append_bytes({0x6a, kUserCs}, "push");
      const unsigned target = free_register(1 << RAX);
      load_address(target, 4);
      append_bytes({static_cast<uint8_t>(target >= 8 ? 0x41 : 0x40), static_cast<uint8_t>(0x50 | (target & 7))}, "push");
      append_bytes({0x48, 0xcf}, "iret", flags);
      return;
    }
  }
}

void Builder::composite_control() {
  const unsigned kind = random_.pick(20);
  if (kind < 10) {
    if (depth_ < kMaxDepth) branch_over();
  } else if (kind < 12) {
    backward_loop();
  } else if (kind < 18) {
    indirect_branch();
  } else if (kind < 19) {
    far_transfer();
  } else if (faulty_ && random_.chance(50)) {  // fetch from where nothing may be fetched
    const uint64_t to = random_.chance(50) ? page_address(PageKind::read_write) : page_address(PageKind::none);
    set_register(RDX, to + random_.below(kPageSize - 16));
    append_bytes({0xff, 0xe2}, "jmp");
  }
}

// --- string ----------------------------------------------------------------------------------------------------------

void Builder::composite_string() {
  static constexpr uint8_t kOpcodes[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
  const uint8_t family = random_.of(kOpcodes);
  static constexpr unsigned kSizes[] = {1, 2, 4, 8};
  const unsigned bytes = random_.of(kSizes);
  const bool compares = family == 0xa6 || family == 0xae;
  const uint8_t rep = random_.chance(20) ? uint8_t{0} : random_.chance(60) ? uint8_t{0xf3} : uint8_t{0xf2};
  const unsigned count = random_.chance(90) ? random_.pick(40) : random_.pick(200);
  const unsigned reach = (rep == 0 ? 1 : count + 1) * bytes;
  const bool addr32 = random_.chance(10);
  uint8_t segment = 0;
  const auto pointer = [&]() -> uint64_t {
    if (faulty_ && random_.chance(25)) {
      return page_address(random_.chance(70) ? PageKind::read_write : PageKind::read_only) + random_.below(kPageSize);
    }
    return page_address(PageKind::read_write) + reach + random_.below(reach * 2 < kPageSize ? kPageSize - reach * 2 : 1);
  };
  if (random_.chance(70)) append_bytes({random_.chance(80) ? uint8_t{0xfc} : uint8_t{0xfd}}, "cld/std");
  if (family != 0xac) set_register(RDI, pointer());
  if (family == 0xa4 || family == 0xa6 || family == 0xac) {
    uint64_t from = pointer();
    if (random_.chance(30) && known_[RDI]) from = *known_[RDI] + random_.below(33) - 16;  // overlapping, or equal strings
    if (random_.chance(8) && !addr32) {
      segment = random_.chance(50) ? 0x64 : 0x65;
      from -= segment == 0x64 ? sequence_.start.fs_base : sequence_.start.gs_base;
    }
    set_register(RSI, from);
  }
  if (rep != 0) set_register(RCX, count);
  if (family == 0xae && random_.chance(50)) set_register(RAX, random_.chance(50) ? 0 : random_.integer());
  std::array<uint8_t, 8> b{};
  unsigned n = 0;
  if (segment != 0) b[n++] = segment;
  if (addr32) b[n++] = 0x67;
  if (bytes == 2) b[n++] = 0x66;
  if (rep != 0) b[n++] = rep;
  if (bytes == 8) b[n++] = 0x48;
  b[n++] = static_cast<uint8_t>(family | (bytes == 1 ? 0 : 1));
  Item item = named("string");
  if (compares && (rep == 0 || count != 0)) item.defines = flags;
  // A fault within REP CMPS or SCAS: the flags may be those of before or of the last comparison (SDM 2B, REP).
  if (compares && rep != 0) item.undefined_on_fault = flags;
  append_bytes(std::span<const uint8_t>(b.data(), n), item);
  forget(1 << RSI | 1 << RDI | 1 << RCX);
  if (family == 0xac) known_[RAX].reset();
}

}  // namespace retrovisor::conformance
