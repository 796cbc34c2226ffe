#include "tests/conformance/sequence.h"

#include <capstone/capstone.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "tests/conformance/builder.h"

namespace retrovisor::conformance {

unsigned Sequence::offset(size_t i) const {
  unsigned at = 0;
  for (size_t k = 0; k < i; ++k) at += items[k].length;
  return at;
}

std::vector<Status> Sequence::undefined_before() const {
  std::vector<Status> before(items.size() + 1, 0);
  std::vector<bool> reached(items.size() + 1, false);
  reached[0] = true;
  for (size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    if (!reached[i]) continue;
    if ((item.reads & before[i]) != 0) return {};
    const Status after = (before[i] & ~item.defines) | item.undefines;
    const auto flow = [&](size_t to) {
      before[to] |= after;
      reached[to] = true;
    };
    if (item.target >= 0) flow(static_cast<size_t>(item.target));
    if (!item.always) flow(i + 1);
  }
  return before;
}

void Sequence::write(uint8_t* slot) const {
  std::fill(slot, slot + kSlotSize, uint8_t{0xcc});
  unsigned at = 0;
  for (const Item& item : items) {
    std::copy(item.bytes.begin(), item.bytes.begin() + item.length, slot + at);
    at += item.length;
  }
  const auto put = [&](auto value) {
    std::memcpy(slot + at, &value, sizeof value);
    at += static_cast<unsigned>(sizeof value);
  };
  if (mode == Mode::bits64) {  // jmp rel32
    put(uint8_t{0xe9});
    put(static_cast<uint32_t>(kExit - (address + at + 4)));
  } else {  // jmp kUserCs:kExit
    if (mode == Mode::bits16) put(uint8_t{0x66});
    put(uint8_t{0xea});
    put(static_cast<uint32_t>(kExit));
    put(kUserCs);
  }
}

void Sequence::settle(ProcessorModel vendor) {
  settled = vendor;
  // C1 of FCOMI has been seen on AMD's only.
  const Status open = vendor == ProcessorModel::amd ? 0 : ~status::flags;
  for (Item& item : items) {
    // The transcendental instructions' results, and with them C1, are within a bound and not the host's.
    item.undefines &= item.approximate ? ~status::flags : open;
    item.undefined_on_fault = 0;
  }
}

Sequence empty_sequence(Mode mode) {
  Sequence sequence;
  sequence.mode = mode;
  sequence.address = kCode;
  State& s = sequence.start;
  const uint16_t data = mode == Mode::bits64 ? uint16_t{0} : kUserSs;
  s.selector.fill(data);
  s.selector[SS] = kUserSs;
  s.selector[CS] = mode == Mode::bits64 ? kUserCs : mode == Mode::bits32 ? kUserCs32 : ldt::selector(ldt::code16);
  s.rip = mode == Mode::bits16 ? 0 : kCode;
  s.rflags = flag::IF | flag::fixed;
  s.gpr[RSP] = kStackBegin + 0x1800;
  constexpr uint16_t kFcw = 0x37f;
  constexpr uint32_t kMxcsr = 0x1f80;
  std::memcpy(&s.fx[0], &kFcw, sizeof kFcw);
  std::memcpy(&s.fx[24], &kMxcsr, sizeof kMxcsr);
  return sequence;
}

Generator::Generator(const Repertoire& repertoire) : repertoire_(repertoire) {
  for (auto* make : {&integer_forms, &legacy_forms, &x87_forms, &mmx_sse_forms}) {
    for (const Form& f : make()) {
      if ((repertoire.groups >> static_cast<unsigned>(f.group) & 1) == 0) continue;
      forms_.push_back(f);
      const auto number = static_cast<uint32_t>(forms_.size() - 1);
      for (unsigned mode = 0; mode < kModes; ++mode) {
        const bool is64 = static_cast<Mode>(mode) == Mode::bits64;
        if (f.where == (is64 ? Where::never64 : Where::only64)) continue;
        draw_[mode].insert(draw_[mode].end(), f.weight, number);
      }
    }
  }
}

Sequence Generator::make(uint64_t index) const { return Builder(*this, index).build(); }

void Generator::fill_arena(uint64_t batch, ArenaBytes& out) const {
  Random random(repertoire_.seed ^ 0xa5a5a5a5a5a5a5a5, batch);
  for (size_t at = 0; at < kArenaSize;) {
    const size_t run = std::min<size_t>(kArenaSize - at, 16 * (1 + random.below(8)));
    const unsigned kind = random.pick(6);
    for (size_t i = 0; i < run; i += 8) {
      uint64_t v = 0;
      switch (kind) {
        case 0: v = random.real(); break;
        case 1: v = random.single() | uint64_t{random.single()} << 32; break;
        case 2: v = random.integer(); break;
        case 3: v = random.chance(80) ? 0 : random.below(256) * 0x0101010101010101; break;
        case 4: {
          const Random::Extended x = random.extended();
          v = i % 16 == 0 ? x.significand : x.sign_exponent;
          break;
        }
        default: v = random.next(); break;
      }
      std::memcpy(out.data() + at + i, &v, 8);
    }
    at += run;
  }
}

std::string disassemble(const Sequence& sequence) {
  static constexpr cs_mode kCapstoneModes[kModes] = {CS_MODE_64, CS_MODE_32, CS_MODE_16};
  csh capstone[kModes] = {};
  for (unsigned mode = 0; mode < kModes; ++mode) {
    if (cs_open(CS_ARCH_X86, kCapstoneModes[mode], &capstone[mode]) != CS_ERR_OK) return "";
  }
  std::string out;
  unsigned at = 0;
  for (const Item& item : sequence.items) {
    const uint64_t address = sequence.address + at;
    at += item.length;
    if (std::all_of(item.bytes.begin(), item.bytes.begin() + item.length, [](uint8_t b) { return b == 0x90; })) continue;
    std::string bytes;
    for (unsigned i = 0; i < item.length; ++i) bytes += fmt::format("{:02x} ", item.bytes[i]);
    cs_insn* insn = nullptr;
    const csh handle = capstone[static_cast<unsigned>(item.mode)];
    const size_t count = cs_disasm(handle, item.bytes.data(), item.length, address, 1, &insn);
    const std::string text = count == 0 ? std::string("(?)") : fmt::format("{} {}", insn->mnemonic, insn->op_str);
    out += fmt::format("  {:x}: {:<46}{}\n", address, bytes, text);
    if (count != 0) cs_free(insn, count);
  }
  for (csh& handle : capstone) cs_close(&handle);
  return out;
}

}  // namespace retrovisor::conformance
