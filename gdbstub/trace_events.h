// Looks events up in a trace: by number, or around a position.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "traces/format.h"
#include "vmm/result.h"

namespace retrovisor::gdb {

struct NumberedEvent {
  uint64_t number = 0;  // from 0, in the order of the trace
  TraceEvent event;
};

// Both read the trace from its beginning, which can take long: `interrupted` is asked now and then, and true is an error.
using Interrupted = std::function<bool()>;
struct EventsAround {
  std::vector<NumberedEvent> events;
  std::optional<EndRecord> end;  // how the recording ended, if no more events come before that
};
// At most `before` events of `kinds` before `at` and `after` from there on, in order.
Result<EventsAround> events_around(const std::string& trace, EventMask kinds, Position at, size_t before,
                                   size_t after, const Interrupted& interrupted = {});
// The event with this number, if there are so many.
Result<std::optional<NumberedEvent>> event_number(const std::string& trace, uint64_t number,
                                                  const Interrupted& interrupted = {});

}  // namespace retrovisor::gdb
