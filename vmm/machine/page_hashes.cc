#include "vmm/machine/page_hashes.h"

#include <xxhash.h>

#include <cstring>

namespace retrovisor {

PageHashes::PageHashes(uint64_t pages) : hash_(static_cast<uint64_t*>(std::calloc(pages, sizeof(uint64_t)))) {
  RV_ASSERT(hash_ != nullptr);
}

void PageHashes::update(uint64_t page, const uint8_t* bytes) {
  // All zero: the first word is, and each byte equals the one eight before.
  uint64_t first;
  std::memcpy(&first, bytes, 8);
  const bool zero = first == 0 && std::memcmp(bytes, bytes + 8, kPageSize - 8) == 0;
  // Seeded by the page's number, so that swapped pages do not cancel out.
  const uint64_t h = zero ? 0 : XXH3_64bits_withSeed(bytes, kPageSize, page + 1);
  sum_ += h - hash_[page];
  hash_[page] = h;
}

}  // namespace retrovisor
