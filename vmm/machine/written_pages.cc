#include "vmm/machine/written_pages.h"

#include <algorithm>
#include <utility>

namespace retrovisor {

WrittenPages::WrittenPages(uint64_t page_limit, std::function<void()> collect) : collect_(std::move(collect)), ever_(page_limit) {}

void WrittenPages::note(uint64_t page) {
  ever_[page] = true;
  for (Reader* reader : readers_) reader->note(page);
}

WrittenPages::Reader::Reader(WrittenPages& pages) : pages_(pages), has_(pages.ever_) {
  for (uint64_t page = 0; page < has_.size(); ++page)
    if (has_[page]) noted_.push_back(page);
  pages_.readers_.push_back(this);
}

WrittenPages::Reader::~Reader() { std::erase(pages_.readers_, this); }

void WrittenPages::Reader::note(uint64_t page) {
  if (has_[page]) return;
  has_[page] = true;
  noted_.push_back(page);
}

std::vector<uint64_t> WrittenPages::Reader::take() {
  pages_.collect_();
  std::vector<uint64_t> pages = std::exchange(noted_, {});
  for (const uint64_t page : pages) has_[page] = false;
  if (!std::is_sorted(pages.begin(), pages.end())) std::sort(pages.begin(), pages.end());  // each collection is
  return pages;
}

}  // namespace retrovisor
