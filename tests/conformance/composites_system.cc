// Composite items around the machine rather than its data: changed code, segments, single steps, exceptions.
#include "tests/conformance/builder.h"

namespace retrovisor::conformance {

using namespace status;

// Writes code into a page that is writable and executable, runs it, changes it, runs it again.
void Builder::self_modifying() {
  if (!is64() && generator_.repertoire_.ldt && random_.chance(40)) {
    self_modifying_far();
    return;
  }
  // The page lies outside the other code segments, and the code counts on a flat DS.
  if (!is64() && (base_[CS] != 0 || selector_[DS] != kUserSs)) return;
  const uint64_t at = kExecutable + (random_.below(kPageSize - 64) & ~uint64_t{random_.chance(50) ? 7u : 0u});
  const auto call = [&] {
    const unsigned reg = free_register(0);
    set_register(reg, at);
    append(register_form(0, 0xff, 2, reg), named("call"));
  };
  if (random_.chance(50)) {
    // alu r32, r32; ret. Then with other registers and another operation.
    for (unsigned round = 0; round < 2 + random_.pick(2); ++round) {
      const unsigned destination = free_register(0xff00);
      static constexpr uint8_t kOpcodes[] = {0x01, 0x29, 0x39, 0x89};
      const uint8_t opcode = random_.of(kOpcodes);
      store_constant(at, 4, 0xc3u << 16 | (0xc0u | random_.pick(8) << 3 | destination) << 8 | opcode);
      if (random_.chance(80)) call();
      // Whether it was called or not, what it wrote is not known, nor the flags: MOV leaves them.
      known_[destination].reset();
    }
    return;
  }
  // mov byte [address], opcode; nop...; ret: changes an instruction ahead of itself, in the same block.
  const unsigned distance = random_.pick(6);
  const auto field = static_cast<uint32_t>(is64() ? distance : at + 7 + distance);
  static constexpr uint8_t kFlagOps[] = {0xf8, 0xf9, 0xfc, 0xfd, 0x90, 0x98, 0x99};
  store_constant(at, 4, 0x05c6 | field << 16);
  store_constant(at + 4, 4, field >> 16 | uint32_t{random_.of(kFlagOps)} << 16 | 0x90u << 24);
  store_constant(at + 8, 4, 0x90909090);
  store_constant(at + 12, 4, 0xc3c3c3c3);
  need(CF);
  for (unsigned calls = 1 + random_.pick(2); calls != 0; --calls) {
    call();
    forget(1 << RAX | 1 << RDX);
  }
}

// The same through other code segments, which is to say by far calls: alu r, r; retf.
void Builder::self_modifying_far() {
  const bool narrow = random_.chance(50);
  const uint16_t selector = ldt::selector(narrow ? ldt::arena_code16 : ldt::arena_code32);
  const uint64_t at = kExecutable + random_.below(kPageSize - 16);
  for (unsigned round = 0; round < 2 + random_.pick(2); ++round) {
    const unsigned destination = free_register(0);
    static constexpr uint8_t kOpcodes[] = {0x01, 0x29, 0x39, 0x89};
    const uint32_t alu = (0xc0u | random_.pick(8) << 3 | destination) << 8 | random_.of(kOpcodes);
    store_constant(at, 4, (narrow ? 0xcb66u : 0x90cbu) << 16 | alu);
    if (random_.chance(80)) append(plain(0x9a, 32, (at - kArena) | uint64_t{selector} << 32, 6), named("far"));
    known_[destination].reset();
  }
}

// Code that goes on where its page ends, in one that is not there. Works in flat code alone.
void Builder::run_off_page() {
  if (base_[CS] != 0) return;
  const uint64_t end = kExecutable + kPageSize;
  // nop, add eax, push rbp, mov eax: they leave no flag undefined, wherever one begins.
  static constexpr uint32_t kFillers[] = {0x90909090, 0x05050505, 0x55555555, 0xb8b8b8b8, 0x05909055, 0x5590b890};
  for (unsigned at = 12; at != 0; at -= 4) store_constant(end - at, 4, random_.of(kFillers));
  const unsigned reg = free_register(0);
  set_register(reg, end - 1 - random_.below(12));
  append(register_form(0, 0xff, 4, reg), named("jmp"));
  known_ = {};
  undefined_ = flags;
  ended_ = true;
}

void Builder::segment_bases() {
  const unsigned reg = free_register(0);
  const auto which = random_.pick(4);  // RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE
  const bool wide = random_.chance(70);
  if (which >= 2) set_register(reg, random_.chance(80) ? random_.next() >> 17 : random_.integer());
  Encoding e = register_form(1, 0xae, which, reg);
  e.rep = 0xf3;
  e.operand = wide ? 64 : 32;
  append(e, named("fsgsbase"));
  if (which < 2) known_[reg].reset();
  // The bases that memory operands count on are gone.
  ended_ = ended_ || which >= 2;
}

void Builder::composite_system() {
  const unsigned kind = random_.pick(10);
  if (kind < 4) {
    self_modifying();
  } else if (kind < 6) {
    inspect_selector();
  } else if (kind < 8) {
    load_segment();
  } else if (kind < 9 && depth_ == 0 && is64() && generator_.repertoire_.fsgsbase && sequence_.mode == Mode::bits64) {
    segment_bases();
  }
}

// Single step: #DB behind the next instruction, or behind one iteration of a repeated one.
void Builder::single_step() {
  const auto arm = [&] {
    need(flags);
    const unsigned bits = random_.chance(80) ? mode_bits() : is64() || mode_ == Mode::bits32 ? 16 : 32;
    push_constant(static_cast<uint32_t>((random_.next() & 0xcd5) | flag::TF), bits);
    append(plain(0x9d, stack_operand(bits)), named("popf", flags));
    move_sp(bits / 8);
  };
  if (random_.chance(30)) {
    const auto point = [&](unsigned reg, SegReg segment) {
      const uint64_t target = page_address(PageKind::read_write) + 64 + random_.below(kPageSize - 128);
      set_register(reg, window(segment).offset(target));
    };
    point(RSI, DS);
    point(RDI, ES);
    set_register(RCX, random_.below(4));
    arm();
    // CMPS and SCAS: which flags the trap behind an iteration finds is the implementation's business.
    static constexpr uint8_t kStrings[] = {0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae, 0xaf};
    Encoding e = plain(kStrings[random_.pick(own_model() ? 10 : 6)]);
    e.rep = e.opcode < 0xaa && e.opcode >= 0xa6 && random_.chance(50) ? uint8_t{0xf2} : uint8_t{0xf3};
    append(e, named("rep"));
    forget(1 << RAX | 1 << RCX | 1 << RSI | 1 << RDI);
    return;
  }
  const auto ss = selector_[SS];
  if (ss && random_.chance(15)) {  // a load of SS holds the trap back for an instruction
    const unsigned reg = free_register(0);
    set_register(reg, *ss);
    arm();
    append(register_form(0, 0x8e, SS, reg), named("mov"));
    append_bytes({0x90}, "nop");
    append_bytes({0x90}, "nop");
    return;
  }
  arm();
  if (!is64() && depth_ == 0 && random_.chance(15)) {
    visit();
    return;
  }
  // Not the first half of a composite: it may leave behind what the second half hides.
  (void)random_form();
}

void Builder::composite_fault() {
  struct Bytes {
    uint8_t length;
    uint8_t bytes[7];
  };
  static constexpr Bytes kFaults[] = {
      // #UD
      {2, {0x0f, 0x0b}}, {3, {0x0f, 0xb9, 0xc0}}, {2, {0x0f, 0x04}}, {2, {0x0f, 0x0a}}, {2, {0x0f, 0x0c}},
      {3, {0x0f, 0x24, 0xc0}}, {3, {0x0f, 0x26, 0xc0}}, {2, {0x0f, 0x36}}, {2, {0x0f, 0x39}},
      {3, {0xf0, 0x01, 0xc8}},  // lock add eax, ecx
      {4, {0xf0, 0x8b, 0x45, 0x00}},  // lock mov
      {3, {0xf0, 0x39, 0x0b}},  // lock cmp
      {2, {0xf0, 0x90}},  // lock nop
      {4, {0xf0, 0x0f, 0xa3, 0x03}},  // lock bt
      {2, {0x8e, 0xc8}},  // mov cs, ax
      {2, {0x8c, 0xf0}},  // mov eax, segment register 6
      {2, {0xff, 0xf8}}, {2, {0xfe, 0xd0}}, {4, {0x0f, 0xba, 0xc0, 0x01}}, {3, {0xc6, 0xc8, 0x00}}, {2, {0x8d, 0xc0}},
      {2, {0xd9, 0xd1}}, {2, {0xd9, 0xe2}}, {2, {0xda, 0xe0}}, {2, {0xdb, 0xe5}}, {2, {0xdf, 0xe1}},
      {2, {0xd9, 0x08}}, {4, {0x0f, 0x71, 0xc0, 0x01}}, {3, {0x0f, 0x13, 0xc0}}, {3, {0x0f, 0x2b, 0xc0}},
      {3, {0x0f, 0xe7, 0xc0}}, {3, {0x0f, 0xd7, 0x00}}, {3, {0x0f, 0xc7, 0xc8}}, {2, {0x0f, 0xaa}},
      // #GP: privileged
      {1, {0xf4}}, {1, {0xfa}}, {1, {0xfb}}, {2, {0xe4, 0x80}}, {2, {0xe6, 0x80}}, {1, {0xec}}, {1, {0xef}},
      {1, {0x6c}}, {1, {0x6f}}, {2, {0x0f, 0x06}}, {2, {0x0f, 0x08}}, {2, {0x0f, 0x09}}, {2, {0x0f, 0x30}},
      {2, {0x0f, 0x32}}, {3, {0x0f, 0x20, 0xc0}}, {3, {0x0f, 0x22, 0xd8}}, {3, {0x0f, 0x21, 0xf8}},
      {3, {0x0f, 0x23, 0xc0}}, {3, {0x0f, 0x00, 0xd0}}, {3, {0x0f, 0x00, 0xd8}},
      {3, {0x0f, 0x01, 0xf0}}, {3, {0x0f, 0x01, 0xf8}},
      // software interrupts, traps (not INT1: hypervisors have been seen to report the wrong RIP)
      {1, {0xcc}}, {2, {0xcd, 0x03}}, {2, {0xcd, 0x04}}, {2, {0xcd, 0x0d}}, {2, {0xcd, 0x21}},
      {2, {0xcd, 0xff}},
  };
  // #UD in 64-bit mode alone.
  static constexpr Bytes kFaults64[] = {
      {1, {0x06}}, {1, {0x07}}, {1, {0x0e}}, {1, {0x16}}, {1, {0x17}}, {1, {0x1e}}, {1, {0x1f}}, {1, {0x27}},
      {1, {0x2f}}, {1, {0x37}}, {1, {0x3f}}, {1, {0x60}}, {1, {0x61}}, {3, {0x82, 0xc0, 0x01}}, {1, {0xce}},
      {2, {0xd4, 0x0a}}, {7, {0xea, 0, 0, 0, 0, 0x33, 0}}, {7, {0x9a, 0, 0, 0, 0, 0x33, 0}},
  };
  // And elsewhere alone.
  static constexpr Bytes kFaultsLegacy[] = {
      {4, {0xf3, 0x0f, 0xae, 0xc0}}, {4, {0xf3, 0x0f, 0xae, 0xd8}},  // rdfsbase, wrgsbase
      {2, {0xd4, 0x00}},        // aam 0: #DE
      {3, {0xf0, 0x40, 0x90}}, {2, {0xf0, 0x27}}, {2, {0xf0, 0x60}}, {3, {0xf0, 0x63, 0xc0}},
  };
  if (random_.chance(15)) {
    single_step();
    return;
  }
  if (depth_ == 0 && random_.chance(5)) {
    run_off_page();
    return;
  }
  if (random_.chance(15)) {
    const Bytes& f = is64() ? random_.of(kFaults64) : random_.of(kFaultsLegacy);
    append_bytes(std::span<const uint8_t>(f.bytes, f.length), named("fault"));
    return;
  }
  if (random_.chance(4)) {  // sixteen bytes: #GP
    const std::array<uint8_t, 8> prefixes = {0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e};
    append_bytes(prefixes, named("prefixes"));
    append_bytes({0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x01, 0xc0}, "add");
    return;
  }
  const Bytes& f = random_.of(kFaults);
  append_bytes(std::span<const uint8_t>(f.bytes, f.length), named("fault"));
}

}  // namespace retrovisor::conformance
