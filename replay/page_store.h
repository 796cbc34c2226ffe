// Pages of guest memory kept by content: equal pages are kept once, whoever keeps them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "vmm/types.h"

namespace retrovisor {

// Number of a page in the store. 0 is the page of zeroes, which costs nothing.
using PageId = uint32_t;
inline constexpr PageId kZeroPage = 0;

class PageStore {
 public:
  PageStore();
  ~PageStore();
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  // The page with these kPageSize bytes, with one reference more than it had. Looked up by XXH3-128, and compared: a guest
  // may know how to make two pages with one hash.
  PageId intern(const uint8_t* bytes);
  void retain(PageId id) {
    if (id != kZeroPage) ++entries_[id].references;
  }
  // Gives a reference back; a page without any is gone.
  void release(PageId id);
  // Valid until the page is gone.
  const uint8_t* bytes(PageId id) const { return id == kZeroPage ? zeroes_.get() : at(id); }

  uint64_t pages() const { return used_; }
  // Bytes of the pages held and of what the store knows about each.
  uint64_t memory() const { return used_ * kBytesPerPage; }
  // What one page more costs at most.
  static constexpr uint64_t kBytesPerPage = kPageSize + 64;

 private:
  struct Hash {
    uint64_t low = 0;
    uint64_t high = 0;
    bool operator==(const Hash&) const = default;
  };
  struct Entry {
    Hash hash;
    uint32_t references = 0;
    PageId next = kZeroPage;  // in the same bucket, or of the free ones
  };
  // Pages come from the host in pieces of this many.
  static constexpr size_t kSlabPages = 512;
  struct Unmap {
    void operator()(uint8_t* slab) const;
  };
  using Slab = std::unique_ptr<uint8_t, Unmap>;

  uint8_t* at(PageId id) const { return slabs_[id / kSlabPages].get() + (id % kSlabPages) * kPageSize; }
  PageId allocate();
  void grow_buckets();

  std::vector<Slab> slabs_;
  std::vector<Entry> entries_;
  std::vector<PageId> buckets_;  // a power of two
  PageId free_ = kZeroPage;
  uint64_t used_ = 0;
  std::unique_ptr<uint8_t[]> zeroes_;
};

}  // namespace retrovisor
