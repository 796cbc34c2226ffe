// Which pages were touched in a stretch of a recording, kept small: what searches backwards skip stretches by.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/journal.h"
#include "vmm/stepper.h"

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

// The touched pages of a stretch, and the physical pages that were written in it: by whomever, through whatever address.
struct StretchPages : TouchedPages {
  std::vector<uint64_t> physical;

  // At most this many bytes are needed to keep them: page numbers have 52 bits, so eight hold the distance of two.
  uint64_t most() const { return 8 * (executed.size() + written.size() + accessed.size() + physical.size()); }
};

// What a search looks for.
struct SearchPages {
  std::vector<PageRange> executed;
  std::vector<PageRange> written;
  std::vector<PageRange> accessed;
  std::vector<PageRange> physical;  // written
  EventMask events = 0;
};

// What happened in a stretch. Linear pages in whatever address space was current, and physical ones.
class Touched {
 public:
  void add(const StretchPages& pages, EventMask events);
  void add(const Touched& other);
  bool meets(const SearchPages& search) const;
  uint64_t memory() const { return executed_.memory() + written_.memory() + accessed_.memory() + physical_.memory(); }

 private:
  PageSet executed_;
  PageSet written_;
  PageSet accessed_;
  PageSet physical_;
  EventMask events_ = 0;
};

}  // namespace retrovisor
