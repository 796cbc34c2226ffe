// What a debugger debugs: a recorded run that it may walk through in both directions, or a machine that runs for the first
// time and goes forward only.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "record/run_session.h"
#include "replay/timeline.h"

namespace retrovisor::gdb {

class DebugTarget {
 public:
  virtual ~DebugTarget() = default;

  virtual Machine& machine() = 0;
  virtual Position position() = 0;
  // The recorded run, or null: then there is no way back.
  virtual Timeline* timeline() { return nullptr; }
  // File name of the trace, or empty.
  virtual std::string trace() const { return {}; }
  // As Timeline::forward. A live machine that has ended answers with Reason::end.
  virtual Result<TimelineStop> forward(const StopConditions& conditions, Position limit) = 0;
  // Called before memory or registers are written. An error: this target does not allow it.
  virtual Result<void> before_change() = 0;

  // Asked every few milliseconds while the target runs; true stops it (Reason::interrupted), and is said again until the
  // operation that was asked for has ended: all of its parts end.
  void on_poll(std::function<bool()> poll) { poll_ = std::move(poll); }
  bool interrupted() { return !held() && poll_ && poll_(); }

  // While it lives the target is not interrupted: for moves that are a part of something larger and have to arrive. Or for
  // so long: what is over in that time comes to its end.
  class Hold {
   public:
    using Clock = std::chrono::steady_clock;
    explicit Hold(DebugTarget& target, Clock::duration most = std::chrono::hours(1)) : target_(target), before_(target.held_) {
      target_.held_ = std::max(before_, Clock::now() + most);
    }
    ~Hold() { target_.held_ = before_; }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    DebugTarget& target_;
    Clock::time_point before_;
  };

 private:
  bool held() const { return held_ != Hold::Clock::time_point{} && Hold::Clock::now() < held_; }

  std::function<bool()> poll_;
  Hold::Clock::time_point held_{};
};

// A recorded run.
class TimelineTarget final : public DebugTarget {
 public:
  // As Timeline::open; `options.interrupted` is set here.
  static Result<std::unique_ptr<TimelineTarget>> open(const std::string& trace, const BootImages& images,
                                                      TimelineOptions options);
  // Around a timeline made elsewhere, which should ask the target's interrupted().
  explicit TimelineTarget(std::unique_ptr<Timeline> timeline, std::string trace = {})
      : timeline_(std::move(timeline)), trace_(std::move(trace)) {}

  Machine& machine() override { return timeline_->machine(); }
  Position position() override { return timeline_->position(); }
  Timeline* timeline() override { return timeline_.get(); }
  std::string trace() const override { return trace_; }
  Result<TimelineStop> forward(const StopConditions& conditions, Position limit) override {
    return timeline_->forward(conditions, limit);
  }
  Result<void> before_change() override { return timeline_->begin_diversion(); }

 private:
  explicit TimelineTarget(std::string trace) : trace_(std::move(trace)) {}

  std::unique_ptr<Timeline> timeline_;
  std::string trace_;
};

// A machine that runs for the first time.
class LiveTarget final : public DebugTarget {
 public:
  // Runs the machine on to a position and tells how that ended; asks `stop` every few milliseconds and ends the run when it
  // says so (run_machine, RecordingRun::run).
  using Advance = std::function<Result<RunResult>(Position limit, std::function<bool()> stop)>;
  // Connects a sink for journal events beside whatever else listens to them; a null sink disconnects it.
  using Listen = std::function<void(JournalSink* sink, EventMask mask)>;

  // While recording, the guest may not be changed: a replay would not know of it (`may_change` false).
  LiveTarget(Machine& machine, Advance advance, Listen listen, bool may_change);
  ~LiveTarget() override;

  Machine& machine() override { return machine_; }
  Position position() override { return machine_.position(); }
  Result<TimelineStop> forward(const StopConditions& conditions, Position limit) override;
  Result<void> before_change() override;
  // Whether the debugger wants the machine to stop, for whoever keeps it from running on (LiveBoundary::on_sleep).
  bool stop_wanted();
  // How the machine ended, once it has.
  const std::optional<RunResult>& ended() const { return ended_; }

 private:
  class EventStop;

  Machine& machine_;
  Advance advance_;
  Listen listen_;
  bool may_change_;
  bool stop_wanted_ = false;
  std::unique_ptr<EventStop> events_;
  std::optional<RunResult> ended_;
};

}  // namespace retrovisor::gdb
