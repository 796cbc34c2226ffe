// Any code with any registers in every mode: run in one piece and run in pieces with digests taken between them, it must
// come to the same state. So it must when the state moves to another machine now and then, if the first machine forgets its
// translations at the same places: what a TLB still holds of page tables that have changed since is no part of the state.
#include <memory>
#include <set>

#include "tests/fuzz/brief_boundary.h"
#include "tests/fuzz/target.h"
#include "vmm/machine/machine.h"

namespace retrovisor::fuzz {
namespace {

constexpr uint64_t kInstructions = 3000;
constexpr unsigned kIdleWaits = 50;
constexpr uint64_t kRam = kMinRam;

// Everything lies at the same linear and physical address.
constexpr uint64_t kGdt = 0x1000, kIdt = 0x2000, kTss = 0x3000, kHandlers = 0x6000;
constexpr uint64_t kStack = 0x8000, kUserStack = 0x9000, kStack0 = 0xa000;
constexpr uint64_t kCode = 0x10000, kData = 0x20000, kTables = 0x40000;
constexpr uint16_t kCode0 = 8, kData0 = 16, kCode3 = 24, kData3 = 32, kTssSelector = 40;

enum class Mode : uint8_t { real16, protected32, paged32, pae32, long64, count };

class Writer {
 public:
  explicit Writer(GuestMemory& memory) : memory_(memory) {}
  template <class T>
  void put(uint64_t at, T v) {
    uint8_t raw[sizeof v];
    std::memcpy(raw, &v, sizeof v);
    bytes(at, raw);
  }
  void bytes(uint64_t at, std::span<const uint8_t> v) { FUZZ_CHECK(memory_.write(PhysAddr(at), v)); }

 private:
  GuestMemory& memory_;
};

uint64_t descriptor(uint32_t attributes, uint64_t base = 0, uint32_t limit = 0xfffff) {
  return (limit & 0xffff) | (base & 0xffffff) << 16 | uint64_t{attributes & 0xf0ff} << 40 | uint64_t{limit & 0xf0000} << 32 |
         (base >> 24 & 0xff) << 56;
}
uint64_t gate(uint64_t offset, unsigned dpl) {
  return (offset & 0xffff) | uint64_t{kCode0} << 16 | uint64_t{14 | dpl << 5 | seg::P} << 40 | (offset & 0xffff0000) << 32;
}
bool has_error_code(unsigned vector) {
  return vector == vec::DF || (vector >= vec::TS && vector <= vec::PF) || vector == vec::AC;
}

// Handlers go on one byte behind the start of the instruction that faulted, so that much of any code is reached.
void put_handlers(Writer& out, Mode mode) {
  for (unsigned v = 0; v < 256; ++v) {
    const uint64_t at = kHandlers + v * 16;
    Bytes code;
    if (mode == Mode::real16) {
      code = {0x55, 0x89, 0xe5, 0xff, 0x46, 0x02, 0x5d, 0xcf};  // push bp; mov bp, sp; inc word [bp+2]; pop bp; iret
      out.put<uint16_t>(v * 4, static_cast<uint16_t>(at));
      out.put<uint16_t>(v * 4 + 2, 0);
    } else if (mode == Mode::long64) {
      if (has_error_code(v)) code = {0x48, 0x83, 0xc4, 0x08};   // add rsp, 8
      append(code, Bytes{0x48, 0xff, 0x04, 0x24, 0x48, 0xcf});  // inc qword [rsp]; iretq
      out.put(kIdt + v * 16, gate(at, 3));
      out.put<uint64_t>(kIdt + v * 16 + 8, 0);
    } else {
      if (has_error_code(v)) code = {0x83, 0xc4, 0x04};
      append(code, Bytes{0xff, 0x04, 0x24, 0xcf});
      out.put(kIdt + v * 8, gate(at, 3));
    }
    out.bytes(at, code);
  }
}

void put_page_tables(Writer& out, Mode mode, uint64_t missing) {
  constexpr uint64_t kAll = 7;
  if (mode == Mode::paged32) {
    for (unsigned i = 0; i < kRam >> 22; ++i)
      out.put<uint32_t>(kTables + i * 4,
                        static_cast<uint32_t>(i == 1 ? (kTables + 0x1000) | kAll : i << 22 | kAll | pte::PS));
    for (unsigned i = 0; i < 1024; ++i)
      out.put<uint32_t>(
          kTables + 0x1000 + i * 4,
          i == missing % 1024 ? 0 : static_cast<uint32_t>((i * 37 % 1024 + 1024) << 12 | (i % 5 == 0 ? 1 : kAll)));
    return;
  }
  const uint64_t directory = mode == Mode::pae32 ? kTables + 0x1000 : kTables + 0x2000;
  if (mode == Mode::pae32) {
    out.put<uint64_t>(kTables, directory | 1);
  } else {
    out.put<uint64_t>(kTables, (kTables + 0x1000) | kAll);
    out.put<uint64_t>(kTables + 0x1000, directory | kAll);
    out.put<uint64_t>(kTables + 0x800, (kTables + 0x1000) | kAll);  // the upper half too
  }
  for (uint64_t i = 0; i < kRam >> 21; ++i)
    out.put<uint64_t>(directory + i * 8, i == 1 ? (kTables + 0x3000) | kAll : i << 21 | kAll | pte::PS);
  for (uint64_t i = 0; i < 512; ++i)
    out.put<uint64_t>(kTables + 0x3000 + i * 8,
                      i == missing % 512 ? 0 : (i * 37 % 512 + 512) << 12 | (i % 5 == 0 ? 1 : kAll));
}

struct Guest {
  Mode mode{};
  unsigned cpl = 0;
  uint8_t options = 0;
  uint64_t missing = 0;
  std::array<uint64_t, 16> gpr{};
  Bytes code;
};

Guest read_guest(Input& in) {
  Guest g;
  g.mode = static_cast<Mode>(in.byte() % static_cast<unsigned>(Mode::count));
  g.options = in.byte();
  g.cpl = (g.options & 1) != 0 && g.mode != Mode::real16 ? 3 : 0;
  g.missing = in.byte();
  for (unsigned i = 0; i < 16; ++i) {
    const uint8_t form = in.byte();
    // Mostly addresses of data, of code, of pages with holes; or any number.
    g.gpr[i] = form < 96    ? kData + form * 32u
               : form < 128 ? kCode + form
               : form < 192 ? 0x200000 + (form - 128) * 0xff8u
               : form < 224 ? form
                            : in.number<uint64_t>();
  }
  const auto code = in.rest();
  g.code.assign(code.begin(), code.end());
  return g;
}

void load(Machine& m, const Guest& g) {
  Writer out(m.memory());
  put_handlers(out, g.mode);
  out.bytes(kCode, g.code);
  for (unsigned i = 0; i < 512; ++i)
    out.put<uint64_t>(kData + i * 8, uint64_t{0x3ff0000000000000} + i * uint64_t{0x0101010101010101});
  CpuState& s = m.vcpu(VcpuId(0)).state;
  s = CpuState::at_reset(VcpuId(0));
  s.gpr = g.gpr;
  s.x87.fcw = 0x37f;
  s.x87.tag = (g.options & 2) != 0 ? 0x5a : 0;
  for (unsigned i = 0; i < 16; ++i) s.xmm[i].q[0] = s.xmm[i].q[1] = g.gpr[i] * 0x9e3779b97f4a7c15;
  s.rflags = flag::fixed | ((g.options & 4) != 0 ? flag::IF : 0) | ((g.options & 8) != 0 ? flag::TF : 0);
  s.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | ((g.options & 16) != 0 ? cr4::OSXSAVE | cr4::DE | cr4::FSGSBASE : 0);
  s.gpr[RSP] = g.cpl == 3 ? kUserStack : kStack;
  if (g.mode == Mode::real16) {
    for (Segment& x : s.segment) x = {0, 0xffff, seg::P | seg::S | 3, 0};
    s.segment[CS] = {kCode, 0xffff, seg::P | seg::S | 3, kCode >> 4};
    s.segment[ES] = s.segment[DS] = {kData, 0xffff, seg::P | seg::S | 3, kData >> 4};
    s.idtr = {0, 0x3ff};
    s.rip = 0;
    return;
  }
  const bool wide = g.mode == Mode::long64;
  const uint32_t size = wide ? seg::L : seg::DB;
  for (const unsigned dpl : {0u, 3u}) {
    out.put(kGdt + (dpl == 0 ? kCode0 : kCode3), descriptor(seg::P | seg::S | seg::G | 11 | dpl << 5 | size));
    out.put(kGdt + (dpl == 0 ? kData0 : kData3), descriptor(seg::P | seg::S | seg::G | seg::DB | 3 | dpl << 5));
  }
  out.put(kGdt + kTssSelector, descriptor(seg::P | 11, kTss, 0x67));
  out.put<uint64_t>(kTss + 4, kStack0);
  if (!wide) out.put<uint32_t>(kTss + 8, kData0);
  out.put<uint16_t>(kTss + 0x66, (g.options & 32) != 0 ? 0x60 : 0x68);
  s.gdtr = {kGdt, 0x3f};
  s.idtr = {kIdt, 0xfff};
  s.tr = {kTss, 0x67, seg::P | 11, kTssSelector};
  s.ldtr = {0, 0, seg::unusable, 0};
  const auto selector = [&](unsigned zero, unsigned three) { return static_cast<uint16_t>(g.cpl == 3 ? three | 3 : zero); };
  for (Segment& x : s.segment)
    x = {0, 0xffffffff, seg::P | seg::S | seg::G | seg::DB | 3 | g.cpl << 5, selector(kData0, kData3)};
  s.segment[CS] = {0, 0xffffffff, seg::P | seg::S | seg::G | 11 | g.cpl << 5 | size, selector(kCode0, kCode3)};
  s.rip = kCode;
  s.cr0 = cr0::PE | cr0::ET | cr0::NE | ((g.options & 64) != 0 ? cr0::WP | cr0::AM : 0);
  if (g.mode == Mode::protected32) return;
  put_page_tables(out, g.mode, g.missing);
  s.cr0 |= cr0::PG;
  s.cr3 = kTables;
  s.cr4 |= g.mode == Mode::paged32 ? cr4::PSE : cr4::PAE;
  if (g.mode == Mode::pae32) s.pdpte[0] = (kTables + 0x1000) | 1;
  if (wide) s.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
  if (wide) s.star = uint64_t{kCode0} << 32 | uint64_t{kData0} << 48;
  s.lstar = s.cstar = kHandlers;
}

std::unique_ptr<Machine> make_machine(BriefBoundary& boundary) {
  MachineConfig config;
  config.memory_size = kRam;
  auto m = Machine::create(config, boundary);
  FUZZ_CHECK(m.ok());
  return std::move(*m);
}

struct Outcome {
  Stop stop;
  Position position;
  VirtualTime time;
  StateDigest digest;
  Bytes console;
};

Outcome run_whole(const Guest& guest) {
  BriefBoundary boundary(kIdleWaits);
  const auto m = make_machine(boundary);
  load(*m, guest);
  m->engine().state_changed(m->vcpu(VcpuId(0)));
  Outcome out;
  out.stop = m->run_until(Position(kInstructions));
  out.position = m->position();
  out.time = m->now();
  FUZZ_CHECK(out.position.value <= kInstructions);
  FUZZ_CHECK(out.stop.reason != StopReason::position || out.position.value == kInstructions);
  out.digest = m->digest();
  out.console = boundary.console;
  return out;
}

// What happens at some of the cuts.
enum class At : uint8_t { nothing, forgets_translations, moves };

Outcome run_in_pieces(const Guest& guest, uint64_t cuts, At at_cuts) {
  BriefBoundary boundary(kIdleWaits);
  auto m = make_machine(boundary);
  load(*m, guest);
  m->engine().state_changed(m->vcpu(VcpuId(0)));
  std::set<uint64_t> touched;
  const auto take_digest = [&] {
    const StateDigest d = m->digest();
    touched.insert(m->last_dirty_pages().begin(), m->last_dirty_pages().end());
    return d;
  };
  Outcome out;
  for (unsigned i = 0; m->position().value < kInstructions && out.stop.reason == StopReason::position; ++i) {
    const uint64_t choice = cuts >> (i * 7 % 57);
    const uint64_t length = (choice & 3) == 0 ? 1 : (choice & 3) == 1 ? 1 + (choice >> 2 & 15) : 50 + (choice >> 2 & 0xff);
    out.stop = m->run_until(Position(std::min(m->position().value + length, kInstructions)));
    if (out.stop.reason != StopReason::position || i > 40) continue;
    if (choice % 5 == 0) take_digest();
    if (choice % 11 != 0 || i % 4 != 0) continue;
    if (at_cuts == At::forgets_translations) {
      m->engine().state_changed(m->vcpu(VcpuId(0)));
    } else if (at_cuts == At::moves) {
      const StateDigest before = take_digest();
      auto next = make_machine(boundary);
      for (const uint64_t page : touched) {
        const PhysAddr at(page << kPageShift);
        FUZZ_CHECK(next->memory().write(at, std::span(m->memory().host(at), kPageSize)));
      }
      FUZZ_CHECK(next->restore_state(m->save_cpu_state(), m->save_device_state()).ok());
      next->memory_changed();
      m = std::move(next);
      FUZZ_CHECK(take_digest() == before);
    }
  }
  out.position = m->position();
  out.time = m->now();
  out.digest = take_digest();
  out.console = boundary.console;
  return out;
}

void put_guest(Bytes& out, Mode mode, uint8_t options, std::initializer_list<uint8_t> code) {
  append(out, uint64_t{0x123456789abcdef1} - (options & 1));  // with and without moves
  out.insert(out.end(), {static_cast<uint8_t>(mode), options, 3});
  for (unsigned i = 0; i < 16; ++i) out.push_back(static_cast<uint8_t>(i * 13));
  out.insert(out.end(), code);
}

}  // namespace

size_t max_input() { return 1024; }

void run(std::span<const uint8_t> data) {
  Input in(data);
  const auto cuts = in.number<uint64_t>();
  const Guest guest = read_guest(in);
  const bool moving = (cuts & 7) == 1;
  const Outcome a = moving ? run_in_pieces(guest, cuts, At::forgets_translations) : run_whole(guest);
  const Outcome b = run_in_pieces(guest, cuts, moving ? At::moves : At::nothing);
  FUZZ_CHECK(a.stop.reason == b.stop.reason && a.stop.detail == b.stop.detail);
  FUZZ_CHECK(a.position == b.position && a.time == b.time);
  FUZZ_CHECK(a.console == b.console);
  FUZZ_CHECK(a.digest == b.digest);
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> out;
  const auto seed = [&](Mode mode, uint8_t options, std::initializer_list<uint8_t> code) {
    put_guest(out.emplace_back(), mode, options, code);
  };
  for (const uint8_t options : {uint8_t{0}, uint8_t{4}, uint8_t{0x57}, uint8_t{8}}) {
    // Arithmetic, memory, a loop; string instructions; stack; a store into code that runs next.
    seed(Mode::long64, options,
         {0xb9, 0x40, 0,    0,    0,    0x48, 0x01, 0xc8, 0x48, 0x89, 0x03, 0x48, 0xf7, 0xe1, 0xe2, 0xf5, 0x50, 0x5b,
          0xf3, 0xab, 0xc6, 0x05, 0x01, 0,    0,    0,    0x40, 0x90, 0x0f, 0xa2, 0x0f, 0x31, 0x0f, 0x05, 0xeb, 0xdc});
    seed(Mode::long64, options,
         {0x0f, 0x58, 0xc1, 0x66, 0x0f, 0xef, 0xd0, 0xd9, 0x03, 0xd9, 0xfe, 0xdd, 0x1b, 0x0f, 0xae, 0x07, 0x66, 0x0f,
          0x38, 0x00, 0xc1, 0xf2, 0x0f, 0x38, 0xf1, 0xc1, 0x0f, 0xc7, 0x0b, 0xf0, 0x0f, 0xb1, 0x0b, 0xeb, 0xdd});
    seed(Mode::protected32, options, {0x6a, 0x10, 0x1f, 0xb8, 0x10, 0, 0, 0,    0x8e, 0xc0, 0x60, 0x61, 0xcd, 0x80,
                                      0x9a, 0,    0,    1,    0,    8, 0, 0xc8, 8,    0,    2,    0xc9, 0xeb, 0xe6});
    seed(Mode::real16, options, {0xb8, 0x34, 0x12, 0x8e, 0xd8, 0xcd, 0x21, 0xf3, 0xa4, 0x66, 0x67, 0x8b,
                                 0x04, 0x24, 0x27, 0x37, 0xd4, 0x0a, 0x0f, 0x01, 0xe0, 0xeb, 0xe9});
    // Pages with holes and of two privileges; INVLPG; the timer, the interrupt flag and HLT.
    for (const Mode mode : {Mode::paged32, Mode::pae32})
      seed(mode, options, {0xbb, 0,    0,    0x40, 0, 0xb9, 0x20, 0,    0,    0,    0x89, 0x03, 0x8b, 0x13,
                           0x81, 0xc3, 0xf8, 0x0f, 0, 0,    0x0f, 0x01, 0x3b, 0xe2, 0xf1, 0xeb, 0xe3});
    seed(Mode::long64, options, {0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x20, 0xe6, 0x40, 0xb0, 0,    0xe6, 0x40, 0xb0, 0x11,
                                 0xe6, 0x20, 0xb0, 0x40, 0xe6, 0x21, 0xb0, 4,    0xe6, 0x21, 0xb0, 1,    0xe6, 0x21,
                                 0xb0, 0xfe, 0xe6, 0x21, 0xfb, 0xf4, 0xb0, 0x20, 0xe6, 0x20, 0xeb, 0xf8});
  }
  return out;
}

}  // namespace retrovisor::fuzz
