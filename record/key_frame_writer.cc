#include "record/key_frame_writer.h"

#include <algorithm>
#include <cstring>

namespace retrovisor {
namespace {

// Pages in one part: 1 MiB, so that neither side needs much memory at once.
constexpr size_t kPartPages = 256;

bool is_zero(const uint8_t* page) { return page[0] == 0 && std::memcmp(page, page + 1, kPageSize - 1) == 0; }

}  // namespace

// By content: a hash of zero is no proof, a guest may know how to make one.
void KeyFrameWriter::pages_of_everything(std::vector<uint64_t>& out) const {
  out.clear();
  for (uint64_t page = 0; page < touched_.size(); ++page)
    if (touched_[page] && !is_zero(machine_.memory().host(PhysAddr(page << kPageShift)))) out.push_back(page);
}

void KeyFrameWriter::write_parts(KeyFrame& frame, const std::vector<uint64_t>& pages) {
  frame.parts = static_cast<uint32_t>(1 + (pages.size() + kPartPages - 1) / kPartPages);
  writer_.key_frame(frame);
  frame.cpu.clear();
  frame.devices.clear();
  frame.state = {};
  for (size_t at = 0; at < pages.size() && !writer_.failed(); at += kPartPages) {
    const auto begin = pages.begin() + static_cast<std::ptrdiff_t>(at);
    frame.pages.assign(begin, begin + static_cast<std::ptrdiff_t>(std::min(kPartPages, pages.size() - at)));
    frame.contents.clear();
    for (const uint64_t page : frame.pages) {
      const uint8_t* bytes = machine_.memory().host(PhysAddr(page << kPageShift));
      frame.contents.insert(frame.contents.end(), bytes, bytes + kPageSize);
    }
    ++frame.part;
    writer_.key_frame(frame);
  }
}

bool KeyFrameWriter::write(const StateDigest& state) {
  if (count_ == kMaxKeyFrames) return false;
  touched_.resize(machine_.memory().page_limit());
  std::vector<uint64_t> pages = written_->take();
  for (const uint64_t page : pages) touched_[page] = true;

  KeyFrame frame;
  frame.position = machine_.position();
  frame.state = state;
  frame.cpu = machine_.save_cpu_state();
  frame.devices = machine_.save_device_state();
  frame.delta = count_ != 0 && changed_pages_ + pages.size() <= whole_pages_;
  changed_pages_ += pages.size();
  if (!frame.delta) {
    pages_of_everything(pages);
    whole_pages_ = pages.size();
    changed_pages_ = 0;
  }
  write_parts(frame, pages);
  ++count_;
  return true;
}

}  // namespace retrovisor
