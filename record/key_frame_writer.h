// Writes key frames: states of a running machine at which a replay can start.
#pragma once

#include <cstdint>
#include <vector>

#include "traces/writer.h"
#include "vmm/machine/machine.h"

namespace retrovisor {

// Over the life of one recording. Nobody else takes the machine's written pages meanwhile. Holds a few MiB, and up to 1/500
// of guest memory.
class KeyFrameWriter {
 public:
  KeyFrameWriter(Machine& machine, TraceWriter& writer) : machine_(machine), writer_(writer), written_(machine.written_pages()) {}

  // The machine has just arrived at its position, and `state` is its digest, which the trace has already. A key frame holds
  // only what changed since the one before, until those changes together are more than a whole state: so to restore one
  // takes at most twice as long as to restore a whole one. False: the trace holds as many as a trace can.
  bool write(const StateDigest& state);
  uint64_t count() const { return count_; }

 private:
  void pages_of_everything(std::vector<uint64_t>& out) const;
  void write_parts(KeyFrame& frame, const std::vector<uint64_t>& pages);

  Machine& machine_;
  TraceWriter& writer_;
  std::unique_ptr<WrittenPages::Reader> written_;
  std::vector<bool> touched_;   // pages that have ever been written; all others are zero
  uint64_t count_ = 0;
  uint64_t whole_pages_ = 0;    // in the last whole key frame
  uint64_t changed_pages_ = 0;  // in all since
};

}  // namespace retrovisor
