// Decoded blocks, cached by guest-physical address, and thrown away precisely when the code they were made of is written.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "vmm/memory/guest_memory.h"
#include "vmm/soft/insn_facts.h"
#include "vmm/soft/op.h"

namespace retrovisor::soft {

// A run of instructions that is entered at its start only. Ops follow the header directly.
struct Block {
  uint64_t phys = 0;         // of the first byte
  uint64_t phys2 = kOnePage; // page of the rest, for the one-instruction blocks that cross a page end; else kOnePage
  uint16_t size = 0;         // bytes
  uint16_t count = 0;        // instructions
  uint8_t mode = 0;          // namespace block_mode
  bool live = true;          // false: invalidated, only still in memory
  uint8_t ops_count = 0;
  bool bound = false;        // the last op's immediate points to this block
  uint8_t linkable = 0;      // bit i: target i lies in the same page and may be linked directly
  Flow flow = Flow::next;    // of the last instruction, which begins at last_offset
  uint16_t last_offset = 0;
  int64_t target = 0;        // of the direct branch that ends it, relative to the block's start
  Block* link[2] = {};       // 0: branch target, 1: fall-through
  Block* next_linked[2] = {};// lists of blocks that link to the same block; slot in next_slot
  uint8_t next_slot[2] = {};
  Block* linked_by = nullptr;
  uint8_t linked_by_slot = 0;
  Block* next_hash = nullptr;
  Block* next_in_page = nullptr;
  Block* next_in_page2 = nullptr;

  static constexpr uint64_t kOnePage = ~uint64_t{0};
  Op* ops() { return reinterpret_cast<Op*>(this + 1); }
};
static_assert(sizeof(Block) % alignof(Op) == 0);

class CodeCache {
 public:
  // `limit`: bytes of blocks to keep; when they are used up everything is thrown away.
  CodeCache(GuestMemory& memory, size_t limit);
  ~CodeCache();

  Block* find(uint64_t phys, uint8_t mode) const;
  // Copies `block` with its `ops` into the cache. May flush everything (see flushes()) first.
  Block* insert(const Block& block, const Op* ops, size_t op_count);

  // Does [phys, phys + size), within one page, touch code that is cached?
  bool overlaps(uint64_t phys, uint64_t size) const;
  // Throws away all blocks made of those bytes. True if there were any.
  bool invalidate(uint64_t phys, uint64_t size);
  void flush();
  // No block goes on across one of these page offsets from here on, nor is one that starts there linked to.
  void cut_at(const std::bitset<kPageSize>& offsets);

  // Makes slot `slot` of `from` lead directly to `to`.
  static void link(Block* from, unsigned slot, Block* to);

  // Undoes all direct links to `block`.
  static void unlink(Block* block);

  // Instructions that have to end their block, because they were seen to touch MMIO.
  bool ends_block(uint64_t phys) const { return !mmio_sites_.empty() && mmio_sites_.contains(phys); }
  void mark_mmio_site(uint64_t phys);

  uint64_t flushes() const { return flushes_; }
  uint64_t invalidations() const { return invalidations_; }
  size_t bytes() const { return used_; }

 private:
  struct Page {
    uint64_t granules = 0;   // bit i: bytes 64 i .. 64 i + 63 hold code
    Block* blocks = nullptr;
  };
  static Block*& next_in(Block* block, uint64_t page) { return block->phys >> kPageShift == page ? block->next_in_page : block->next_in_page2; }
  void add_to_page(uint64_t page, Block* block);
  void kill(Block* block);
  void remove_from_page(uint64_t page, Block* block);
  void* allocate(size_t bytes);
  static size_t hash(uint64_t phys, uint8_t mode) { return ((phys * 0x9e3779b97f4a7c15) >> 47 ^ mode) % kBuckets; }  // 2^64 / phi

  static constexpr size_t kBuckets = 1 << 17;
  static constexpr size_t kArena = size_t{1} << 20;
  static constexpr size_t kMaxSites = 1 << 14;
  GuestMemory& memory_;
  size_t limit_;
  size_t used_ = 0;
  size_t arena_left_ = 0;
  size_t arena_index_ = 0;
  std::byte* arena_next_ = nullptr;
  std::vector<std::unique_ptr<std::byte[]>> arenas_;
  std::vector<Block*> buckets_;
  std::unordered_map<uint64_t, Page> pages_;   // looked up only, never iterated for anything that reaches the guest
  std::unordered_set<uint64_t> mmio_sites_;
  uint64_t flushes_ = 0;
  uint64_t invalidations_ = 0;
};

}  // namespace retrovisor::soft
