// Types out of hostile memory: read or refused in bounded time, and then safe to use, whatever is asked of them, and to make
// DWARF of that holds together.
#include "analysis/linux/dwarf.h"
#include "tests/fuzz/target.h"
#include "tests/unit/linux/btf_bytes.h"
#include "tests/unit/linux/dwarf_reader.h"

namespace retrovisor::fuzz {
namespace {

void ask(const Btf& btf) {
  size_t asked = 0;
  for (uint32_t i = 0; i < btf.end(); ++i) {
    const auto id = BtfId(i);
    const Btf::Type t = btf.type(id);
    FUZZ_CHECK(static_cast<uint32_t>(btf.resolve(id)) < btf.end());
    FUZZ_CHECK(static_cast<uint32_t>(t.type) < btf.end());
    if (t.kind == Btf::Kind::structure || t.kind == Btf::Kind::union_) {
      for (uint32_t m = 0; m < t.count && asked < 2000; ++m, ++asked) {
        const Btf::Member member = btf.member(id, m);
        const uint64_t bits = member.bits != 0 ? member.bits : uint64_t{8} * btf.size_of(member.type).value();
        FUZZ_CHECK(member.bit + bits <= uint64_t{8} * t.size);
        const auto found = btf.field(id, member.name);
        FUZZ_CHECK(found.ok() || member.name.find_first_of(".[") != std::string_view::npos);
      }
    }
    if (!t.name.empty() && asked < 2000) FUZZ_CHECK(!btf.all(t.name, t.kind).empty());
  }
}

// With each function and variable that it names somewhere.
void describe(const Btf& btf) {
  KernelSymbols symbols;
  symbols.symbols.push_back({0, 'A', "__per_cpu_start"});
  for (uint32_t i = 1; i < btf.end(); ++i) {
    const Btf::Type t = btf.type(BtfId(i));
    const uint64_t at = symbols.symbols.size();
    if (t.kind == Btf::Kind::function)
      symbols.symbols.push_back({kLinkedText + 16 * at, at % 3 == 0 ? 't' : 'T', std::string(t.name)});
    if (t.kind != Btf::Kind::section) continue;
    for (uint32_t v = 0; v < t.count; ++v) {
      const Btf::Placed placed = btf.placed(BtfId(i), v);
      symbols.symbols.push_back({placed.offset, 'A', std::string(btf.type(placed.variable).name)});
    }
  }
  const std::array<uint8_t, 64> code = {0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00};
  const DebugSections made = make_debug_sections(btf, symbols, ImageMemory(kLinkedText + 16, code), 0x1000);
  DwarfReader reader(made);
  FUZZ_CHECK(reader.read().has_value());
  FUZZ_CHECK(symbols_elf(symbols, 0x1000, &made).size() > made.info.size());
}

}  // namespace

size_t max_input() { return 16384; }

// The first word says how many bytes are the kernel's; the rest are a module's.
void run(std::span<const uint8_t> data) {
  Input input(data);
  const auto kernel = Btf::parse(input.bytes(input.number<uint16_t>()));
  if (!kernel) {
    FUZZ_CHECK(!kernel.error().message.empty());
    return;
  }
  ask(*kernel);
  describe(*kernel);
  const auto module = Btf::parse(input.rest(), &*kernel);
  if (!module) return;
  ask(*module);
  describe(*module);
}

std::vector<Bytes> seeds() {
  const SomeBtf some;
  const Bytes kernel = some.b.build();
  BtfBytes module(some.b);
  module.structure("own", 88, {{"task", some.task, 0}, {"next", some.task_pointer, 640}});
  module.add(Btf::Kind::function, "own_function", some.proto, 1);
  Bytes alone, both;
  append(alone, static_cast<uint16_t>(kernel.size()));
  append(alone, kernel);
  both = alone;
  append(both, module.build());
  return {alone, both};
}

}  // namespace retrovisor::fuzz
