// Reads a trace from its first byte to its last and sums up what is in it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "traces/format.h"
#include "traces/reader.h"
#include "vmm/result.h"

namespace retrovisor {

struct TraceSummary {
  TraceHeader header;
  std::optional<EndRecord> end;                // none: the recording was cut off
  Position through;                            // a replay can go this far
  std::array<uint64_t, kEventKinds> events{};  // by kind
  uint64_t total_events = 0;
  uint64_t digests = 0;
  uint64_t key_frames = 0;  // parts
  uint64_t chunks = 0;
  uint64_t file_size = 0;
  uint64_t whole_size = 0;  // up to the end of the last whole chunk
  uint64_t torn_bytes = 0;  // of a chunk that was not written completely

  bool complete() const { return end.has_value(); }
  // "complete", or what is missing.
  std::string completeness() const;
};

// The whole file, checked as a reader would. Any damage is an error with its offset; a file that was cut off is not.
Result<TraceSummary> verify_trace(const std::string& path, TraceReader::Options options = {});

}  // namespace retrovisor
