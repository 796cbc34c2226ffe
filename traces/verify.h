// Reads a trace from its first byte to its last and sums up what is in it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "traces/format.h"
#include "traces/reader.h"
#include "vmm/result.h"

namespace retrovisor {

// A whole key frame and where it is.
struct KeyFramePlace {
  Position position;
  bool delta = false;
  uint32_t parts = 0;
  uint64_t events = 0;  // before it
  uint64_t digests = 0;
  StateDigest state;
  TraceReader::Extent extent;

  uint64_t file_bytes() const { return extent.end - extent.begin; }
  // For TraceReader::seek(): to its first part, and to what follows it.
  TraceReader::Mark begin() const;
  TraceReader::Mark behind() const;
};

struct TraceSummary {
  TraceHeader header;
  std::optional<EndRecord> end;                // none: the recording was cut off
  Position through;                            // a replay can go this far
  std::array<uint64_t, kEventKinds> events{};  // by kind
  uint64_t total_events = 0;
  uint64_t digests = 0;
  std::vector<KeyFramePlace> key_frames;       // in ascending order; the first is no delta
  uint64_t chunks = 0;
  uint64_t file_size = 0;
  uint64_t whole_size = 0;  // up to the end of the last whole chunk
  uint64_t torn_bytes = 0;  // of a chunk that was not written completely

  bool complete() const { return end.has_value(); }
  uint64_t key_frame_bytes() const;  // in the file
  // "complete", or what is missing.
  std::string completeness() const;
};

// The whole file, checked as a reader would (TraceReader::Options::key_frames says how closely it looks at key frames). Any
// damage is an error with its offset; a file that was cut off is not.
Result<TraceSummary> verify_trace(const std::string& path, TraceReader::Options options = {});

}  // namespace retrovisor
