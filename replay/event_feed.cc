#include "replay/event_feed.h"

namespace retrovisor {

Result<std::unique_ptr<EventFeed>> EventFeed::open(const std::string& path, Events which) {
  RV_TRY(auto reader, TraceReader::open(path, {.key_frames = TraceReader::KeyFrames::skip}));
  return std::unique_ptr<EventFeed>(new EventFeed(std::move(reader), which));
}

const TraceEvent* EventFeed::peek(Position upto) {
  while (!pending_ && !exhausted_ && scanned_ <= upto) {
    auto item = reader_->next();
    if (!item) {
      error_ = item.error();
      exhausted_ = true;
      break;
    }
    if (!item->has_value()) {
      exhausted_ = true;
      break;
    }
    TraceItem& found = **item;
    if (auto* event = std::get_if<TraceEvent>(&found)) {
      scanned_ = event->event.position;
      if (is_boundary(event->event.kind) == (which_ == Events::boundary)) pending_ = std::move(*event);
    } else if (const auto* digest = std::get_if<DigestRecord>(&found)) {
      scanned_ = digest->position;
    } else if (const auto* frame = std::get_if<KeyFrame>(&found)) {
      scanned_ = frame->position;
    }
  }
  return pending_ && pending_->event.position <= upto ? &*pending_ : nullptr;
}

Result<void> EventFeed::seek(const Mark& mark) {
  error_.reset();
  pending_ = mark.pending;
  scanned_ = mark.scanned;
  exhausted_ = mark.exhausted;
  return reader_->seek(mark.reader);
}

}  // namespace retrovisor
