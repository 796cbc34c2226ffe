// The boundary of a replay: answers from the trace, and notices when the machine asks for something else.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "record/recording_boundary.h"
#include "replay/event_feed.h"
#include "vmm/boundary.h"

namespace retrovisor {

// Where and how a replay left the recorded run; `error.code` is divergence, or bad_trace if the trace itself is at fault.
struct ReplayFault {
  Error error;
  Position position;
  std::string recorded;
  std::string replayed;
};

class ReplayBoundary final : public Boundary {
 public:
  using Output = std::function<void(Moment, EndpointId, std::span<const uint8_t>)>;
  // `output` shows what the guest writes to the console; empty: it is dropped.
  static Result<std::unique_ptr<ReplayBoundary>> open(const std::string& trace, Output output = {});

  // Called inside a poll during which the host stopped the recorded run (Machine::request_stop). A stop during an idle wait
  // is told by the wait's result.
  void on_host_stop(std::function<void()> handler) { on_host_stop_ = std::move(handler); }
  // Called once, inside the machine's run, when fault() gets a value.
  void on_fault(std::function<void()> handler) { on_fault_ = std::move(handler); }
  const std::optional<ReplayFault>& fault() const { return fault_; }
  // Called for each recorded event that the machine has just asked for, inside its run.
  void on_event(std::function<void(const TraceEvent&)> handler) { on_event_ = std::move(handler); }

  // Asked now and then while the machine looks for a landing, which can take long; true: it stops, by on_host_stop().
  void on_search(std::function<bool()> stop_requested) { stop_requested_ = std::move(stop_requested); }
  // It did, in the middle of something: not a state to compare.
  bool gave_up() const { return gave_up_; }

  // What the machine said of the last landing.
  const Landing& last_landing() const { return last_landing_; }

  // Detached, the boundary leaves the recording alone: for a machine that goes a way of its own. No input ever comes, idle
  // time passes at once, entropy and the wall clock are made up of the moment alone.
  void detach(bool detached) { detached_ = detached; }

  // The machine has arrived at `position`: recorded events before it that were not asked for are a fault.
  void arrived(Position position);
  // A recorded event at `position` has not been asked for yet.
  bool pending_at(Position position);

  void connect(std::span<const Endpoint> endpoints) override { endpoints_.assign(endpoints.begin(), endpoints.end()); }
  uint64_t wall_clock(Moment at) override;
  void entropy(Moment at, std::span<uint8_t> out) override;
  size_t receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) override;
  Result<void> read_blocks(Moment at, EndpointId endpoint, uint64_t offset, std::span<uint8_t> out) override;
  Result<std::vector<uint8_t>> ask_directory(Moment at, EndpointId endpoint, const DirectoryQuestion& question) override;
  IdleWait idle_wait(Moment at, uint64_t ns, bool input_wanted) override;
  void transmit(Moment at, EndpointId endpoint, std::span<const uint8_t> bytes) override {
    if (output_) output_(at, endpoint, bytes);
  }

  uint64_t time_passed(Moment at) override;
  bool deliver(Moment at, bool possible) override;
  std::optional<Landing> next_landing(Moment at) override;
  void landed(Moment at, const Landing& landing) override;
  bool search_ends(const Landing& landing, uint64_t instructions) override;
  void landing_missed(Moment at, const Landing& landing) override;

  // State of the boundary at a checkpoint of the machine.
  struct Mark {
    EventFeed::Mark feed;
    CallOrdinal polls;
    CallOrdinal waits;
    // On arrival at the position of a place between two of the trace's chunks: no call has come there yet.
    static Mark at(const TraceReader::Mark& place) { return {EventFeed::Mark::at(place), {}, {}}; }
  };
  Mark mark() const { return {feed_->mark(), polls_, waits_}; }
  // Back (or forward) to it; forgets a fault.
  Result<void> seek(const Mark& mark);

 private:
  ReplayBoundary(std::unique_ptr<EventFeed> feed, Output output) : feed_(std::move(feed)), output_(std::move(output)) {}
  bool cut_off_before() const;
  // The recorded event that this call is, or null. Events of before that were never asked for are a fault.
  const TraceEvent* match(Moment at, EventKind kind, uint64_t ordinal, std::string_view asked);
  // Whether the host stopped the recorded run in this call.
  bool host_stop(Moment at, uint64_t call, uint64_t ordinal);
  Landing recorded_landing(const TraceEvent& e);
  void fail(Position at, std::string message, std::string recorded, std::string replayed);
  void pop();

  std::unique_ptr<EventFeed> feed_;
  Output output_;
  std::vector<Endpoint> endpoints_;
  bool detached_ = false;
  std::function<void()> on_host_stop_;
  std::function<void()> on_fault_;
  std::function<void(const TraceEvent&)> on_event_;
  std::optional<ReplayFault> fault_;
  std::function<bool()> stop_requested_;
  bool gave_up_ = false;
  Landing last_landing_;
  CallOrdinal polls_;
  CallOrdinal waits_;
};

}  // namespace retrovisor
