#include "replay/checkpoint_touched.h"

#include <algorithm>
#include <iterator>

namespace retrovisor {
namespace {

// Seven bits at a time, the lowest first; the high bit says that more follow.
void put(std::vector<uint8_t>& out, uint64_t v) {
  for (; v >= 0x80; v >>= 7) out.push_back(static_cast<uint8_t>(v | 0x80));
  out.push_back(static_cast<uint8_t>(v));
}

uint64_t take(const std::vector<uint8_t>& in, size_t& at) {
  uint64_t v = 0;
  for (unsigned shift = 0;; shift += 7) {
    const uint8_t byte = in[at++];
    v |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return v;
  }
}

}  // namespace

std::vector<PageRange> joined(std::vector<PageRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](PageRange a, PageRange b) { return a.first < b.first; });
  std::vector<PageRange> out;
  for (const PageRange r : ranges) {
    if (!out.empty() && r.first <= out.back().last)
      out.back().last = std::max(out.back().last, r.last);
    else
      out.push_back(r);
  }
  return out;
}

std::vector<uint64_t> PageSet::pages() const {
  std::vector<uint64_t> out;
  uint64_t page = 0;
  for (size_t at = 0; at < coded_.size();) out.push_back(page += take(coded_, at));
  return out;
}

void PageSet::add(const std::vector<uint64_t>& more) {
  std::vector<uint64_t> all;
  const std::vector<uint64_t> now = pages();
  std::set_union(now.begin(), now.end(), more.begin(), more.end(), std::back_inserter(all));
  if (all.size() == now.size()) return;
  coded_.clear();
  uint64_t last = 0;
  for (const uint64_t page : all) {
    put(coded_, page - last);
    last = page;
  }
  coded_.shrink_to_fit();
}

bool PageSet::meets(const std::vector<PageRange>& ranges) const {
  uint64_t page = 0;
  auto range = ranges.begin();
  for (size_t at = 0; at < coded_.size();) {
    page += take(coded_, at);
    while (range != ranges.end() && range->last < page) ++range;
    if (range == ranges.end()) return false;
    if (range->first <= page) return true;
  }
  return false;
}

void Touched::add(const StretchPages& pages, EventMask events) {
  executed_.add(pages.executed);
  written_.add(pages.written);
  accessed_.add(pages.accessed);
  physical_.add(pages.physical);
  events_ |= events;
}

void Touched::add(const Touched& other) {
  executed_.add(other.executed_);
  written_.add(other.written_);
  accessed_.add(other.accessed_);
  physical_.add(other.physical_);
  events_ |= other.events_;
}

bool Touched::meets(const SearchPages& search) const {
  return (events_ & search.events) != 0 || executed_.meets(search.executed) || written_.meets(search.written) ||
         accessed_.meets(search.accessed) || physical_.meets(search.physical);
}

}  // namespace retrovisor
