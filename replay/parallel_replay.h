// Checks a recording in parts at once: each between two key frames, on a machine of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "replay/replay_session.h"

namespace retrovisor {

struct ParallelOptions {
  unsigned jobs = 1;  // parts that are replayed at the same time: as many machines with the guest's memory
  bool check_digests = true;
  bool check_journal = true;
  std::function<bool()> stop_requested;                 // asked by all threads; may be empty
  std::function<void(uint64_t instructions)> progress;  // all parts so far; by one thread at a time; may be empty
};

struct ParallelResult {
  // As of a replay of the whole: the sums of all parts, and the first divergence.
  ReplayResult result;
  size_t parts = 0;
  // That of the last part, or of the one that diverged or did not come to its end.
  std::unique_ptr<ReplaySession> session;
};

// That each part begins in the state in which the one before ends is known by their digests. Without key frames there is one
// part. The arguments are those of ReplaySession::open(); the guest's output is dropped.
Result<ParallelResult> replay_parts(const std::string& trace, const BootImages& images, const ParallelOptions& options);

}  // namespace retrovisor
