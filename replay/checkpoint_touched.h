// Which pages were touched in a stretch of a recording, kept small: what searches backwards skip stretches by.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/journal.h"
#include "vmm/observer.h"

namespace retrovisor {

// Page numbers from first to last, both included.
struct PageRange {
  uint64_t first = 0;
  uint64_t last = 0;
};
// Sorted, and joined where they meet.
std::vector<PageRange> joined(std::vector<PageRange> ranges);

// A set of page numbers, as the distances between them in variable length.
class PageSet {
 public:
  // Adds `pages`, ascending.
  void add(const std::vector<uint64_t>& pages);
  void add(const PageSet& other) { add(other.pages()); }
  // `ranges` as joined() leaves them.
  bool meets(const std::vector<PageRange>& ranges) const;
  std::vector<uint64_t> pages() const;
  uint64_t memory() const { return coded_.capacity(); }

 private:
  std::vector<uint8_t> coded_;
};

// What a search looks for.
struct SearchPages {
  std::vector<PageRange> executed;
  std::vector<PageRange> written;
  std::vector<PageRange> accessed;
  EventMask events = 0;
};

// What happened in a stretch; linear pages, whatever address space was current.
class Touched {
 public:
  void add(const TouchedPages& pages, EventMask events);
  void add(const Touched& other);
  bool meets(const SearchPages& search) const;
  uint64_t memory() const { return executed_.memory() + written_.memory() + accessed_.memory(); }

 private:
  PageSet executed_;
  PageSet written_;
  PageSet accessed_;
  EventMask events_ = 0;
};

}  // namespace retrovisor
