#include "gdbstub/trace_events.h"

#include <deque>
#include <iterator>

#include "traces/reader.h"

namespace retrovisor::gdb {
namespace {

// Calls `visit` with each event until it returns false; then `end` with how the recording ended.
template <class Visit, class End>
Result<void> for_each_event(const std::string& trace, const Interrupted& interrupted, Visit&& visit, End&& end) {
  constexpr uint64_t kBetweenAsking = 4096;  // events: a millisecond or less
  RV_TRY(auto reader, TraceReader::open(trace, {.key_frames = TraceReader::KeyFrames::skip}));
  uint64_t number = 0;
  for (;;) {
    if (interrupted && number % kBetweenAsking == 0 && interrupted())
      return Error{ErrorCode::bad_argument, "reading the trace was interrupted", {}};
    RV_TRY(auto item, reader->next());
    if (!item.has_value()) return {};
    if (auto* event = std::get_if<TraceEvent>(&*item);
        event != nullptr && !visit(NumberedEvent{number++, std::move(*event)}))
      return {};
    if (auto* record = std::get_if<EndRecord>(&*item)) end(std::move(*record));
  }
}

}  // namespace

Result<EventsAround> events_around(const std::string& trace, EventMask kinds, Position at, size_t before, size_t after,
                                   const Interrupted& interrupted) {
  EventsAround out;
  std::deque<NumberedEvent> earlier;
  std::vector<NumberedEvent> later;
  RV_TRY(for_each_event(trace, interrupted, [&](NumberedEvent e) {
    if (later.size() == after) return false;
    if ((kinds & mask_of(e.event.event.kind)) == 0) return true;
    if (e.event.event.position >= at) {
      later.push_back(std::move(e));
    } else {
      earlier.push_back(std::move(e));
      if (earlier.size() > before) earlier.pop_front();
    }
    return true;
  }, [&](EndRecord end) { out.end = std::move(end); }));
  out.events.assign(std::make_move_iterator(earlier.begin()), std::make_move_iterator(earlier.end()));
  out.events.insert(out.events.end(), std::make_move_iterator(later.begin()), std::make_move_iterator(later.end()));
  return out;
}

Result<std::optional<NumberedEvent>> event_number(const std::string& trace, uint64_t number,
                                                  const Interrupted& interrupted) {
  std::optional<NumberedEvent> found;
  RV_TRY(for_each_event(trace, interrupted, [&](NumberedEvent e) {
    if (e.number != number) return true;
    found = std::move(e);
    return false;
  }, [](const EndRecord&) {}));
  return found;
}

}  // namespace retrovisor::gdb
