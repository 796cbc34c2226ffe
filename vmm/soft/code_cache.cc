#include "vmm/soft/code_cache.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace retrovisor::soft {
namespace {

// Granule bits of the bytes [begin, end) of a page.
uint64_t granule_mask(uint64_t begin, uint64_t end) {
  const uint64_t first = begin >> 6;
  const uint64_t last = (end - 1) >> 6;
  const uint64_t upto = last == 63 ? ~uint64_t{0} : (uint64_t{1} << (last + 1)) - 1;
  return upto & ~((uint64_t{1} << first) - 1);
}

// The part of `block` that lies in `page`, as offsets into the page.
struct Extent {
  uint64_t begin, end;
};
Extent extent_in(const Block* block, uint64_t page) {
  const uint64_t start = block->phys & ~kPageMask;
  if (block->phys >> kPageShift == page) return {start, std::min<uint64_t>(start + block->size, kPageSize)};
  return {0, start + block->size - kPageSize};
}

}  // namespace

CodeCache::CodeCache(GuestMemory& memory, size_t limit) : memory_(memory), limit_(limit), buckets_(kBuckets) {}
CodeCache::~CodeCache() = default;

Block* CodeCache::find(uint64_t phys, uint8_t mode) const {
  for (Block* b = buckets_[hash(phys, mode)]; b != nullptr; b = b->next_hash)
    if (b->phys == phys && b->mode == mode) return b;
  return nullptr;
}

void* CodeCache::allocate(size_t bytes) {
  bytes = (bytes + 31) & ~size_t{31};
  if (arena_left_ < bytes) {
    if (arena_index_ == arenas_.size()) arenas_.push_back(std::make_unique_for_overwrite<std::byte[]>(kArena));
    arena_next_ = arenas_[arena_index_++].get();
    arena_left_ = kArena;
  }
  void* p = arena_next_;
  arena_next_ += bytes;
  arena_left_ -= bytes;
  used_ += bytes;
  return p;
}

Block* CodeCache::insert(const Block& block, const Op* ops, size_t op_count) {
  if (used_ >= limit_) flush();
  void* place = allocate(sizeof(Block) + op_count * sizeof(Op));
  Block* b = new (place) Block(block);
  std::memcpy(static_cast<void*>(b->ops()), ops, op_count * sizeof(Op));
  Block*& bucket = buckets_[hash(b->phys, b->mode)];
  b->next_hash = bucket;
  bucket = b;
  add_to_page(b->phys >> kPageShift, b);
  if (b->phys2 != Block::kOnePage) add_to_page(b->phys2 >> kPageShift, b);
  return b;
}

void CodeCache::add_to_page(uint64_t page, Block* block) {
  Page& p = pages_[page];
  const Extent e = extent_in(block, page);
  p.granules |= granule_mask(e.begin, e.end);
  next_in(block, page) = p.blocks;
  p.blocks = block;
  memory_.flags(page) |= page_flag::code;
}

bool CodeCache::overlaps(uint64_t phys, uint64_t size) const {
  const uint64_t page = phys >> kPageShift;
  const auto it = pages_.find(page);
  if (it == pages_.end()) return false;
  const uint64_t begin = phys & ~kPageMask;
  if ((it->second.granules & granule_mask(begin, begin + size)) == 0) return false;
  for (Block* b = it->second.blocks; b != nullptr; b = next_in(b, page)) {
    const Extent e = extent_in(b, page);
    if (e.begin < begin + size && begin < e.end) return true;
  }
  return false;
}

void CodeCache::link(Block* from, unsigned slot, Block* to) {
  from->link[slot] = to;
  from->next_linked[slot] = to->linked_by;
  from->next_slot[slot] = to->linked_by_slot;
  to->linked_by = from;
  to->linked_by_slot = static_cast<uint8_t>(slot);
}

void CodeCache::unlink(Block* block) {
  for (Block* from = block->linked_by; from != nullptr;) {
    const unsigned slot = block->linked_by_slot;
    block->linked_by = from->next_linked[slot];
    block->linked_by_slot = from->next_slot[slot];
    from->link[slot] = nullptr;
    from = block->linked_by;
  }
}

void CodeCache::kill(Block* block) {
  block->live = false;
  unlink(block);
  for (Block** at = &buckets_[hash(block->phys, block->mode)]; *at != nullptr; at = &(*at)->next_hash) {
    if (*at != block) continue;
    *at = block->next_hash;
    break;
  }
}

void CodeCache::remove_from_page(uint64_t page, Block* block) {
  const auto it = pages_.find(page);
  if (it == pages_.end()) return;
  for (Block** at = &it->second.blocks; *at != nullptr; at = &next_in(*at, page)) {
    if (*at != block) continue;
    *at = next_in(block, page);
    break;
  }
}

bool CodeCache::invalidate(uint64_t phys, uint64_t size) {
  const uint64_t page = phys >> kPageShift;
  const auto it = pages_.find(page);
  if (it == pages_.end()) return false;
  const uint64_t begin = phys & ~kPageMask;
  bool any = false;
  uint64_t left = 0;
  for (Block** at = &it->second.blocks; *at != nullptr;) {
    Block* b = *at;
    const Extent e = extent_in(b, page);
    if (e.begin < begin + size && begin < e.end) {
      *at = next_in(b, page);
      const uint64_t first_page = b->phys >> kPageShift;
      if (first_page != page) remove_from_page(first_page, b);
      if (b->phys2 != Block::kOnePage && b->phys2 >> kPageShift != page) remove_from_page(b->phys2 >> kPageShift, b);
      kill(b);
      any = true;
    } else {
      left |= granule_mask(e.begin, e.end);
      at = &next_in(b, page);
    }
  }
  it->second.granules = left;
  if (it->second.blocks == nullptr) {
    pages_.erase(it);
    memory_.flags(page) = static_cast<uint8_t>(memory_.flags(page) & ~page_flag::code);
  }
  if (any) ++invalidations_;
  return any;
}

void CodeCache::flush() {
  for (const auto& [page, unused] : pages_) memory_.flags(page) = static_cast<uint8_t>(memory_.flags(page) & ~page_flag::code);
  pages_.clear();
  std::fill(buckets_.begin(), buckets_.end(), nullptr);
  used_ = 0;
  arena_left_ = 0;
  arena_index_ = 0;
  mmio_sites_.clear();
  ++flushes_;
}

void CodeCache::cut_at(const std::bitset<kPageSize>& offsets) {
  std::vector<uint16_t> below(kPageSize + 1);  // how many of the offsets lie below
  for (size_t i = 0; i < kPageSize; ++i) below[i + 1] = static_cast<uint16_t>(below[i] + (offsets[i] ? 1 : 0));
  std::vector<Block*> spanning;
  for (const auto& [page, code] : pages_) {
    for (Block* b = code.blocks; b != nullptr; b = next_in(b, page)) {
      if (b->phys2 != Block::kOnePage) continue;  // one instruction, and never linked to
      const Extent e = extent_in(b, page);
      if (below[e.end] != below[e.begin + 1]) spanning.push_back(b);
      else if (offsets[e.begin]) unlink(b);
    }
  }
  for (Block* b : spanning) {
    remove_from_page(b->phys >> kPageShift, b);
    kill(b);
  }
}

void CodeCache::mark_mmio_site(uint64_t phys) {
  if (mmio_sites_.size() < kMaxSites) mmio_sites_.insert(phys);
}

}  // namespace retrovisor::soft
