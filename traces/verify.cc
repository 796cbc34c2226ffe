#include "traces/verify.h"

#include <fmt/format.h>

namespace retrovisor {

std::string TraceSummary::completeness() const {
  if (complete()) return "complete";
  std::string out = fmt::format("incomplete (no end marker): replays up to position {}", through.value);
  if (torn_bytes != 0)
    out += fmt::format("; the last chunk, at file offset {}, was cut off after {} bytes", whole_size, torn_bytes);
  return out;
}

Result<TraceSummary> verify_trace(const std::string& path, TraceReader::Options options) {
  auto opened = TraceReader::open(path, options);
  if (!opened) return opened.error();
  TraceReader& reader = **opened;
  TraceSummary out;
  out.header = reader.header();
  for (;;) {
    auto item = reader.next();
    if (!item) return item.error();
    if (!item->has_value()) break;
    if (const auto* event = std::get_if<TraceEvent>(&**item)) {
      ++out.events[static_cast<size_t>(event->event.kind)];
      ++out.total_events;
    } else if (std::holds_alternative<DigestRecord>(**item)) {
      ++out.digests;
    } else if (std::holds_alternative<KeyFrame>(**item)) {
      ++out.key_frames;
    } else {
      out.end = std::get<EndRecord>(**item);
    }
  }
  out.through = reader.through();
  out.chunks = reader.chunks();
  out.file_size = reader.file_size();
  out.whole_size = reader.end_offset();
  out.torn_bytes = reader.torn_bytes();
  return out;
}

}  // namespace retrovisor
