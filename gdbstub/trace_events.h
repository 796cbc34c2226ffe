// Looks events up in a trace: by number, or around a position.
#pragma once

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

// At most `before` events of `kinds` before `at` and `after` from there on, in order.
Result<std::vector<NumberedEvent>> events_around(const std::string& trace, EventMask kinds, Position at, size_t before,
                                                 size_t after);
// The event with this number, if there are so many.
Result<std::optional<NumberedEvent>> event_number(const std::string& trace, uint64_t number);

}  // namespace retrovisor::gdb
