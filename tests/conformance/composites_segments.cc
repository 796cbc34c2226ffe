// Composite items of segmentation: loads of segment registers, far transfers, excursions into code of another mode.
#include <algorithm>
#include <cstring>

#include "tests/conformance/builder.h"

namespace retrovisor::conformance {

using namespace status;

// --- selectors -------------------------------------------------------------------------------------------------------

// One that can be loaded into a data segment register.
uint16_t Builder::data_selector() {
  static constexpr unsigned kLocal[] = {ldt::arena,  ldt::arena,  ldt::small,   ldt::read_only, ldt::down32, ldt::down16,
                                        ldt::high,   ldt::wrap16, ldt::wrap32,  ldt::stack32,   ldt::odd,    ldt::paged,
                                        ldt::code32, ldt::code16};
  if (generator_.repertoire_.ldt && random_.chance(75)) return ldt::selector(random_.of(kLocal));
  static constexpr uint16_t kGlobal[] = {kUserSs, kUserSs, kUserSs, 0x28, kUserCs, kUserCs32};
  return random_.of(kGlobal);
}

// Any but those that stand for something else in every kernel.
uint16_t Builder::any_selector() {
  static constexpr uint16_t kGlobal[] = {0,    0x08, 0x10, 0x13, 0x18, 0x20, 0x23,  0x28,
                                         0x2b, 0x30, 0x33, 0x40, 0x63, 0x6b, 0xfff8};
  if (!generator_.repertoire_.ldt || random_.chance(40)) return random_.of(kGlobal);
  const unsigned index = random_.pick(ldt::count + 2);
  const uint16_t selector = ldt::selector(index);
  return random_.chance(80) ? selector : static_cast<uint16_t>(selector & ~random_.pick(4));
}

// VERR, VERW, LAR, LSL look at what Linux's GDT has, too.
void Builder::inspect_selector() {
  const unsigned reg = free_register(0);
  const uint16_t selector = any_selector();
  set_register(reg, selector | (random_.next() << 16));
  if (random_.chance(50)) {
    append(register_form(1, 0x00, random_.chance(50) ? 4 : 5, reg), named("verr/verw", ZF));
    return;
  }
  const unsigned to = pick_register(true);
  Encoding e = register_form(1, random_.chance(50) ? 0x02 : 0x03, to, reg);
  static constexpr uint8_t kSizes[] = {16, 32, 64};
  e.operand = is64() ? random_.of(kSizes) : kSizes[random_.pick(2)];
  append(e, named("lar/lsl", ZF));
  known_[to].reset();
}

// --- loads -----------------------------------------------------------------------------------------------------------

bool Builder::loadable(SegReg reg, uint16_t selector) {
  const auto d = descriptor_of(selector);
  if (!d) return selector < 4 && reg != SS;
  return d->present && (reg == SS ? d->writable() && (selector & 3) == 3 : d->readable());
}

// A stack pointer for a stack segment.
uint64_t Builder::stack_pointer(uint16_t selector) {
  const auto d = descriptor_of(selector);
  uint64_t stack = kStackBegin + 0x800 + random_.below(0x100) * 8;
  if (d->base == kWrap) stack += kWrapSize - kPageSize - kStackBegin + kWrap;  // the stack's first page lies there
  if (d->base == kWrap && random_.chance(40)) stack = kWrap + kWrapSize - 64 + (random_.below(128) & ~random_.below(8));
  stack = (stack - d->base) & 0xffffffff;
  if (d->base == kWrap || !d->big) stack &= 0xffff;
  return d->big ? stack : stack | (random_.next() & 0xffff0000);
}

uint16_t Builder::stack_selector() {
  static constexpr unsigned kStacks[] = {ldt::wrap16, ldt::wrap16, ldt::wrap32, ldt::stack32, ldt::stack16, ldt::arena};
  return generator_.repertoire_.ldt ? ldt::selector(random_.of(kStacks)) : kUserSs;
}

// A segment register and what to load it with.
bool Builder::choose_load(SegReg& reg, uint16_t& selector) {
  static constexpr SegReg kRegisters[] = {ES, DS, FS, GS};
  reg = random_.of(kRegisters);
  if (is64()) {
    if (reg == FS || reg == GS) return false;
    static constexpr uint16_t kSelectors[] = {0, kUserSs, kUserSs, 0x28, kUserCs, kUserCs32};
    selector = random_.of(kSelectors);
  } else {
    selector = random_.chance(80) ? data_selector() : any_selector();
  }
  if (reg == home_ && sequence_.mode != Mode::bits64) selector = kUserSs;
  return true;
}

void Builder::load_segment() {
  SegReg to = ES;
  uint16_t selector = 0;
  if (random_.chance(15)) {
    if (is64() || depth_ == 0) switch_stack();
    return;
  }
  if (!choose_load(to, selector)) return;
  switch (is64() ? 0 : random_.pick(3)) {
    case 0: {
      const unsigned reg = free_register(0);
      set_register(reg, selector | (random_.next() << 16));
      append(register_form(0, 0x8e, to, reg), named("mov"));
      break;
    }
    case 1: {
      const uint64_t at = good_target(2, 1);
      store_constant(at, 2, selector);
      append(memory_form(0, 0x8e, to, express(at)), named("mov"));
      break;
    }
    default: {
      const unsigned bits = random_.chance(80) ? mode_bits() : 48u - mode_bits();
      push_constant(selector, bits);
      pop_segment(to, bits);
      break;
    }
  }
  if (loadable(to, selector)) loaded(to, selector);
}

void Builder::pop_segment(SegReg reg, unsigned bits) {
  static constexpr uint8_t kPops[6] = {0x07, 0, 0x17, 0x1f, 0xa1, 0xa9};
  Encoding e = plain(kPops[reg], bits);
  e.map = reg >= FS ? 1 : 0;
  append(e, named("pop"));
  move_sp(bits / 8);
}

// Loads SS, and the stack pointer with it.
void Builder::switch_stack() {
  const unsigned reg = free_register(0);
  if (is64()) {
    set_register(reg, kUserSs);
    append(register_form(0, 0x8e, SS, reg), named("mov"));
    return;
  }
  if (random_.chance(15)) {  // with what may be no stack at all
    set_register(reg, any_selector());
    const auto selector = static_cast<uint16_t>(*known_[reg]);
    if (loadable(SS, selector)) return;
    append(register_form(0, 0x8e, SS, reg), named("mov"));
    return;
  }
  const uint16_t selector = random_.chance(30) ? kUserSs : stack_selector();
  const uint64_t sp = stack_pointer(selector);
  if (random_.chance(50)) {
    set_register(reg, selector);
    append(register_form(0, 0x8e, SS, reg), named("mov"));
    loaded(SS, selector);
    set_register(RSP, sp);
    return;
  }
  const uint64_t at = good_target(6, 1);
  store_constant(at, 4, static_cast<uint32_t>(sp));
  store_constant(at + 4, 2, selector);
  Encoding e = memory_form(1, 0xb2, RSP, express(at));
  e.operand = 32;
  append(e, named("lss"));
  loaded(SS, selector);
  known_[RSP] = sp;
}

// LES, LDS, LFS, LGS.
void Builder::load_far_pointer() {
  SegReg to = ES;
  uint16_t selector = 0;
  if (!choose_load(to, selector)) return;
  const unsigned bits = random_.chance(70) ? 32 : 16;
  const auto offset = static_cast<uint32_t>(random_.integer());
  const uint64_t at = good_target(6, 1);
  store_constant(at, 4, offset);
  store_constant(at + bits / 8, 2, selector);
  const unsigned reg = free_register(0);
  static constexpr uint8_t kOpcodes[6] = {0xc4, 0, 0, 0xc5, 0xb4, 0xb5};
  const bool anything = faulty_ && to != home_ && random_.chance(20);
  Encoding e = memory_form(to >= FS ? 1 : 0, kOpcodes[to], reg, anything ? choose_memory(6, 1, kAnywhere) : express(at));
  e.operand = low(bits);
  Item item = named("les");
  item.order_open = anything;  // read in two parts
  append(e, item);
  if (anything) {
    selector_[to].reset();
    known_[reg].reset();
    return;
  }
  if (!loadable(to, selector)) return;
  loaded(to, selector);
  known_[reg].reset();
  if (bits == 32) known_[reg] = offset;
}

void Builder::push_pop_segment() {
  static constexpr uint8_t kPushes[6] = {0x06, 0x0e, 0x16, 0x1e, 0xa0, 0xa8};
  const auto from = static_cast<SegReg>(random_.pick(6));
  unsigned bits = random_.chance(60) ? mode_bits() : 48u - mode_bits();
  // Whether an operand of 32 bits has its upper half written, too, differs between vendors (SDM 2B "PUSH"), and with it what
  // is checked: not where that matters, and the upper half is made the same below, except on AMD's, where it is known.
  const Window ss = window(SS);
  const uint64_t top = known_[RSP] ? (ss.base + ((*known_[RSP] - 4) & (ss.big ? 0xffffffff : 0xffff))) & ss.mask : 0;
  const bool safe = known_[RSP] && ss.covers(top, 0, 4) && top >> kPageShift == (top + 3) >> kPageShift;
  if (!safe && !on_amd()) bits = 16;
  Encoding e = plain(kPushes[from], bits);
  e.map = from >= FS ? 1 : 0;
  Item item = named("push");
  item.alignment_open = bits == 32 && !on_amd();
  append(e, item);
  move_sp(-static_cast<int64_t>(bits / 8));
  if (bits == 32 && !on_amd()) store_constant(top + 2, 2, 0, true);
  if (random_.chance(60)) {
    static constexpr SegReg kTo[] = {ES, DS, FS, GS};
    const SegReg to = random_.of(kTo);
    if (to == home_ || !selector_[from] || random_.chance(40)) {
      pop(free_register(0), bits);
    } else {
      pop_segment(to, bits);
      loaded(to, *selector_[from]);
    }
  }
}

void Builder::bound() {
  const unsigned bits = random_.chance(60) ? 32 : 16;
  const unsigned reg = free_register(0);
  const uint64_t at = good_target(8, 1);
  const auto wide = [&](uint64_t v) { return static_cast<int64_t>(v << (64 - bits)); };
  std::array<uint64_t, 3> v = {random_.integer(), random_.integer(), random_.integer()};
  if (!faulty_ || random_.chance(60)) {
    std::sort(v.begin(), v.end(), [&](uint64_t a, uint64_t b) { return wide(a) < wide(b); });
  }
  if (random_.chance(20)) v[1] = v[random_.pick(2) * 2];
  store_constant(at, bits / 8, static_cast<uint32_t>(v[0]));
  store_constant(at + bits / 8, bits / 8, static_cast<uint32_t>(v[2]));
  set_register(reg, v[1]);
  const bool anything = faulty_ && random_.chance(20);
  Encoding e = memory_form(0, 0x62, reg, anything ? choose_memory(bits / 4, 1, kAnywhere) : express(at));
  e.operand = low(bits);
  Item item = named("bound");
  item.order_open = anything;  // read in two parts
  append(e, item);
}

// --- far transfers ---------------------------------------------------------------------------------------------------

Builder::Place Builder::code_place(Mode mode) {
  if (mode == Mode::bits64) return {kUserCs, mode};
  if (mode == Mode::bits16) {
    const unsigned window = static_cast<unsigned>(sequence_.index % kSlots) / ldt::kWindowSlots;
    return {ldt::selector(ldt::code16 + window), mode};
  }
  if (generator_.repertoire_.ldt && random_.chance(40)) return {ldt::selector(ldt::code32), mode};
  return {kUserCs32, mode};
}

// Goes on right behind the transfer, in another code segment or the same.
void Builder::far_to(Far how, const Place& to) {
  const uint64_t base = descriptor_of(to.selector)->base;
  const bool reached = sequence_.address + size_ - base < 0xf000;  // by a 16-bit offset
  unsigned bits = is64() ? 64 : 32;
  if (reached && random_.chance(mode_ == Mode::bits16 ? 60 : 20)) bits = 16;
  uint16_t selector = to.selector;
  const bool direct = how == Far::jump || how == Far::call;
  const bool through_memory = how == Far::jump_memory || how == Far::call_memory;
  if ((direct || through_memory) && random_.chance(20)) selector = static_cast<uint16_t>(selector & ~random_.pick(4));
  const auto arrive = [&] {
    mode_ = to.mode;
    loaded(CS, to.selector);
    if (!is64()) {
      for (unsigned r = 0; r < 8; ++r) {
        if (known_[r]) *known_[r] &= 0xffffffff;
      }
    }
  };
  const bool call = how == Far::call || how == Far::call_memory;
  if (direct && !is64()) {
    append(plain(call ? 0x9a : 0xea, bits, uint64_t{selector} << bits, bits / 8 + 2), named("far"));
    if (call) move_sp(-2 * static_cast<int64_t>(bits / 8));
    arrive();
    Item& item = sequence_.items.back();
    const uint64_t offset = here();
    std::memcpy(item.bytes.data() + item.length - bits / 8 - 2, &offset, bits / 8);
    return;
  }
  const unsigned reg = free_register(1 << RAX);
  if (direct || through_memory) {
    if (bits == 64) bits = 32;  // m16:64 exists only on Intel's
    const uint64_t slot = kArena + 0x1100 + random_.below(0x100) * 8;
    store_constant(slot + bits / 8, 2, selector);
    const Label label = load_label(reg);
    Encoding e = memory_form(0, 0x89, reg, express(slot));
    e.operand = low(bits);
    append(e, named("mov"));
    e = memory_form(0, 0xff, call ? 3 : 5, express(slot));
    e.operand = low(bits);
    append(e, named("far"));
    if (call) move_sp(-2 * static_cast<int64_t>(bits / 8));
    arrive();
    bind(label);
    return;
  }
  if (how == Far::iret) {
    need(flags);
    if (is64()) {
      bits = 64;
      copy_register(RAX, RSP);
      push_constant(kUserSs);
      push(RAX);
    }
    append(plain(0x9c, stack_operand(bits)), named("pushf", 0, 0, flags));
    move_sp(-static_cast<int64_t>(bits / 8));
  }
  push_constant(selector, bits);
  const Label label = load_label(reg);
  push(reg, bits);
  const bool from64 = is64();
  const unsigned release = how == Far::ret && random_.chance(30) ? random_.pick(64) : 0;
  if (how == Far::iret) {
    append(plain(0xcf, bits), named("iret", flags));
  } else {
    append(release != 0 ? plain(0xca, bits, release, 2) : plain(0xcb, bits), named("retf"));
  }
  move_sp((how == Far::iret ? from64 ? 5 : 3 : 2) * static_cast<int64_t>(bits / 8) + release);
  arrive();
  bind(label);
}

void Builder::far_transfer() {
  if (is64()) {
    static constexpr Far kFar64[] = {Far::jump_memory, Far::call_memory, Far::ret, Far::iret};
    far_to(random_.of(kFar64), code_place(Mode::bits64));
  } else if (faulty_ && random_.chance(20)) {
    bad_far_transfer();
  } else if (depth_ == 0) {
    visit();
  }
}

// Some items in other code, and back.
void Builder::visit() {
  static constexpr Far kAll[] = {Far::jump, Far::call, Far::jump_memory, Far::call_memory, Far::ret, Far::iret};
  static constexpr Far kBack64[] = {Far::jump_memory, Far::ret, Far::iret};
  const Place from{*selector_[CS], mode_};
  auto mode = static_cast<Mode>(random_.pick(kModes));
  if (mode == Mode::bits16 && !generator_.repertoire_.ldt) mode = Mode::bits32;
  // 64-bit code takes the stack pointer for a linear address; and where it wraps around on the way there, the result has
  // more than 32 bits on some processors.
  const bool firm = known_[RSP] && *known_[RSP] - kPageSize < kTop - kPageSize;
  const bool to64 = selector_[SS] == kUserSs && firm;
  if (mode == Mode::bits64 && !to64) mode = Mode::bits32;
  if (to64 && random_.chance(25)) mode = Mode::bits64;
  const size_t begin = sequence_.items.size();
  far_to(random_.of(kAll), code_place(mode));
  const size_t inner = sequence_.items.size();
  ++depth_;
  for (unsigned i = random_.pick(4); i != 0 && size_ < kSlotSize - 220; --i) random_item();
  --depth_;
  const size_t inner_end = sequence_.items.size();
  far_to(is64() ? random_.of(kBack64) : random_.of(kAll), from);
  for (size_t i = begin + 1; i < sequence_.items.size(); ++i) {
    Item& item = sequence_.items[i];
    item.inner = i >= inner && i < inner_end && !item.tail;
    item.closing = i >= inner_end;
    item.tail = true;
  }
}

// To where nobody may go, or where there is nothing.
void Builder::bad_far_transfer() {
  const uint16_t selector = any_selector();
  const unsigned bits = random_.chance(70) ? 32 : 16;
  uint64_t offset = random_.next() & 0xffff;
  if (const auto d = descriptor_of(selector); d && d->code() && d->present) {
    if (d->last() == 0xffffffff) {
      offset = page_address(PageKind::none) + random_.below(kPageSize);
    } else if (bits == 16 && d->last() >= 0xffff) {
      return;
    } else {
      offset = d->last() + 1 + random_.below(64);
    }
  }
  const unsigned kind = random_.pick(6);
  // Whether a call into 64-bit code pushes as the old code would or as the new is the implementation's business.
  if ((selector | 3) == kUserCs && kind % 2 == 0) return;
  if (kind < 2) {
    append(plain(kind == 0 ? 0x9a : 0xea, bits, offset | uint64_t{selector} << bits, bits / 8 + 2), named("far"));
  } else if (kind < 4) {
    const uint64_t slot = good_target(6, 1);
    if (random_.chance(15)) {  // whatever lies there, if it can be read
      Encoding e = memory_form(0, 0xff, kind == 2 ? 3 : 5, express(page_address(PageKind::none) + random_.below(kPageSize)));
      e.operand = low(bits);
      append(e, named("far"));
      return;
    }
    store_constant(slot, bits / 8, static_cast<uint32_t>(offset));
    store_constant(slot + bits / 8, 2, selector);
    Encoding e = memory_form(0, 0xff, kind == 2 ? 3 : 5, express(slot));
    e.operand = low(bits);
    append(e, named("far"));
  } else {
    if (kind == 4) push_constant(static_cast<uint32_t>(random_.next() & flag::arithmetic), bits);
    push_constant(selector, bits);
    push_constant(static_cast<uint32_t>(offset), bits);
    // A selector of too high a privilege may send the processor to look for SS:SP first.
    Item item = named("far", kind == 4 ? flags : 0);
    item.order_open = true;
    append(plain(kind == 4 ? 0xcf : 0xcb, bits), item);
  }
}

// Code that runs over the limit of its segment, or over the end of a 16-bit instruction pointer.
void Builder::run_over_limit() {
  static constexpr unsigned kSegments[] = {ldt::short_code, ldt::short_code16, ldt::long_code16};
  const uint16_t selector = ldt::selector(random_.of(kSegments));
  const auto d = descriptor_of(selector);
  const uint64_t last = std::min<uint64_t>(d->last(), 0xffff);
  const uint64_t end = d->base + last + 1;
  const unsigned before = 1 + random_.pick(12);
  // nop, add eax, inc ebp, mov eax: they leave no flag undefined, wherever one begins. Behind the end: int3.
  static constexpr uint32_t kFillers[] = {0x90909090, 0x05050505, 0x45454545, 0xb8b8b8b8, 0x05909045, 0x4590b890};
  for (unsigned at = 12; at != 0; at -= 4) store_constant(end - at, 4, random_.of(kFillers));
  for (unsigned at = 0; at < 8; at += 4) store_constant(end + at, 4, 0xcccccccc);
  append(plain(0xea, 32, (last + 1 - before) | uint64_t{selector} << 32, 6), named("far"));
  known_ = {};
  undefined_ = flags;
  ended_ = true;
}

// A branch that the wrong operand size sends to where only 16 bits lead.
void Builder::cut_branch() {
  // Where it leads must lie outside the code: the first 64 KiB.
  if (mode_ != Mode::bits32 || base_[CS] != 0) return;
  Encoding e;
  switch (random_.pick(4)) {
    case 0: e = plain(0xe9, 16, random_.next() & 0xffff, 2); break;
    case 1: e = plain(0xe8, 16, random_.next() & 0xffff, 2); break;
    case 2: e = plain(0xeb, 16, random_.next() & 0x7f, 1); break;
    default: e = register_form(0, 0xff, random_.chance(50) ? 2 : 4, free_register(0)); break;
  }
  e.operand = 16;
  append(e, named("cut branch"));
}

void Builder::composite_legacy() {
  switch (random_.pick(16)) {
    case 0:
    case 1:
    case 2: load_segment(); return;
    case 3:
    case 4: load_far_pointer(); return;
    case 5:
    case 6: push_pop_segment(); return;
    case 7:
    case 8: bound(); return;
    case 9:
      if (faulty_) bad_far_transfer();
      return;
    case 10:
      if (faulty_ && depth_ == 0 && generator_.repertoire_.ldt && random_.chance(30)) run_over_limit();
      return;
    default:
      if (depth_ == 0 && random_.chance(50)) visit();
      return;
  }
}

}  // namespace retrovisor::conformance
