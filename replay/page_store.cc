#include "replay/page_store.h"

#include <sys/mman.h>
#include <xxhash.h>

#include <cstring>

#include "vmm/assert.h"

namespace retrovisor {
namespace {

constexpr size_t kFirstBuckets = size_t{1} << 10;

bool is_zero(const uint8_t* bytes) {
  uint64_t first;
  std::memcpy(&first, bytes, sizeof first);
  // All zero: the first word is, and each byte equals the one eight before.
  return first == 0 && std::memcmp(bytes, bytes + sizeof first, kPageSize - sizeof first) == 0;
}

}  // namespace

PageStore::PageStore() : entries_(1), buckets_(kFirstBuckets, kZeroPage), zeroes_(std::make_unique<uint8_t[]>(kPageSize)) {}
PageStore::~PageStore() = default;

void PageStore::Unmap::operator()(uint8_t* slab) const { munmap(slab, kSlabPages * kPageSize); }

PageId PageStore::allocate() {
  if (free_ != kZeroPage) {
    const PageId id = free_;
    free_ = entries_[id].next;
    return id;
  }
  const size_t id = entries_.size();
  RV_ASSERT(id < UINT32_MAX);
  if (id / kSlabPages >= slabs_.size()) {
    constexpr size_t kBytes = kSlabPages * kPageSize;
    void* slab = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    RV_ASSERT(slab != MAP_FAILED);  // address space only: the host's memory is what the budget is for
    madvise(slab, kBytes, MADV_HUGEPAGE);
    slabs_.emplace_back(static_cast<uint8_t*>(slab));
  }
  entries_.emplace_back();
  return static_cast<PageId>(id);
}

PageId PageStore::intern(const uint8_t* bytes) {
  if (is_zero(bytes)) return kZeroPage;
  const XXH128_hash_t xxh = XXH3_128bits(bytes, kPageSize);
  const Hash hash{xxh.low64, xxh.high64};
  for (PageId id = buckets_[hash.low & (buckets_.size() - 1)]; id != kZeroPage; id = entries_[id].next) {
    if (entries_[id].hash != hash || std::memcmp(at(id), bytes, kPageSize) != 0) continue;
    ++entries_[id].references;
    return id;
  }
  if (used_ >= buckets_.size()) grow_buckets();
  const PageId id = allocate();
  std::memcpy(at(id), bytes, kPageSize);
  PageId& bucket = buckets_[hash.low & (buckets_.size() - 1)];
  entries_[id] = {hash, 1, bucket};
  bucket = id;
  ++used_;
  return id;
}

void PageStore::release(PageId id) {
  if (id == kZeroPage) return;
  Entry& e = entries_[id];
  RV_ASSERT(e.references != 0);
  if (--e.references != 0) return;
  PageId* link = &buckets_[e.hash.low & (buckets_.size() - 1)];
  while (*link != id) link = &entries_[*link].next;
  *link = e.next;
  e.next = free_;
  free_ = id;
  --used_;
}

void PageStore::grow_buckets() {
  std::vector<PageId> larger(buckets_.size() * 2, kZeroPage);
  for (PageId first : buckets_) {
    while (first != kZeroPage) {
      const PageId next = entries_[first].next;
      PageId& bucket = larger[entries_[first].hash.low & (larger.size() - 1)];
      entries_[first].next = bucket;
      bucket = first;
      first = next;
    }
  }
  buckets_ = std::move(larger);
}

}  // namespace retrovisor
