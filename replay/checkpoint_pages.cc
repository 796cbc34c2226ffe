#include "replay/checkpoint_pages.h"

#include "vmm/assert.h"

namespace retrovisor {

using page_map::kBits;
using page_map::kFanOut;
using page_map::Node;

page_map::NodeId page_map::Pool::allocate() {
  ++used_;
  if (free_ != 0) {
    const NodeId id = free_;
    Node& node = (*this)[id];
    free_ = node.references;
    node = {};
    node.references = 1;
    return id;
  }
  RV_ASSERT(next_ != UINT32_MAX);
  const NodeId id = next_++;
  if (id / kPiece >= pieces_.size()) pieces_.push_back(std::make_unique<std::array<Node, kPiece>>());
  (*this)[id].references = 1;
  return id;
}

void page_map::Pool::free(NodeId id) {
  (*this)[id].references = free_;
  free_ = id;
  --used_;
}

PageMaps::PageMaps(PageStore& store, uint64_t pages) : store_(store) {
  while (pages > kFanOut << (height_ * kBits)) ++height_;
}

PageMaps::~PageMaps() { RV_ASSERT(pool_.empty()); }

void PageMaps::release(NodeId id, unsigned level) {
  if (id == 0) return;
  Node& node = pool_[id];
  if (--node.references != 0) return;
  for (const uint32_t entry : node.entry) {
    if (level == 0)
      store_.release(entry);
    else
      release(entry, level - 1);
  }
  pool_.free(id);
}

// The node itself if only one map refers to it, or a copy of it.
PageMaps::NodeId PageMaps::own(NodeId id, unsigned level) {
  if (id == 0) return pool_.allocate();
  if (pool_[id].references == 1) return id;
  const NodeId copy = pool_.allocate();
  pool_[copy].entry = pool_[id].entry;
  for (const uint32_t entry : pool_[copy].entry) {
    if (level == 0)
      store_.retain(entry);
    else if (entry != 0)
      ++pool_[entry].references;
  }
  --pool_[id].references;
  return copy;
}

PageMaps::NodeId PageMaps::set(NodeId id, unsigned level, uint64_t page, PageId value) {
  id = own(id, level);
  uint32_t& entry = pool_[id].entry[(page >> (level * kBits)) % kFanOut];
  if (level != 0) {
    entry = set(entry, level - 1, page, value);
  } else {
    store_.release(entry);
    entry = value;
  }
  return id;
}

PageId PageMap::get(uint64_t page) const {
  page_map::NodeId node = root_;
  for (unsigned level = maps_->height_; level != 0 && node != 0; --level)
    node = maps_->pool_[node].entry[(page >> (level * kBits)) % kFanOut];
  return node == 0 ? kZeroPage : maps_->pool_[node].entry[page % kFanOut];
}

}  // namespace retrovisor
