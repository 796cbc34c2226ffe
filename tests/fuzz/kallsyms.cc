// Kernel symbol tables out of hostile memory: decoded or refused, in bounded time.
#include "tests/fuzz/target.h"
#include "tests/unit/linux/kallsyms_tables.h"

namespace retrovisor::fuzz {

size_t max_input() { return 65536; }

void run(std::span<const uint8_t> data) {
  const auto found = decode_kallsyms(data);
  if (!found) {
    FUZZ_CHECK(!found.error().message.empty());
    return;
  }
  FUZZ_CHECK(found->symbols.size() <= data.size());
  const std::vector<uint8_t> elf = symbols_elf(*found, 0x1000);
  FUZZ_CHECK(elf.size() > 64 && elf[0] == 0x7f);
}

std::vector<Bytes> seeds() {
  return {some_tables().build(Tables::Layout::before_6_4), some_tables().build(Tables::Layout::from_6_4)};
}

}  // namespace retrovisor::fuzz
