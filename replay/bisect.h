// Narrows a divergence down to one instruction, as far as that is possible.
//
// A trace knows the recorded run only where it has digests and journal events, so between two of them nothing can be
// compared with the recording. What can be compared at every instruction are two replays. That finds the instruction when a
// replay is not even the same run twice (or is another run on another engine or build): the usual kind of divergence, an
// input or an uninitialised value that slipped past the boundary. If both replays are the same run, and not the recorded
// one, the interval between the last good and the first bad comparison with the trace is all that is known, and is reported
// as that.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "replay/replay_session.h"

namespace retrovisor {

struct BisectOptions {
  std::function<bool()> stop_requested;                       // may be empty
  std::function<void(Position low, Position high)> progress;  // the interval got smaller; may be empty
};

struct BisectReport {
  enum class Finding : uint8_t {
    no_divergence,  // both replays are the recorded run
    at_start,       // the replays differ before their first instruction
    instruction,    // `low` + 1 == `high`: the replays are equal at low and differ at high
    interval,       // the replays are equal to each other, but not the recorded run
    unsteady,       // the replays differed, and did no longer when run again: low..high is where they last did
  };
  Finding finding{};
  Position low;
  Position high;
  std::optional<Divergence> divergence;  // from the recording, as the first replay found it
  // Finding::instruction: which vCPU of the first replay runs at `low`, and the linear address at which it stands.
  VcpuId vcpu;
  uint64_t linear_rip = 0;
  std::vector<FieldDifference> fields;  // at `high`: `recorded` is the first replay, `replayed` the second
  std::vector<uint64_t> pages;          // at `high`
  bool cpu = false;
  bool memory = false;
  bool devices = false;

  std::string text() const;
};

using SessionFactory = std::function<Result<std::unique_ptr<ReplaySession>>()>;

// `first` and `second` make fresh sessions of the same trace; they may differ in anything that should not matter. Each is
// called a few times: going back means running again from the start.
Result<BisectReport> bisect(const SessionFactory& first, const SessionFactory& second, const BisectOptions& options);

}  // namespace retrovisor
