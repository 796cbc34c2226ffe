// Compares the journal of a replay with the recorded one, event by event.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "replay/event_feed.h"
#include "replay/replay_boundary.h"
#include "vmm/journal.h"

namespace retrovisor {

class JournalChecker final : public JournalSink {
 public:
  // `through`: position up to which the trace is whole; what comes later is not compared.
  static Result<std::unique_ptr<JournalChecker>> open(const std::string& trace, Position through);

  // Kinds to connect the machine's journal with: those that the trace holds, whatever they are.
  EventMask mask() const { return feed_->reader().header().journal_mask & kJournalFull; }
  void on_fault(std::function<void()> handler) { on_fault_ = std::move(handler); }
  // The first difference.
  const std::optional<ReplayFault>& fault() const { return fault_; }

  void event(const JournalEvent& e) override;
  // The machine has arrived at `position`: recorded events before it that did not happen are a fault.
  void arrived(Position position);

  uint64_t compared() const { return compared_; }
  // Position of the last event that was the recorded one; 0 if none was yet.
  Position last_match() const { return last_match_; }

  struct Mark {
    EventFeed::Mark feed;
    uint64_t compared = 0;
    Position last_match;
    // Of a check that begins at a place between two of the trace's chunks.
    static Mark at(const TraceReader::Mark& place) { return {EventFeed::Mark::at(place), 0, place.last}; }
  };
  Mark mark() const { return {feed_->mark(), compared_, last_match_}; }
  Result<void> seek(const Mark& mark);

 private:
  JournalChecker(std::unique_ptr<EventFeed> feed, Position through) : feed_(std::move(feed)), through_(through) {}
  void fail(Position at, std::string message, std::string recorded, std::string replayed);

  std::unique_ptr<EventFeed> feed_;
  Position through_;
  std::function<void()> on_fault_;
  std::optional<ReplayFault> fault_;
  uint64_t compared_ = 0;
  Position last_match_;
};

}  // namespace retrovisor
