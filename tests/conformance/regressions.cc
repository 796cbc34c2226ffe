#include "tests/conformance/regressions.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "tests/conformance/segments.h"
#include "vmm/cpu/registers.h"

namespace retrovisor::conformance {
namespace {

using namespace status;
using Bytes = std::initializer_list<uint8_t>;

constexpr uint64_t kData = kArena + 0x1000;   // the first of two writable pages
constexpr uint64_t kEnd = kArena + 0x3000;    // the end of the second; nothing behind it
constexpr uint64_t kNonCanonical = 0x0000900000000000;

class Recipe {
 public:
  explicit Recipe(const char* name, Mode mode = Mode::bits64) : result_{name, empty_sequence(mode)} {}
  Recipe& set(unsigned gpr, uint64_t value) {
    result_.sequence.start.gpr[gpr] = value;
    return *this;
  }
  Recipe& xmm(unsigned reg, uint64_t low, uint64_t high) {
    std::memcpy(&result_.sequence.start.fx[160 + 16 * reg], &low, 8);
    std::memcpy(&result_.sequence.start.fx[168 + 16 * reg], &high, 8);
    return *this;
  }
  Recipe& fcw(uint16_t value) {
    std::memcpy(result_.sequence.start.fx.data(), &value, 2);
    return *this;
  }
  // Loads a segment register from the local descriptor table.
  Recipe& segment(SegReg reg, unsigned index) {
    result_.needs_ldt = true;
    result_.sequence.start.selector[reg] = ldt::selector(index);
    if (reg == FS) return fs_base(local_descriptors()[index].base);
    if (reg == GS) result_.sequence.start.gs_base = local_descriptors()[index].base;
    return *this;
  }
  Recipe& needs_ldt() {
    result_.needs_ldt = true;
    return *this;
  }
  Recipe& fs_base(uint64_t base) {
    result_.sequence.start.fs_base = base;
    return *this;
  }
  Recipe& run(Bytes bytes, Status defines = 0, Status undefines = 0, Status reads = 0) {
    Item item;
    item.name = "fixed";
    std::copy(bytes.begin(), bytes.end(), item.bytes.begin());
    item.length = static_cast<uint8_t>(bytes.size());
    item.mode = result_.sequence.mode;
    item.defines = defines;
    item.undefines = undefines;
    item.reads = reads;
    result_.sequence.items.push_back(item);
    return *this;
  }
  Regression done() const { return result_; }

 private:
  Regression result_;
};

// Compatibility mode: 32- and 16-bit code.
void legacy(std::vector<Regression>& out) {
  const auto add = [&](const Recipe& r) { out.push_back(r.done()); };
  add(Recipe("xlat reads through any segment", Mode::bits32)
          .segment(ES, ldt::odd)
          .set(RBX, 0x100)
          .set(RAX, 0x12345607)
          .run({0x26, 0xd7}));
  add(Recipe("enter sets all of ebp on a 16-bit stack", Mode::bits32)
          .segment(SS, ldt::stack16)
          .set(RSP, 0x1234f800)
          .set(RBP, 0x1234f800)
          .run({0xc8, 0x10, 0x00, 0x03})
          .run({0xc9}));
  add(Recipe("an access over 4 GiB goes on at 0", Mode::bits32)
          .segment(FS, ldt::high)
          .run({0x64, 0xa1, 0xfe, 0x0f, 0x00, 0x00}));
  add(Recipe("a store over 4 GiB goes on at 0", Mode::bits16).segment(GS, ldt::high).run({0x65, 0xa3, 0xff, 0x0f}));
  add(Recipe("pusha stores eax first", Mode::bits32).set(RSP, kStackBegin + 10).run({0x60}));
  add(Recipe("pusha wraps around with a 16-bit stack pointer", Mode::bits16)
          .segment(SS, ldt::wrap16)
          .set(RSP, 0xabcd0008)
          .run({0x60})
          .run({0x61}));
  add(Recipe("push over the end of a 16-bit stack is #SS", Mode::bits32).segment(SS, ldt::wrap16).set(RSP, 2).run({0x50}));
  add(Recipe("bound checks alignment bound by bound", Mode::bits32)
          .set(RBX, kData + 4)
          .run({0x68, 0x02, 0x00, 0x04, 0x00})
          .run({0x9d}, flags)
          .run({0x62, 0x03}));
  static_assert(kExecutable == 0x20008000);  // the store below goes to the end of those segments
  for (const unsigned segment : {unsigned{ldt::short_code16}, unsigned{ldt::long_code16}}) {
    const char* const name = segment == ldt::long_code16 ? "16-bit code goes on where its 64 KiB end"
                                                         : "16-bit code that runs over its 64 KiB is #GP";
    add(Recipe(name, Mode::bits32)
            .needs_ldt()
            .run({0xc7, 0x05, 0xfe, 0x87, 0x00, 0x20, 0x90, 0x90, 0x40, 0xcc})
            .run({0xea, 0xfe, 0xff, 0x00, 0x00, static_cast<uint8_t>(ldt::selector(segment)), 0x00}));
  }
  add(Recipe("a 16-bit branch cuts the instruction pointer", Mode::bits32).run({0x66, 0xeb, 0x00}));
  add(Recipe("a jump beyond the limit is #GP where it stands", Mode::bits16).run({0xe9, 0x00, 0xfb}));
  add(Recipe("a not present stack is #SS with its selector", Mode::bits32)
          .needs_ldt()
          .set(RCX, ldt::selector(ldt::absent))
          .run({0x8e, 0xd1}));
  add(Recipe("null es faults when it is used", Mode::bits32).set(RCX, 0).set(RDI, kData).run({0x8e, 0xc1}).run({0xaa}));
  add(Recipe("rep movsw wraps around with 16-bit addresses", Mode::bits16)
          .segment(ES, ldt::wrap16)
          .segment(DS, ldt::wrap16)
          .set(RSI, 0x5555fffc)
          .set(RDI, 0x66660010)
          .set(RCX, 0x77770006)
          .run({0xf3, 0xa5}));
}

}  // namespace

std::vector<Regression> regressions() {
  std::vector<Regression> out;
  const auto add = [&](const Recipe& r) { out.push_back(r.done()); };
  add(Recipe("adc carries through all sizes")
          .set(RAX, 0xffffffffffffffff)
          .run({0xf9}, CF)
          .run({0x14, 0x00}, flags, 0, CF)
          .run({0x66, 0x83, 0xd0, 0x00}, flags, 0, CF)
          .run({0x83, 0xd0, 0x00}, flags, 0, CF)
          .run({0x48, 0x83, 0xd3, 0xff}, flags, 0, CF));
  add(Recipe("32-bit results clear the upper half, 16-bit ones keep it")
          .set(RAX, 0xffffffff00000001)
          .set(RCX, 0xffffffff00000001)
          .run({0xff, 0xc8}, flags & ~CF)
          .run({0x66, 0xff, 0xc9}, flags & ~CF)
          .run({0x89, 0xd2}));
  add(Recipe("shift counts are taken modulo 32 or 64")
          .set(RCX, 0x41)
          .set(RAX, 0x8000000180000001)
          .set(RDX, 0x8000000180000001)
          .run({0x48, 0xd3, 0xe0}, CF | PF | ZF | SF | OF, AF)
          .run({0xd3, 0xea}, CF | PF | ZF | SF | OF, AF));
  add(Recipe("a shift by zero leaves the flags alone")
          .set(RCX, 0x20)
          .set(RAX, 5)
          .run({0xf9}, CF)
          .run({0xd3, 0xe0})
          .run({0x9c}));
  add(Recipe("a 32-bit shift by zero clears the upper half").set(RCX, 0x20).set(RAX, 0x1234567800000005).run({0xd3, 0xe0}));
  add(Recipe("rcl by nine rotates a byte through carry to itself")
          .set(RAX, 0xa5)
          .set(RCX, 9)
          .run({0xf9}, CF)
          .run({0xd2, 0xd0}, CF, OF, CF));
  add(Recipe("quotient one too large is #DE").set(RDX, 7).set(RCX, 7).run({0x48, 0xf7, 0xf1}, 0, flags));
  add(Recipe("most negative by minus one is #DE")
          .set(RAX, 0x80000000)
          .set(RDX, 0xffffffff)
          .set(RCX, 0xffffffff)
          .run({0xf7, 0xf9}, 0, flags));
  add(Recipe("bts with a negative bit offset reaches below its operand")
          .set(RAX, uint64_t{0} - 65)
          .set(RBX, kData + 0x100)
          .run({0x48, 0x0f, 0xab, 0x03}, CF, flags & ~(CF | ZF)));
  add(Recipe("cmpxchg16b off its alignment is #GP").set(RBX, kData + 8).run({0x48, 0x0f, 0xc7, 0x0b}, ZF));
  add(Recipe("a failing cmpxchg still writes").set(RBX, kArena + 0x5000).set(RAX, 1).run({0x0f, 0xb1, 0x0b}, flags));
  add(Recipe("a store into a missing second page changes nothing in the first")
          .set(RBX, kEnd - 3)
          .set(RAX, 0x1122334455667788)
          .run({0x48, 0x89, 0x03}));
  add(Recipe("rep movsb stops exactly at a missing page")
          .set(RSI, kData)
          .set(RDI, kEnd - 5)
          .set(RCX, 16)
          .run({0xf3, 0xa4}));
  add(Recipe("backward rep stosd stops exactly at a missing page")
          .set(RDI, kData + 8)
          .set(RCX, 9)
          .run({0xfd})
          .run({0xf3, 0xab}));
  add(Recipe("non-canonical address through rbp is #SS").set(RBP, kNonCanonical).run({0x8b, 0x45, 0x00}));
  add(Recipe("non-canonical address through r13 is #GP").set(R13, kNonCanonical).run({0x41, 0x8b, 0x45, 0x00}));
  add(Recipe("push to a non-canonical stack is #SS").set(RSP, kNonCanonical).run({0x50}));
  add(Recipe("32-bit addresses wrap")
          .set(RBX, 0xffffffff00000000 | (kData + 0x1000))
          .set(RCX, 0xfffff000)
          .run({0x67, 0x8b, 0x04, 0x0b}));
  add(Recipe("pop to memory uses the new stack pointer").set(RAX, 0x1234).run({0x50}).run({0x8f, 0x44, 0x24, 0x08}));
  add(Recipe("push rsp stores the old value, pop rsp loads").run({0x54}).run({0x5c}));
  add(Recipe("a misaligned access with AC set is #AC")
          .set(RBX, kData + 1)
          .run({0x68, 0x02, 0x00, 0x04, 0x00})
          .run({0x9d}, flags)
          .run({0x8b, 0x03}));
  add(Recipe("single step traps behind the next instruction")
          .run({0x68, 0x02, 0x01, 0x00, 0x00})
          .run({0x9d}, flags)
          .run({0xff, 0xc0}, flags & ~CF)
          .run({0xff, 0xc0}, flags & ~CF));
  add(Recipe("unordered comparison sets ZF, PF, CF").xmm(0, 0x7ff8000000000000, 0).run({0x66, 0x0f, 0x2e, 0xc1}, flags));
  add(Recipe("conversion out of range gives the indefinite integer")
          .xmm(0, 0x43f0000000000000, 0)
          .run({0xf2, 0x48, 0x0f, 0x2c, 0xc0})
          .run({0xf2, 0x0f, 0x2d, 0xc8}));
  add(Recipe("a misaligned SSE operand is #GP").set(RBX, kData + 8).run({0x0f, 0x58, 0x03}));
  add(Recipe("pcmpistri finds a range")
          .xmm(0, 0x7a61, 0)
          .xmm(1, 0x0041424344454667, 0)
          .run({0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x04}, flags));
  Recipe overflow("stack overflow of the x87 gives the indefinite value");
  for (unsigned i = 0; i < 9; ++i) overflow.run({0xd9, 0xe8});
  add(overflow);
  add(Recipe("an MMX instruction marks all x87 registers as used")
          .run({0x0f, 0xef, 0xc0})
          .run({0xd9, 0xe8})
          .run({0x0f, 0x77}));
  // A store that an unmasked exception holds back was once done without a look at its destination.
  add(Recipe("a page fault comes before the x87 exception that holds the store back")
          .fcw(0x37e)
          .set(RBX, kEnd)
          .run({0xdd, 0x1b}));
  add(Recipe("and without the page fault the next x87 instruction is #MF")
          .fcw(0x37e)
          .set(RBX, kData)
          .run({0xdd, 0x1b})
          .run({0x90})
          .run({0xd9, 0xe8}));
  add(Recipe("xlat reads through a segment prefix").set(RBX, 0x100).fs_base(kData).run({0x64, 0xd7}));
  legacy(out);
  return out;
}

}  // namespace retrovisor::conformance
