// Which pages code touches, for whoever wants to know (Engine::track_touched).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace retrovisor::soft {

// A set of page numbers that is mostly told what it knows already.
class PageLog {
 public:
  PageLog() { recent_.fill(kNone); }
  void note(uint64_t page) {
    uint64_t& recent = recent_[(page ^ page >> 10) % kRecent];
    if (recent == page) return;
    recent = page;
    pages_.push_back(page);
    if (pages_.size() >= compact_at_) compact();
  }
  // Ascending, each page once; empties the log.
  std::vector<uint64_t> take() {
    compact();
    recent_.fill(kNone);
    compact_at_ = kCompactAt;
    return std::exchange(pages_, {});
  }

 private:
  static constexpr uint64_t kNone = ~uint64_t{0};  // no page number has more than 52 bits
  static constexpr size_t kRecent = 1024;
  static constexpr size_t kCompactAt = size_t{1} << 16;
  void compact() {
    std::sort(pages_.begin(), pages_.end());
    pages_.erase(std::unique(pages_.begin(), pages_.end()), pages_.end());
    compact_at_ = std::max(kCompactAt, 2 * pages_.size());
  }

  std::array<uint64_t, kRecent> recent_;
  std::vector<uint64_t> pages_;
  size_t compact_at_ = kCompactAt;
};

struct TouchedLog {
  PageLog executed;
  PageLog written;
  PageLog accessed;
};

}  // namespace retrovisor::soft
