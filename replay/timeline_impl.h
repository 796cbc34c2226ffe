// The timeline over one replaying machine. Its parts: timeline.cc (opening, checkpoints, seek), timeline_key_frames.cc
// (entering in the middle), timeline_run.cc (running forward, with everything that watches), timeline_search.cc (forward,
// backward, last write), timeline_diversion.cc.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "replay/checkpoint_set.h"
#include "replay/journal_checker.h"
#include "replay/replay_session.h"
#include "replay/timeline.h"

namespace retrovisor {

class TimelineImpl final : public Timeline, private JournalSink {
 public:
  TimelineImpl(std::unique_ptr<ReplaySession> session, std::unique_ptr<JournalChecker> checker,
               std::unique_ptr<TraceReader> digests, uint64_t budget, TimelineOptions options);
  ~TimelineImpl() override;
  // Makes the first checkpoint.
  Result<void> start();

  Machine& machine() override { return m_; }
  Position position() const override { return position_; }
  Position begin() const override { return Position(0); }
  Position end() const override { return session_->end(); }
  Result<TimelineStop> seek(Position target) override;
  Result<TimelineStop> forward(const StopConditions& conditions, Position limit) override;
  Result<TimelineStop> backward(const StopConditions& conditions, Position limit) override;
  Result<LastChange> last_change(const std::vector<ByteWatch>& bytes, VcpuId asker) override;
  Result<std::optional<Observation>> last_write(LinearAddr address, uint64_t size) override;
  Result<void> warm() override;
  CheckpointFigures checkpoints() const override;
  std::vector<Position> checkpoint_positions() const override { return set_.positions(); }
  Result<void> begin_diversion() override;
  bool diverted() const override { return diverted_; }
  Result<void> end_diversion() override;
  Result<TimelineStop> run_diversion(const StopConditions& conditions, uint64_t instructions) override;

 private:
  // Something that a run looked for, caused at `position`.
  struct Hit {
    Position position;
    TimelineStop::Reason reason{};
    std::optional<Observation> observation;
    std::optional<JournalEvent> event;
    bool led_there = true;  // LastChange
  };
  class ByteCheck;
  // What a run looks for. Installed in the machine while it lives.
  struct Search {
    const StopConditions* conditions = nullptr;
    Interest interest;
    bool stop_at_first = false;
    Position from;            // hits before it do not count
    std::optional<Hit> hit;   // the first, or the last so far
    ByteCheck* check = nullptr;  // of last_change(): all changes of its bytes are hits, and are kept account of
  };
  class Installed;
  enum class RunEnd : uint8_t { arrived, hit, machine, interrupted };
  struct RunOutcome {
    RunEnd end{};
    Stop stop;  // RunEnd::machine
  };
  // How a run treats its way: makes temporary checkpoints close before its target; cannot be interrupted.
  struct RunOptions {
    bool steps_to_target = false;
    bool interruptible = true;
  };
  // A place in the sequence of the journal's events: `count` of those at `position` lie before it.
  struct EventPlace {
    Position position;
    uint64_t count = 0;
  };

  // How far the recording has been compared with, between two of its key frames (or the ends).
  struct Compared {
    EventPlace to;
    JournalChecker::Mark journal;
    TraceReader::Mark digests;
    std::optional<DigestRecord> next_digest;
  };

  // timeline_run.cc
  Result<RunOutcome> run_to(Position target, Search* search, const RunOptions& options);
  Position next_halt(Position now, Position target, const RunOptions& options) const;
  Result<void> arrived(Position target, const RunOptions& options);
  Result<void> compare_digest();
  Result<void> check_recording();
  void start_tracking(Position target);
  void finish_tracking();
  void connect_journal(const Search* search, Position target);
  void event(const JournalEvent& e) override;
  void match(const JournalEvent& e);
  bool observe(const Observation& o);
  Search make_search(const StopConditions& conditions) const;

  // timeline_key_frames.cc
  // If `target` is reached sooner from a key frame than from `from`, makes a checkpoint of it, and then stands there. An
  // error leaves the machine where it was.
  Result<void> bring_key_frame(Position target, Position from);
  Result<bool> load_key_frame(size_t number);
  // Goes on comparing where it was left between the key frames around `p`.
  Result<void> compare_around(Position p);

  // timeline.cc
  const std::vector<uint64_t>& collect_written();
  bool store_written(Position focus);
  bool capture(bool temporary, Position focus);
  Result<void> restore(const Checkpoint& checkpoint);
  Result<RunOutcome> go_to(Position target, Search* search, const RunOptions& options);
  // Makes the machine stand at `target` as run_until(target) leaves it.
  Result<RunOutcome> arrive_at(Position target, const RunOptions& options);
  TimelineStop stop_here(TimelineStop::Reason reason) const;

  // timeline_search.cc
  // The last hit in [lowest, below); none; or nothing because the host asked to stop.
  struct Found {
    std::optional<Hit> hit;
    bool interrupted = false;
  };
  Result<Found> search_backward(const StopConditions& conditions, Position lowest, Position below, ByteCheck* check = nullptr);
  // The last hit before here, where the machine stands again afterwards.
  Result<std::optional<Hit>> last_hit(const StopConditions& conditions, ByteCheck* check);
  // Before a search that returns to `here`: the way back from far away should be short.
  void keep_way_back(Position here);
  Result<TimelineStop> stand_behind(const Hit& hit);
  TimelineStop stop_at_hit(const Hit& hit) const;
  std::optional<Hit> lost_at_end(const StopConditions& conditions);

  std::unique_ptr<ReplaySession> session_;
  std::unique_ptr<JournalChecker> checker_;
  std::unique_ptr<TraceReader> digests_;
  std::optional<DigestRecord> next_digest_;
  TimelineOptions options_;
  Machine& m_;
  std::unique_ptr<WrittenPages::Reader> machine_pages_;
  CheckpointSet set_;

  Position position_;
  uint64_t spacing_;     // of lasting checkpoints, which stand at its multiples
  bool lost_told_ = false;  // of the triple fault at the end, since the timeline came there
  bool exact_ = true;  // the machine is at position_, as run_until(position_) leaves it
  bool diverted_ = false;

  // Memory is `base_` but for the pages of written_, and those that the machine knows of as written.
  PageMap base_;
  std::vector<uint64_t> written_;
  uint64_t captured_ = 0;

  // What the pages and events since this position are known of, if anything.
  std::optional<Position> tracked_from_;
  EventMask tracked_events_ = 0;
  std::vector<uint64_t> tracked_written_;  // physical pages, in no order

  // The recording has been compared with up to here, in the part that begins with key frame part_ (0: the beginning).
  EventPlace compared_;
  size_t part_ = 0;
  std::map<size_t, Compared> other_parts_;
  uint64_t key_frames_restored_ = 0;
  EventPlace seen_;  // the machine's last event
  Search* search_ = nullptr;
};

// Watches and breakpoints of a search, in force while this lives.
class TimelineImpl::Installed {
 public:
  Installed(TimelineImpl& timeline, Search* search);
  ~Installed();
  Installed(const Installed&) = delete;
  Installed& operator=(const Installed&) = delete;

 private:
  TimelineImpl& timeline_;
  Subscription subscription_;
};

}  // namespace retrovisor
