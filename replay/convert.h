// Makes a trace that is exact to the instruction out of one whose positions count events, by replaying it once.
#pragma once

#include <functional>
#include <string>

#include "replay/replay_session.h"

namespace retrovisor {

struct ConvertOptions {
  std::function<bool()> stop_requested;                 // may be empty
  std::function<void(const ReplayProgress&)> progress;  // may be empty
  std::string tool_version;
};

struct ConvertResult {
  ReplayResult replay;  // of the original; nothing was converted unless it ended as recorded
  Position events;        // of the original, as far as it goes
  Position instructions;  // of the new trace
  uint64_t digests = 0;  // in the new trace, beside that of the end marker
  uint64_t trace_bytes = 0;
};

// Writes `output`. Events keep their guest times; positions become those of the replay on the soft engine; digests that were
// found equal are taken over where their state is one on arrival at an instruction. The new trace gets its end marker only
// if the old one was whole and replayed to its end. The same trace gives the same bytes each time.
Result<ConvertResult> convert(const std::string& trace, const BootImages& images, const std::string& output,
                              const ConvertOptions& options);

}  // namespace retrovisor
