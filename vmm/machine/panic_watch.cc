#include "vmm/machine/panic_watch.h"

namespace retrovisor {

bool PanicWatch::see(std::span<const uint8_t> bytes) {
  bool ended = false;
  for (const uint8_t b : bytes) {
    if (in_line_) {
      if (b == '\n') {
        in_line_ = false;
        ended = true;
      }
      continue;
    }
    if (b == static_cast<uint8_t>(kText[matched_])) {
      if (++matched_ == kText.size()) {
        matched_ = 0;
        in_line_ = true;
      }
    } else if (b == '-' && matched_ >= 3) {
      matched_ = 3;  // a longer row of dashes still ends in three
    } else {
      matched_ = b == static_cast<uint8_t>(kText[0]) ? 1 : 0;
    }
  }
  return ended;
}

void PanicWatch::save(StateWriter& out) const {
  out.section("panic_watch");
  out.u32("matched", matched_);
  out.boolean("in_line", in_line_);
}

void PanicWatch::restore(StateReader& in) {
  in.section("panic_watch");
  in.u32("matched", matched_);
  in.boolean("in_line", in_line_);
  in.check("matched", matched_ < kText.size());
  if (matched_ >= kText.size()) matched_ = 0;
}

}  // namespace retrovisor
