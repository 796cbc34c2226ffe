#include "vmm/endpoint.h"

#include <xxhash.h>

namespace retrovisor {

uint64_t hash_of(const DirectoryQuestion& question) {
  std::string text = question.path;
  const auto number = [&text](uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) text += static_cast<char>(value >> 8 * i & 0xff);
  };
  number(static_cast<uint64_t>(question.what), 1);
  number(question.offset, 8);
  number(question.most, 4);
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace retrovisor
