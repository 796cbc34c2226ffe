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

TraceReader::Mark KeyFramePlace::begin() const {
  TraceReader::Mark m;
  m.chunk_offset = extent.begin;
  m.sequence = extent.first_sequence;
  m.last = m.through = position;
  m.events = events;
  m.digests = digests;
  return m;
}

TraceReader::Mark KeyFramePlace::behind() const {
  TraceReader::Mark m = begin();
  m.chunk_offset = extent.end;
  m.sequence = extent.end_sequence;
  return m;
}

uint64_t TraceSummary::key_frame_bytes() const {
  uint64_t sum = 0;
  for (const KeyFramePlace& k : key_frames) sum += k.file_bytes();
  return sum;
}

namespace {

// The reader has just given a part of a key frame. Enters it into the list if it is whole now.
Result<void> note_key_frame(const KeyFrame& part, const TraceReader& reader, bool all_parts, KeyFramePlace& open,
                            std::vector<KeyFramePlace>& list) {
  if (part.part == 0) open = {part.position, part.delta, part.parts, part.events, part.digests, part.state, {}};
  open.extent = reader.key_frame_extent();
  if (all_parts && part.part + 1 != part.parts) return {};
  std::string wrong;
  if (open.delta && list.empty()) wrong = "a key frame of changes has no key frame before it";
  if (!list.empty() && list.back().position == open.position) wrong = "two key frames are at one position";
  if (list.size() == kMaxKeyFrames) wrong = fmt::format("the trace has more than {} key frames", kMaxKeyFrames);
  if (!wrong.empty())
    return Error{ErrorCode::bad_trace, std::move(wrong),
                 fmt::format("{}, file offset {}", reader.path(), open.extent.begin)};
  list.push_back(open);
  return {};
}

}  // namespace

Result<TraceSummary> verify_trace(const std::string& path, TraceReader::Options options) {
  RV_TRY(auto opened, TraceReader::open(path, options));
  TraceReader& reader = *opened;
  TraceSummary out;
  out.header = reader.header();
  KeyFramePlace key_frame;
  for (;;) {
    RV_TRY(auto item, reader.next());
    if (!item.has_value()) break;
    if (const auto* event = std::get_if<TraceEvent>(&*item)) {
      ++out.events[static_cast<size_t>(event->event.kind)];
      ++out.total_events;
    } else if (std::holds_alternative<DigestRecord>(*item)) {
      ++out.digests;
    } else if (const auto* frame = std::get_if<KeyFrame>(&*item)) {
      const bool all_parts = options.key_frames == TraceReader::KeyFrames::decode;
      RV_TRY(note_key_frame(*frame, reader, all_parts, key_frame, out.key_frames));
    } else {
      out.end = std::get<EndRecord>(*item);
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
