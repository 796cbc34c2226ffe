// The contents of guest memory at one position: a persistent map from page numbers to pages in the store.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "replay/page_store.h"

namespace retrovisor {

namespace page_map {

// A radix tree of kFanOut ways, 4 bits of the page number per level, whose nodes are shared by all maps that agree on them.
// A node that two maps refer to never changes. Nodes are named by number; 0 is no node, and stands for pages of zeroes.
inline constexpr unsigned kBits = 4;
inline constexpr size_t kFanOut = size_t{1} << kBits;
using NodeId = uint32_t;

struct Node {
  std::array<uint32_t, kFanOut> entry{};  // leaves: PageId, inner nodes: NodeId
  uint32_t references = 0;                // of a node not in use: the next such
};

// Nodes in pieces that never move.
class Pool {
 public:
  Node& operator[](NodeId id) { return (*pieces_[id / kPiece])[id % kPiece]; }
  const Node& operator[](NodeId id) const { return (*pieces_[id / kPiece])[id % kPiece]; }
  // A node of zeroes with one reference.
  NodeId allocate();
  void free(NodeId id);
  uint64_t memory() const { return used_ * sizeof(Node); }
  bool empty() const { return used_ == 0; }

 private:
  static constexpr size_t kPiece = 1024;
  std::vector<std::unique_ptr<std::array<Node, kPiece>>> pieces_;
  NodeId next_ = 1;  // never used so far
  NodeId free_ = 0;
  uint64_t used_ = 0;
};

}  // namespace page_map

// Owns the nodes of all maps over one store and one size of memory; outlives them.
class PageMaps {
 public:
  // `pages`: one past the highest page number.
  PageMaps(PageStore& store, uint64_t pages);
  ~PageMaps();
  PageMaps(const PageMaps&) = delete;
  PageMaps& operator=(const PageMaps&) = delete;

  // Bytes of all nodes.
  uint64_t memory() const { return pool_.memory(); }
  // What changing one page of a map can add to that, at most.
  uint64_t most_per_page() const { return (height_ + 1) * sizeof(page_map::Node); }

 private:
  friend class PageMap;
  using NodeId = page_map::NodeId;

  void release(NodeId node, unsigned level);
  NodeId own(NodeId node, unsigned level);
  NodeId set(NodeId node, unsigned level, uint64_t page, PageId id);
  template <class Visit>
  void differences(NodeId a, NodeId b, unsigned level, uint64_t first, Visit& visit) const;

  PageStore& store_;
  page_map::Pool pool_;
  unsigned height_ = 0;  // levels of inner nodes above the leaves
};

// One map. Copies share everything and cost nothing.
class PageMap {
 public:
  explicit PageMap(PageMaps& maps) : maps_(&maps) {}
  PageMap(const PageMap& other) : maps_(other.maps_), root_(other.root_) {
    if (root_ != 0) ++maps_->pool_[root_].references;
  }
  PageMap(PageMap&& other) noexcept : maps_(other.maps_), root_(std::exchange(other.root_, 0)) {}
  PageMap& operator=(PageMap other) noexcept {
    std::swap(maps_, other.maps_);
    std::swap(root_, other.root_);
    return *this;
  }
  ~PageMap() { maps_->release(root_, maps_->height_); }

  PageId get(uint64_t page) const;
  // Takes over the caller's reference to `id`.
  void set(uint64_t page, PageId id) { root_ = maps_->set(root_, maps_->height_, page, id); }
  // Calls visit(page, id here, id in `other`) for each page in which the two differ, in ascending order. Costs about as
  // much as there are differences.
  template <class Visit>
  void differences(const PageMap& other, Visit&& visit) const {
    maps_->differences(root_, other.root_, maps_->height_, 0, visit);
  }

 private:
  PageMaps* maps_;
  page_map::NodeId root_ = 0;
};

template <class Visit>
void PageMaps::differences(NodeId a, NodeId b, unsigned level, uint64_t first, Visit& visit) const {
  if (a == b) return;
  static constexpr page_map::Node kNothing;
  const page_map::Node& left = a == 0 ? kNothing : pool_[a];
  const page_map::Node& right = b == 0 ? kNothing : pool_[b];
  for (size_t i = 0; i < page_map::kFanOut; ++i) {
    const uint64_t page = first + (static_cast<uint64_t>(i) << (level * page_map::kBits));
    if (level != 0)
      differences(left.entry[i], right.entry[i], level - 1, page, visit);
    else if (left.entry[i] != right.entry[i])
      visit(page, left.entry[i], right.entry[i]);
  }
}

}  // namespace retrovisor
