#include "tests/conformance/fault_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "tests/conformance/compare.h"
#include "vmm/cpu/registers.h"

namespace retrovisor::conformance {
namespace {

// Borders of the arena (state.h): nothing before kLow, nothing at and behind kHigh; kReadOnly has a writable page before it.
constexpr uint64_t kLow = kArena + 0x1000, kHigh = kArena + 0x3000, kReadOnly = kArena + 0x5000, kGood = kArena + 0x1800;
constexpr uint64_t kAbsent = kArena + 0x7000, kFaraway = kArena + 0x9000;  // two absent pages
constexpr uint64_t kNonCanonical = 0x0000900000000000, kLastCanonical = 0x00007fffffffffff;

struct Register {
  unsigned number;
  uint64_t value;
};
using Registers = std::initializer_list<Register>;
using Bytes = std::vector<uint8_t>;

class Cases {
 public:
  void add(std::string name, Bytes code, Registers registers, uint64_t flags = 0, Mode mode = Mode::bits64) {
    FaultCase c{std::move(name), empty_sequence(mode)};
    for (unsigned r = 0; r < 16; ++r) {
      if (r != RSP) c.sequence.start.gpr[r] = mode == Mode::bits64 ? 0x1111111111111111 * (r + 1) : 0x11111111U * (r + 1);
    }
    for (const Register& r : registers) c.sequence.start.gpr[r.number] = r.value;
    c.sequence.start.rflags |= flags;
    for (unsigned i = 0; i < 256; ++i) c.sequence.start.fx[160 + i] = static_cast<uint8_t>(i * 7 + 1);
    Item item;
    item.name = "fault";
    std::copy(code.begin(), code.end(), item.bytes.begin());
    item.length = static_cast<uint8_t>(code.size());
    item.mode = mode;
    c.sequence.items.push_back(item);
    all.push_back(std::move(c));
  }
  std::vector<FaultCase> all;
};

// Two operands, each good, absent, half on an absent page, not writable, or not an address at all.
struct Place {
  const char* name;
  uint64_t address;
};
constexpr Place kPlaces[] = {{"good", kGood},           {"absent", kAbsent + 0x40},   {"other absent", kFaraway + 0x80}, {"half", kHigh - 4},
                             {"half low", kLow - 4},    {"read-only", kReadOnly + 8}, {"half read-only", kReadOnly - 4}, {"not canonical", kNonCanonical},
                             {"half canonical", kLastCanonical - 3}};

void two_operands(Cases& c) {
  for (const Place& a : kPlaces) {
    for (const Place& b : kPlaces) {
      if (a.address == kGood && b.address == kGood) continue;
      const std::string places = fmt::format("{}, {}", a.name, b.name);
      c.add("movsq " + places, {0x48, 0xa5}, {{RSI, a.address}, {RDI, b.address}});
      c.add("cmpsq " + places, {0x48, 0xa7}, {{RSI, a.address}, {RDI, b.address}});
      c.add("push m " + places, {0xff, 0x33}, {{RBX, a.address}, {RSP, b.address + 8}});
      c.add("pop m " + places, {0x8f, 0x03}, {{RSP, a.address}, {RBX, b.address}});
      c.add("call m " + places, {0xff, 0x13}, {{RBX, a.address}, {RSP, b.address + 8}});
      c.add("rep movsq " + places, {0xf3, 0x48, 0xa5}, {{RSI, a.address}, {RDI, b.address}, {RCX, 3}});
      c.add("repe cmpsq " + places, {0xf3, 0x48, 0xa7}, {{RSI, a.address}, {RDI, b.address}, {RCX, 3}});
    }
  }
}

void one_operand(Cases& c) {
  struct Form {
    const char* name;
    Bytes code;  // the address is RBX; RSI and RDI as well
  };
  const Form kForms[] = {
      {"mov load", {0x48, 0x8b, 0x03}},
      {"mov store", {0x48, 0x89, 0x03}},
      {"add", {0x48, 0x01, 0x03}},
      {"lock add", {0xf0, 0x48, 0x01, 0x03}},
      {"xchg", {0x48, 0x87, 0x03}},
      {"cmp", {0x48, 0x39, 0x03}},
      {"cmpxchg", {0x48, 0x0f, 0xb1, 0x0b}},
      {"xadd", {0x48, 0x0f, 0xc1, 0x0b}},
      {"cmpxchg8b", {0x0f, 0xc7, 0x0b}},
      {"cmpxchg16b", {0x48, 0x0f, 0xc7, 0x0b}},
      {"cmovc false", {0x48, 0x0f, 0x42, 0x03}},
      {"cmovnc true", {0x48, 0x0f, 0x43, 0x03}},
      {"setc", {0x0f, 0x92, 0x03}},
      {"shl 0", {0x48, 0xc1, 0x23, 0x00}},
      {"shl cl = 0", {0x48, 0xd3, 0x23}},
      {"rcr cl = 0", {0x48, 0xd3, 0x1b}},
      {"rol 64", {0x48, 0xc1, 0x03, 0x40}},
      {"shld 0", {0x48, 0x0f, 0xa4, 0x03, 0x00}},
      {"shrd cl = 0", {0x48, 0x0f, 0xad, 0x03}},
      {"bt", {0x48, 0x0f, 0xba, 0x23, 0x01}},
      {"bts", {0x48, 0x0f, 0xba, 0x2b, 0x01}},
      {"jmp m", {0xff, 0x23}},
      {"movups load", {0x0f, 0x10, 0x03}},
      {"movups store", {0x0f, 0x11, 0x03}},
      {"movaps load", {0x0f, 0x28, 0x03}},
      {"movaps store", {0x0f, 0x29, 0x03}},
      {"movsd store", {0xf2, 0x0f, 0x11, 0x03}},
      {"paddd", {0x66, 0x0f, 0xfe, 0x03}},
      {"movntdq", {0x66, 0x0f, 0xe7, 0x03}},
      {"lddqu", {0xf2, 0x0f, 0xf0, 0x03}},
      {"pcmpistri", {0x66, 0x0f, 0x3a, 0x63, 0x03, 0x00}},
      {"movhps load", {0x0f, 0x16, 0x03}},
      {"movq store", {0x66, 0x0f, 0xd6, 0x03}},
      {"cvtdq2pd", {0xf3, 0x0f, 0xe6, 0x03}},
      {"push qword", {0xff, 0x33}},
      {"inc", {0x48, 0xff, 0x03}},
      {"not", {0x48, 0xf7, 0x13}},
      {"and 0", {0x48, 0x83, 0x23, 0xff}},
      {"movnti", {0x48, 0x0f, 0xc3, 0x03}},
      {"crc32", {0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x03}},
      {"maskmovdqu", {0x66, 0x0f, 0xf7, 0xc1}},
      {"maskmovdqu, mask 0", {0x66, 0x0f, 0xf7, 0xc2}},
      {"stosq", {0x48, 0xab}},
      {"lodsq", {0x48, 0xad}},
      {"scasq", {0x48, 0xaf}},
      {"rep stosq", {0xf3, 0x48, 0xab}},
      {"rep scasq", {0xf2, 0x48, 0xaf}},
      {"rep movsb, count 0", {0xf3, 0xa4}},
      {"prefetch", {0x0f, 0x18, 0x0b}},
      {"clflush", {0x0f, 0xae, 0x3b}},
      {"ldmxcsr", {0x0f, 0xae, 0x13}},
      {"stmxcsr", {0x0f, 0xae, 0x1b}},
      {"div m", {0x48, 0xf7, 0x33}},
      {"call far", {0xff, 0x1b}},
      {"verr", {0x0f, 0x00, 0x23}},
      {"xlat", {0xd7}},
      {"movbe-less bswap load", {0x8b, 0x03}},
  };
  constexpr Place kMore[] = {{"odd", kGood + 1},          {"odd absent", kAbsent + 0x41}, {"odd not canonical", kNonCanonical + 1},
                             {"odd read-only", kReadOnly + 9}, {"half odd", kHigh - 3},   {"half 8 aligned", kHigh - 8}};
  for (const Form& f : kForms) {
    const auto both = [&](const Place& p) {
      for (const bool aligned : {false, true}) {
        // RCX = 0 is a count; XMM2 = 0 is a mask. Flags: CF clear, AC as told.
        c.add(fmt::format("{} {}{}", f.name, p.name, aligned ? ", AC" : ""), f.code,
              {{RBX, p.address}, {RSI, p.address}, {RDI, p.address}, {RCX, 0}}, aligned ? flag::AC : 0);
        std::memset(&c.all.back().sequence.start.fx[160 + 32], 0, 16);
        if (std::string_view(f.name).starts_with("rep s")) c.all.back().sequence.start.gpr[RCX] = 3;
      }
    };
    for (const Place& p : kPlaces) both(p);
    for (const Place& p : kMore) both(p);
  }
}

// How wide the check is that #AC goes with is the implementation's business (SDM 2A, FXSAVE).
void state_images(Cases& c) {
  for (const unsigned off : {1U, 2U, 4U, 8U}) {
    for (const bool checked : {false, true}) {
      const auto name = [&](const char* what) { return fmt::format("{} {} off{}", what, off, checked ? ", AC" : ""); };
      c.add(name("fxsave"), {0x48, 0x0f, 0xae, 0x03}, {{RBX, kGood + off}}, checked ? flag::AC : 0);
      c.add(name("fxrstor"), {0x48, 0x0f, 0xae, 0x0b}, {{RBX, kGood + off}}, checked ? flag::AC : 0);
      c.add(name("fxsave absent"), {0x48, 0x0f, 0xae, 0x03}, {{RBX, kAbsent + off}}, checked ? flag::AC : 0);
      c.add(name("fxsave not canonical"), {0x48, 0x0f, 0xae, 0x03}, {{RBX, kNonCanonical + off}}, checked ? flag::AC : 0);
    }
  }
}

void stacks(Cases& c) {
  struct Form {
    const char* name;
    Bytes code;
    unsigned slots;  // on the stack
  };
  const Form kReaders[] = {{"ret", {0xc3}, 1},         {"ret 16", {0xc2, 0x10, 0x00}, 1}, {"retfq", {0x48, 0xcb}, 2},
                           {"retf", {0xcb}, 2},        {"iretq", {0x48, 0xcf}, 5},        {"iret", {0xcf}, 5},
                           {"pop", {0x58}, 1},         {"popfq", {0x9d}, 1},              {"pop fs", {0x0f, 0xa1}, 1},
                           {"retf 16", {0x48, 0xca, 0x10, 0x00}, 2}};
  for (const Form& f : kReaders) {
    for (unsigned slot = 0; slot <= f.slots; ++slot) {
      const unsigned size = f.name == std::string_view("iret") || f.name == std::string_view("retf") ? 4 : 8;
      for (const unsigned part : {0U, size / 2}) {
        c.add(fmt::format("{} absent from {} on", f.name, slot * size + part), f.code, {{RSP, kHigh - slot * size - part}});
        c.add(fmt::format("{} absent up to {}", f.name, slot * size + part), f.code, {{RSP, kLow - slot * size - part}});
      }
    }
    c.add(fmt::format("{} not canonical", f.name), f.code, {{RSP, kNonCanonical}});
    c.add(fmt::format("{} half canonical", f.name), f.code, {{RSP, kLastCanonical - 3}});
    c.add(fmt::format("{} odd, AC", f.name), f.code, {{RSP, kGood + 1}}, flag::AC);
    c.add(fmt::format("{} odd absent, AC", f.name), f.code, {{RSP, kAbsent + 1}}, flag::AC);
  }
  const Form kWriters[] = {{"push", {0x50}, 1}, {"push imm", {0x6a, 0x01}, 1}, {"pushfq", {0x9c}, 1}, {"call rel", {0xe8, 0, 0, 0, 0}, 1}, {"push fs", {0x0f, 0xa0}, 1}};
  for (const Form& f : kWriters) {
    for (const Place& p : kPlaces) c.add(fmt::format("{} {}", f.name, p.name), f.code, {{RSP, p.address + 8}});
    c.add(fmt::format("{} odd absent, AC", f.name), f.code, {{RSP, kAbsent + 1}}, flag::AC);
    c.add(fmt::format("{} odd not canonical, AC", f.name), f.code, {{RSP, kNonCanonical + 9}}, flag::AC);
  }
  for (const Place& p : kPlaces) {
    c.add(fmt::format("call to a non-canonical address, stack {}", p.name), {0xff, 0xd3}, {{RBX, kNonCanonical}, {RSP, p.address + 8}});
    c.add(fmt::format("leave {}", p.name), {0xc9}, {{RBP, p.address}});
  }
  c.add("jmp to a non-canonical address", {0xff, 0xe3}, {{RBX, kNonCanonical}});
  c.add("jmp to an absent page", {0xff, 0xe3}, {{RBX, kAbsent + 5}});
  c.add("call to an absent page", {0xff, 0xd3}, {{RBX, kAbsent + 5}});
  for (const Place& p : kPlaces) {
    c.add(fmt::format("enter 16, 0; the end {}", p.name), {0xc8, 0x10, 0x00, 0x00}, {{RSP, p.address + 16 + 8}});
    c.add(fmt::format("enter 1000h, 0; the end {}", p.name), {0xc8, 0x00, 0x10, 0x00}, {{RSP, p.address + 0x1000 + 8}});
    c.add(fmt::format("enter 0, 0; the end {}", p.name), {0xc8, 0x00, 0x00, 0x00}, {{RSP, p.address + 8}});
    c.add(fmt::format("enter 16, 3; frames {}", p.name), {0xc8, 0x10, 0x00, 0x03}, {{RSP, kGood}, {RBP, p.address + 16}});
    c.add(fmt::format("enter 16, 3; frames {}, stack absent", p.name), {0xc8, 0x10, 0x00, 0x03}, {{RSP, kLow + 16}, {RBP, p.address + 16}});
  }
  for (const unsigned above : {0U, 4U, 8U, 12U, 20U, 24U}) {
    c.add(fmt::format("enter 8, 1 with {} bytes of stack", above), {0xc8, 0x08, 0x00, 0x01}, {{RSP, kLow + above}, {RBP, kGood}});
    c.add(fmt::format("enter 1, 0 with {} bytes of stack", above), {0xc8, 0x01, 0x00, 0x00}, {{RSP, kLow + above}, {RBP, kGood}});
  }
}

// 32-bit code.
void legacy(Cases& c) {
  for (const unsigned bytes : {0U, 2U, 4U, 10U, 16U, 30U}) {
    c.add(fmt::format("pushad with {} bytes of stack", bytes), {0x60}, {{RSP, kLow + bytes}}, 0, Mode::bits32);
    c.add(fmt::format("popad with {} bytes of stack", bytes), {0x61}, {{RSP, kHigh - bytes}}, 0, Mode::bits32);
    c.add(fmt::format("pusha with {} bytes of stack", bytes), {0x66, 0x60}, {{RSP, kLow + bytes}}, 0, Mode::bits32);
    c.add(fmt::format("popa with {} bytes of stack", bytes), {0x66, 0x61}, {{RSP, kHigh - bytes}}, 0, Mode::bits32);
  }
  for (const Place& p : kPlaces) {
    if (p.address >> 32 != 0) continue;
    c.add(fmt::format("bound {}", p.name), {0x62, 0x03}, {{RBX, p.address}, {RAX, 0}}, 0, Mode::bits32);
    c.add(fmt::format("les {}", p.name), {0xc4, 0x03}, {{RBX, p.address}}, 0, Mode::bits32);
    c.add(fmt::format("arpl {}", p.name), {0x63, 0x03}, {{RBX, p.address}, {RAX, 0}}, 0, Mode::bits32);
    c.add(fmt::format("pop m {}", p.name), {0x8f, 0x03}, {{RBX, p.address}}, 0, Mode::bits32);
    c.add(fmt::format("push m {}, stack absent", p.name), {0xff, 0x33}, {{RBX, p.address}, {RSP, kLow + 2}}, 0, Mode::bits32);
    c.add(fmt::format("cmpsd {}, absent", p.name), {0xa7}, {{RSI, p.address}, {RDI, kAbsent + 2}}, 0, Mode::bits32);
    c.add(fmt::format("movsd {}, absent", p.name), {0xa5}, {{RSI, p.address}, {RDI, kAbsent + 2}}, 0, Mode::bits32);
  }
  for (unsigned slot = 0; slot <= 3; ++slot) {
    c.add(fmt::format("iretd absent from {} on", slot * 4), {0xcf}, {{RSP, kHigh - slot * 4}}, 0, Mode::bits32);
    c.add(fmt::format("iretd absent up to {}", slot * 4), {0xcf}, {{RSP, kLow - slot * 4}}, 0, Mode::bits32);
    if (slot == 3) continue;
    c.add(fmt::format("retf absent from {} on", slot * 4), {0xcb}, {{RSP, kHigh - slot * 4}}, 0, Mode::bits32);
    c.add(fmt::format("retf absent up to {}", slot * 4), {0xcb}, {{RSP, kLow - slot * 4}}, 0, Mode::bits32);
  }
}

}  // namespace

std::vector<FaultCase> fault_cases() {
  Cases c;
  two_operands(c);
  one_operand(c);
  state_images(c);
  stacks(c);
  legacy(c);
  return std::move(c.all);
}

void fill_fault_arena(ArenaBytes& out) {
  for (uint64_t at = 0; at < out.size(); at += 8) {
    const uint64_t value = 0x0101010101010101 * (at >> 3 & 0x7f) + at;
    std::memcpy(&out[at], &value, sizeof value);
  }
}

std::string describe_fault(const FaultCase& c, const ArenaBytes& before, const Outcome& outcome) {
  const State& start = c.sequence.start;
  Outcome o = outcome;
  // Linux reports its own addresses as present, so as not to tell where it lies.
  constexpr uint64_t kKernelAddresses = 0x00007ffffffff000;
  if (o.vector == vec::PF && o.cr2 >= kKernelAddresses) o.error_code |= pf::P;
  std::string text = vector_name(o.vector);
  if (o.vector == kLost) return text;
  if (o.vector != kNoFault) {
    text += fmt::format("({:x})", o.error_code);
    if (o.vector == vec::PF) text += fmt::format(" cr2={:x}", o.cr2);
    if (o.state.rip != start.rip) text += fmt::format(" rip={:x}", o.state.rip);
    if ((o.state.rflags & flag::RF) == 0) text += " no RF";
  }
  static constexpr const char* kGpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  const uint64_t upper = c.sequence.mode == Mode::bits64 ? ~uint64_t{0} : 0xffffffff;
  for (unsigned r = 0; r < 16; ++r) {
    if (((o.state.gpr[r] ^ start.gpr[r]) & upper) != 0) text += fmt::format(" {}={:x}", kGpr[r], o.state.gpr[r] & upper);
  }
  constexpr uint64_t kFlags = flag::arithmetic | flag::DF | flag::TF | flag::NT | flag::AC;
  if (((o.state.rflags ^ start.rflags) & kFlags) != 0) text += fmt::format(" flags={:x}", o.state.rflags & kFlags);
  if (std::memcmp(&o.state.fx[160], &start.fx[160], 256) != 0) text += " xmm";
  for (unsigned l = 0; l < std::min(o.lines_count, kMaxLines); ++l) {
    for (unsigned i = 0; i < kLine; i += 8) {
      uint64_t now = 0, then = 0;
      std::memcpy(&now, &o.lines[l].bytes[i], 8);
      std::memcpy(&then, &before[o.lines[l].offset + i], 8);
      if (now != then) text += fmt::format(" [{:x}]={:x}", o.lines[l].offset + i, now);
    }
  }
  return text;
}

}  // namespace retrovisor::conformance
