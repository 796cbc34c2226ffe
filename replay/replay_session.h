// Replays a trace: builds the recorded machine, runs it, and compares it with the recording all the way.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "record/digest_capture.h"
#include "replay/divergence.h"
#include "replay/journal_checker.h"
#include "replay/key_frames.h"
#include "replay/replay_boundary.h"
#include "traces/verify.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/machine.h"

namespace retrovisor {

struct ReplayProgress {
  Position now;
  Position end;                           // of the recording, as far as it is known
  std::chrono::nanoseconds host_time{0};  // of this run()
  uint64_t instructions = 0;              // in that time
};

struct ReplayOptions {
  Position stop_at = kNoPosition;
  bool check_digests = true;
  bool check_journal = true;                            // the same in every run() of a session
  std::function<bool()> stop_requested;                 // asked between slices; may be empty
  std::function<void(const ReplayProgress&)> progress;  // between slices; may be empty
  uint64_t slice = uint64_t{1} << 20;
  // Sees the journal's events that the trace has, beside the check; may be null.
  JournalSink* listener = nullptr;
  // Called where a recorded digest was found equal; may be empty.
  std::function<void(const StateDigest&)> equal;
};

struct ReplayResult {
  enum class End : uint8_t {
    complete,    // at the recorded end, in the recorded way
    incomplete,  // at the end of what the trace holds: it has no end marker
    stop_at,     // at the position asked for
    host,        // stop_requested() said so
    diverged,    // not the recorded run: `divergence` says how
  };
  End end{};
  Position position;
  Stop stop;  // End::complete: how the recorded run ended
  std::optional<Divergence> divergence;
  uint64_t digests_compared = 0;  // of those that TraceSummary counts: not what a key frame or the end marker says again
  uint64_t events_compared = 0;
  std::chrono::nanoseconds host_time{0};
  // What the user should know beside: "the trace is incomplete ..."; may be empty.
  std::string note;
};

// Whether `given`, which was read from a file called `name`, is the image that was recorded; the error names that file.
Result<void> check_image(const TraceImage& recorded, std::span<const uint8_t> given, const std::string& name);
// Whether `images` are those that the trace was recorded with; the error says which is not.
Result<void> check_images(const TraceHeader& header, const BootImages& images);
// The machine that the trace was recorded on.
// An error names a device that this build does not know, or knows in another version.
Result<MachineConfig> machine_config(const TraceHeader& header);
// `images` with everything that the trace knows by itself put in: command line, module arguments, flat address and mode.
Result<BootImages> recorded_images(const TraceHeader& header, const BootImages& images);

// Which engine replays.
struct ReplayEngine {
  EngineFactory make;  // null: the soft engine
  // If it lets the host's processor execute guest code: that processor's model, which must be of the recording's vendor. It can only
  // replay traces whose positions count events.
  std::optional<ProcessorModel> host;
};

class ReplaySession {
 public:
  // Verifies the whole trace first. `images`: kernel, initrd and modules as bytes; what else is in it is not looked at.
  static Result<std::unique_ptr<ReplaySession>> open(const std::string& trace, const BootImages& images,
                                                     ReplayBoundary::Output output = {}, const ReplayEngine& engine = {});
  ~ReplaySession();

  // Before the first run: makes the machine stand at the last key frame at or before `p`. Its state is compared with the
  // digest that was recorded there. Without such a key frame the machine stays at the beginning. Returns where it stands;
  // after an error the session is of no use.
  Result<Position> start_from(Position p);
  // Runs on from where the machine stands, to the end or to options.stop_at. After a divergence it does not go on. Errors
  // are only for what is no divergence: a trace that cannot be read.
  Result<ReplayResult> run(const ReplayOptions& options);

  Machine& machine() { return *machine_; }
  ReplayBoundary& boundary() { return *boundary_; }
  KeyFrames& key_frames() { return key_frames_; }
  const TraceSummary& summary() const { return summary_; }
  // Where the recording ends.
  Position end() const { return summary_.end ? summary_.end->position : summary_.through; }
  bool at_end() const { return at_end_; }

 private:
  ReplaySession(const std::string& trace, TraceSummary summary)
      : summary_(std::move(summary)), key_frames_(trace, summary_.key_frames) {}
  Result<const DigestRecord*> peek_digest();
  Result<void> step(Position target);
  Result<void> arrive(const ReplayOptions& options);
  Result<void> finish(const ReplayOptions& options);
  Result<void> take_fault();
  void compare(const DigestRecord& recorded, const ReplayOptions& options);
  void compare_sums(const StateDigest& recorded, const ReplayOptions& options);
  void diverge(Divergence d);
  void diverge_end(const std::string& recorded, const std::string& replayed);

  TraceSummary summary_;
  KeyFrames key_frames_;
  std::unique_ptr<ReplayBoundary> boundary_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<JournalChecker> checker_;
  std::unique_ptr<MemorySketch> sketch_;
  std::unique_ptr<TraceReader> digests_;
  std::optional<DigestRecord> next_digest_;
  bool digests_done_ = false;
  Position good_;  // last position known to be as recorded
  uint64_t compared_ = 0;
  bool at_end_ = false;
  std::optional<Divergence> divergence_;
};

}  // namespace retrovisor
