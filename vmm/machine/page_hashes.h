// One hash per guest page, and their sum: the incremental digest of memory.
#pragma once

#include <cstdlib>
#include <memory>

#include "vmm/memory/guest_memory.h"

namespace retrovisor {

class PageHashes {
 public:
  explicit PageHashes(uint64_t pages);

  // Hashes `page` again; `bytes`: its contents, kPageSize of them.
  void update(uint64_t page, const uint8_t* bytes);
  // Sum of all page hashes. Pages of zeroes count as zero, whether they were ever touched or not.
  uint64_t sum() const { return sum_; }
  uint64_t of(uint64_t page) const { return hash_[page]; }

 private:
  struct Free {
    void operator()(uint64_t* p) const { std::free(p); }
  };
  std::unique_ptr<uint64_t[], Free> hash_;  // from calloc: pages never touched cost nothing
  uint64_t sum_ = 0;
};

}  // namespace retrovisor
