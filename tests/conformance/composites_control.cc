// Composite items that branch: a branch and its target, a loop, a call and what is left of it on the stack.
#include <algorithm>

#include "tests/conformance/builder.h"

namespace retrovisor::conformance {

using namespace status;

namespace {

constexpr unsigned kMaxDepth = 2;  // of branches over branches

}  // namespace

// A branch forward over some items; both ways lead to the same place.
void Builder::branch_over() {
  static constexpr Status kReads[8] = {OF, CF, ZF, CF | ZF, SF, PF, SF | OF, SF | OF | ZF};
  Item item = named("jcc");
  Encoding e;
  bool wide = random_.chance(20);
  const unsigned kind = random_.pick(10);
  if (kind < 6) {
    const unsigned cond = random_.pick(16);
    item.reads = kReads[cond / 2];
    e.opcode = low((wide ? 0x80 : 0x70) | cond);
    e.map = wide ? 1 : 0;
  } else if (kind < 8) {
    item.name = "jmp";
    item.always = true;
    e.opcode = wide ? 0xe9 : 0xeb;
  } else {
    wide = false;
    item.name = "loop/jrcxz";
    e.address = random_.chance(80) ? mode_bits() : mode_ == Mode::bits32 ? 16 : 32;
    const unsigned which = random_.pick(4);
    if (which < 2) item.reads = ZF;
    if (random_.chance(40)) set_register(RCX, random_.below(3));
    e.opcode = low(0xe0 + which);
    if (which < 3) known_[RCX].reset();
  }
  // Of the two operand sizes one cuts the instruction pointer to 16 bits.
  unsigned bits = default_operand();
  if (!is64() && near_start() && random_.chance(20)) e.operand = low(bits = 48 - bits);
  e.imm_size = low(!wide ? 1 : bits / 8);
  need(item.reads);
  const size_t at = sequence_.items.size();
  append(e, item);

  const unsigned begin = size_;
  const auto known = known_;
  const auto selectors = selector_;
  const auto bases = base_;
  const Status undefined = undefined_;
  const unsigned count = 1 + random_.pick(3);
  ++depth_;
  for (unsigned i = 0; i < count && size_ - begin < 60 && !full(); ++i) random_item();
  --depth_;
  for (unsigned r = 0; r < 16; ++r) {
    if (known_[r] != known[r]) known_[r].reset();
  }
  for (unsigned r = 0; r < 6; ++r) {
    if (selector_[r] != selectors[r] || base_[r] != bases[r]) selector_[r].reset();
  }
  ended_ = false;
  undefined_ = item.always ? undefined : undefined_ | undefined;
  const unsigned distance = size_ - begin;
  Item& branch = sequence_.items[at];
  if (!wide && distance > 127) {  // composites can be long: do not branch at all
    Item nop = named("nop");
    nop.length = branch.length;
    nop.mode = branch.mode;
    nop.bytes.fill(0x90);
    branch = nop;
    undefined_ |= undefined;
    return;
  }
  branch.target = static_cast<int>(sequence_.items.size());
  uint8_t* immediate = branch.bytes.data() + branch.length - e.imm_size;
  immediate[0] = low(distance);
  if (wide) immediate[1] = low(distance >> 8);
}

// LOOP back over register operations.
void Builder::backward_loop() {
  set_register(RCX, 1 + random_.below(20));
  const unsigned begin = size_;
  const unsigned count = 1 + random_.pick(3);
  for (unsigned i = 0; i < count; ++i) {
    const unsigned rm = free_register(1 << RCX), reg = random_.pick(registers());
    static constexpr uint8_t kOpcodes[] = {0x01, 0x29, 0x03, 0x2b, 0x39, 0x3b};  // add, sub, cmp: they define all flags
    const uint8_t opcode = random_.of(kOpcodes);
    const bool to_reg = (opcode & 2) != 0;
    Encoding e = register_form(0, opcode, to_reg ? rm : reg, to_reg ? reg : rm);
    e.operand = random_.chance(50) ? (is64() ? 64 : 16) : 32;
    append(e, named("alu", flags));
    known_[rm].reset();
  }
  const uint8_t opcode = random_.chance(60) ? 0xe2 : random_.chance(50) ? 0xe0 : 0xe1;
  append_bytes({opcode, low(begin - (size_ + 2))}, "loop", 0, 0, opcode == 0xe2 ? 0 : ZF);
  known_[RCX].reset();
}

void Builder::indirect_branch() {
  const unsigned reg = free_register(0);
  const unsigned junk = random_.pick(8);  // skipped bytes between the branch and its target
  // 64-bit mode knows but one operand size; elsewhere the other one may cut the instruction pointer to 16 bits.
  unsigned bits = mode_bits();
  if (!is64() && near_start() && random_.chance(20)) bits = 48 - bits;
  const auto skip = [&] {
    for (unsigned i = 0; i < junk; ++i) append_bytes({0x90}, "nop");
  };
  const auto called = [&] {
    move_sp(-static_cast<int64_t>(bits / 8));
    if (random_.chance(50)) pop(free_register(0), bits);  // take the return address off again
  };
  switch (random_.pick(5)) {
    case 0: {  // call relative
      append(plain(0xe8, stack_operand(bits), junk, is64() ? 4 : bits / 8), named("call"));
      skip();
      called();
      return;
    }
    case 1: {  // call or jmp through a register
      const bool call = random_.chance(50);
      const Label label = load_label(reg);
      Encoding e = register_form(0, 0xff, call ? 2 : 4, reg);
      e.operand = low(stack_operand(bits));
      append(e, named(call ? "call" : "jmp"));
      skip();
      bind(label);
      if (call) called();
      return;
    }
    case 2: {  // call or jmp through memory
      const bool call = random_.chance(50);
      const uint64_t slot = kArena + 0x1100 + random_.below(0x100) * 8;
      const Label label = load_label(reg);
      Encoding e = memory_form(0, 0x89, reg, express(slot));
      e.operand = is64() ? 64 : 32;
      append(e, named("mov"));
      e = memory_form(0, 0xff, call ? 2 : 4, express(slot));
      e.operand = low(stack_operand(bits));
      append(e, named(call ? "call" : "jmp"));
      skip();
      bind(label);
      if (call) called();
      return;
    }
    default: {  // ret
      const bool pops = random_.chance(40);
      const unsigned extra = pops ? random_.pick(64) : 0;
      const Label label = load_label(reg);
      push(reg, bits);
      append(plain(pops ? 0xc2 : 0xc3, stack_operand(bits), extra, pops ? 2 : 0), named("ret"));
      move_sp(bits / 8 + extra);
      skip();
      bind(label);
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
  } else if (faulty_ && random_.chance(30)) {
    cut_branch();
  } else if (faulty_ && random_.chance(50)) {  // fetch from where nothing may be fetched
    uint64_t to = random_.chance(50) ? page_address(PageKind::read_write) : page_address(PageKind::none);
    to += random_.below(kPageSize - 16);
    if (window(CS).base != 0) to = window(CS).last + 1 + random_.below(64);
    set_register(RDX, to);
    append_bytes({0xff, 0xe2}, "jmp");
  }
}

}  // namespace retrovisor::conformance
