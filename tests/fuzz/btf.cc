// Types out of hostile memory: read or refused in bounded time, and then safe to use, whatever is asked of them.
#include "analysis/linux/btf.h"
#include "tests/fuzz/target.h"
#include "tests/unit/linux/btf_bytes.h"

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
  const auto module = Btf::parse(input.rest(), &*kernel);
  if (module) ask(*module);
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
