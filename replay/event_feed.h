// Some of a trace's events in order, looked at one at a time and never further ahead than asked for.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "traces/reader.h"

namespace retrovisor {

class EventFeed {
 public:
  enum class Events : uint8_t { boundary, journal };
  static Result<std::unique_ptr<EventFeed>> open(const std::string& path, Events which);

  // The next event if its position is at most `upto`; null if there is none or the trace is at its end. Valid until pop().
  // Errors of the trace stay in error() and read as null.
  const TraceEvent* peek(Position upto);
  void pop() { pending_.reset(); }
  // Everything has been seen, and the end marker with it.
  bool complete() const { return exhausted_ && reader_->complete(); }
  bool exhausted() const { return exhausted_ && !pending_; }
  const std::optional<Error>& error() const { return error_; }
  const TraceReader& reader() const { return *reader_; }

  struct Mark {
    TraceReader::Mark reader;
    std::optional<TraceEvent> pending;
    Position scanned;
    bool exhausted = false;
    // At a place between two of the trace's chunks.
    static Mark at(const TraceReader::Mark& place) { return {place, std::nullopt, place.last, false}; }
  };
  Mark mark() const { return {reader_->mark(), pending_, scanned_, exhausted_}; }
  Result<void> seek(const Mark& mark);

 private:
  EventFeed(std::unique_ptr<TraceReader> reader, Events which) : reader_(std::move(reader)), which_(which) {}

  std::unique_ptr<TraceReader> reader_;
  Events which_;
  std::optional<TraceEvent> pending_;
  Position scanned_;  // no event of ours lies before it, beside pending_
  bool exhausted_ = false;
  std::optional<Error> error_;
};

}  // namespace retrovisor
