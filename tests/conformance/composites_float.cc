// Composite items of x87, MMX and SSE.
#include "tests/conformance/builder.h"

namespace retrovisor::conformance {

using namespace status;

void Builder::composite_x87_environment() {
  const unsigned kind = random_.pick(3);
  if (kind < 2) {  // FNSTENV, FLDENV; FNSAVE, FRSTOR
    const bool state = kind == 1;
    const unsigned bits = random_.chance(80) ? default_operand() : 48u - default_operand();
    const unsigned bytes = state ? 128 : 64;
    const uint64_t at = good_target(bytes, 8);
    const auto form = [&](unsigned digit) {
      Encoding e = memory_form(0, state ? 0xdd : 0xd9, digit, express(at, Reach{.after = bytes}));
      e.operand = low(bits);
      return e;
    };
    append(form(6), named(state ? "fnsave" : "fnstenv", 0, 0, x87));
    // Instruction and operand pointers differ between vendors, and on AMD's processors a thread switch on the host loses them
    // while no exception waits (docs/vendors.md): out with them.
    if (bits == 16) {
      for (unsigned field = 6; field < 14; field += 2) store_constant(at + field, 2, 0, true);
    } else {
      for (unsigned field = 12; field < 28; field += 4) store_constant(at + field, 4, 0, true);
    }
    if (random_.chance(60)) {
      if (!state && random_.chance(50)) {
        store_constant(at + (bits == 16 ? 4 : 8), 2, static_cast<uint32_t>(random_.next() & 0xffff));
      }
      append(form(4), named(state ? "frstor" : "fldenv"));
    }
    return;
  }
  const uint64_t at = good_target(512, 16);
  const auto form = [&](unsigned digit) {
    Encoding e = memory_form(1, 0xae, digit, express(at, Reach{.after = 512}));
    if (is64() && random_.chance(50)) e.operand = 64;
    return e;
  };
  append(form(0), named("fxsave", 0, 0, x87));
  store_constant(at + 6, 2, 0, true);  // the pointers, as above
  store_constant(at + 8, 8, 0, true);
  store_constant(at + 16, 8, 0, true);
  if (!own_model()) store_constant(at + 28, 4, 0, true);
  if (random_.chance(60)) append(form(1), named("fxrstor"));
}

// F2XM1 and its like, on operands of their domain. The sequence ends here: the last bits may differ.
void Builder::transcendental() {
  static constexpr uint8_t kOpcodes[] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf9, 0xfb, 0xfe, 0xff};
  const uint8_t opcode = random_.of(kOpcodes);
  const bool bounded = opcode == 0xf0 || opcode == 0xf9;  // F2XM1: |x| <= 1; FYL2XP1: |x| < 1 - sqrt(1/2)
  if (bounded || random_.chance(70)) {
    const uint64_t at = good_target(16, 8);
    const auto load = [&](uint64_t value) {
      store_constant(at, 4, static_cast<uint32_t>(value));
      store_constant(at + 4, 4, static_cast<uint32_t>(value >> 32));
      append(memory_form(0, 0xdd, 0, express(at)), named("fld"));
    };
    // A double of either sign with an exponent below `limit`.
    const auto below = [&](int limit, unsigned range) {
      const uint64_t exponent = static_cast<unsigned>(0x3ff + limit - 1) - random_.below(range);
      return (random_.next() & 0x800fffffffffffff) | exponent << 52;
    };
    if (random_.chance(80)) append_bytes({0xdb, 0xe3}, "fninit");
    load(random_.chance(80) ? below(10, 20) : random_.real());  // y, if the function has one
    if (bounded) {
      const uint64_t zero = random_.next() & uint64_t{1} << 63;
      load(random_.chance(10) ? zero : below(opcode == 0xf0 ? 0 : -2, 60));
    } else {
      load(random_.chance(80) ? below(8, 20) : random_.real());
    }
  }
  const std::array<uint8_t, 2> b = {0xd9, opcode};
  Item item = named("transcendental", 0, C1);
  item.approximate = true;
  append_bytes(b, item);
  ended_ = true;
}

void Builder::composite_x87() {
  const unsigned kind = random_.pick(20);
  if (kind < 11) {
    struct Plain {
      uint8_t first, second;
      Status reads;
    };
    static constexpr Plain kPlain[] = {
        {0xd9, 0xd0, 0}, {0xd9, 0xe0, 0}, {0xd9, 0xe1, 0}, {0xd9, 0xe4, 0}, {0xd9, 0xe5, 0}, {0xd9, 0xe8, 0},
        {0xd9, 0xe9, 0}, {0xd9, 0xea, 0}, {0xd9, 0xeb, 0}, {0xd9, 0xec, 0}, {0xd9, 0xed, 0}, {0xd9, 0xee, 0},
        {0xd9, 0xf4, 0}, {0xd9, 0xf5, 0}, {0xd9, 0xf6, 0}, {0xd9, 0xf7, 0}, {0xd9, 0xf8, 0}, {0xd9, 0xfa, 0},
        {0xd9, 0xfc, 0}, {0xd9, 0xfd, 0}, {0xda, 0xe9, 0}, {0xde, 0xd9, 0}, {0xdb, 0xe2, 0}, {0xdb, 0xe3, 0},
        {0xdf, 0xe0, x87},
    };
    const Plain& p = random_.of(kPlain);
    Item item = named("x87", 0, 0, p.reads);
    // FSCALE of a denormal by zero: only AMD's processors find a tiny result in it. So the scale, or what is scaled, is one.
    if (p.first == 0xd9 && p.second == 0xfd && !own_model()) {
      append_bytes({0xd9, 0xe8}, "fld1");
      item.tail = true;
      if (random_.chance(50)) {
        Item exchange = named("fxch");
        exchange.tail = true;
        append_bytes(std::array<uint8_t, 2>{0xd9, 0xc9}, exchange);
      }
    }
    need(p.reads);
    append_bytes(std::array<uint8_t, 2>{p.first, p.second}, item);
    if (p.first == 0xdf) known_[RAX].reset();
  } else if (kind < 13) {
    if (depth_ == 0) transcendental();
  } else if (kind < 14) {
    append_bytes({0x9b}, "fwait");
  } else if (kind < 16) {  // FLDCW of a word that makes sense
    const uint64_t at = good_target(2, 1);
    static constexpr unsigned kPrecision[] = {0x000, 0x200, 0x300};
    const unsigned masks = random_.chance(80) ? 0x3f : random_.pick(64);
    store_constant(at, 2, 0x40 | random_.of(kPrecision) | random_.pick(4) << 10 | masks);
    append(memory_form(0, 0xd9, 5, express(at)), named("fldcw"));
  } else if (kind < 17) {  // a decimal that FBLD can read again
    const uint64_t at = good_target(16, 1);
    append(memory_form(0, 0xdb, 0, express(at)), named("fild"));
    append(memory_form(0, 0xdf, 6, express(at)), named("fbstp"));
    append(memory_form(0, 0xdf, 4, express(at)), named("fbld"));
  } else {
    composite_x87_environment();
  }
}

void Builder::composite_sse() {
  switch (random_.pick(6)) {
    case 0:
    case 1: {  // LDMXCSR of a value that makes sense
      const uint64_t at = good_target(4, 1);
      uint32_t value = static_cast<uint32_t>(random_.next() & 0xe07f) | 0x1f80;
      if (random_.chance(25)) value &= ~(static_cast<uint32_t>(random_.pick(64)) << 7);
      if (random_.chance(3)) value |= 1u << (18 + random_.pick(14));  // reserved: #GP
      store_constant(at, 4, value);
      append(memory_form(1, 0xae, 2, express(at)), named("ldmxcsr"));
      return;
    }
    case 2:
    case 3: append(memory_form(1, 0xae, 3, choose_memory(4, 1, kAnywhere)), named("stmxcsr")); return;
    case 4: {  // MASKMOVDQU, MASKMOVQ
      const bool mmx = random_.chance(40);
      const unsigned count = mmx ? 8 : registers();
      Encoding e = register_form(1, 0xf7, random_.pick(count), random_.pick(count));
      e.prefix66 = !mmx;
      const uint64_t target = good_target(16, 1);
      static constexpr SegReg kSegments[] = {DS, FS, GS, DS, ES, SS};
      SegReg segment = kSegments[random_.pick(is64() ? 3 : 6)];
      if (!window(segment).writable || !window(segment).covers(target, 0, 16)) segment = is64() ? DS : home_;
      const uint64_t offset = window(segment).offset(target);
      if (segment != DS) e.segment = prefix_of(segment);
      e.address = is64() ? 64 : offset < 0xfff0 ? 16 : 32;
      set_register(RDI, offset | (e.address == 16 ? random_.next() << 16 : 0));
      Item item = named("maskmov");  // how much of its operand it touches, and when, differs between vendors
      item.alignment_open = item.tail = true;
      append(e, item);
      return;
    }
    default: append(memory_form(1, 0xae, 7, choose_memory(1, 1, kAnywhere)), named("clflush")); return;
  }
}

}  // namespace retrovisor::conformance
