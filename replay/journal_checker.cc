#include "replay/journal_checker.h"

#include <fmt/format.h>

#include "traces/describe.h"

namespace retrovisor {
namespace {

bool same(const JournalEvent& a, const JournalEvent& b) {
  return a.kind == b.kind && a.vcpu == b.vcpu && a.position == b.position && a.a == b.a && a.b == b.b && a.c == b.c;
}

}  // namespace

Result<std::unique_ptr<JournalChecker>> JournalChecker::open(const std::string& trace, Position through) {
  RV_TRY(auto feed, EventFeed::open(trace, EventFeed::Events::journal));
  return std::unique_ptr<JournalChecker>(new JournalChecker(std::move(feed), through));
}

void JournalChecker::fail(Position at, std::string message, std::string recorded, std::string replayed) {
  if (fault_) return;
  fault_ = ReplayFault{{ErrorCode::divergence, std::move(message), fmt::format("position {}", at.value)},
                       at,
                       std::move(recorded),
                       std::move(replayed)};
  if (feed_->error()) fault_->error = *feed_->error();
  if (on_fault_) on_fault_();
}

void JournalChecker::event(const JournalEvent& e) {
  if (fault_ || (mask() & mask_of(e.kind)) == 0) return;
  // Where the trace ends, an event may have happened without being in it: after the last whole chunk, or after the end.
  const TraceEvent* recorded = feed_->peek(e.position >= through_ ? kNoPosition : e.position);
  if (feed_->error()) return fail(e.position, "the trace cannot be read", {}, {});
  if (recorded == nullptr) {
    if (e.position >= through_) return;
    const TraceEvent* later = feed_->peek(kNoPosition);
    return fail(e.position, "an event happens that is not in the recording",
                later == nullptr ? "nothing more" : "next " + describe_at(later->event), describe_at(e));
  }
  if (!same(recorded->event, e))
    return fail(e.position, "an event differs from the recorded one", describe_at(recorded->event), describe_at(e));
  last_match_ = e.position;
  ++compared_;
  feed_->pop();
}

void JournalChecker::arrived(Position position) {
  if (fault_ || position.value == 0) return;
  const TraceEvent* missed = feed_->peek(position - 1);
  if (feed_->error()) {
    fail(position, "the trace cannot be read", {}, {});
  } else if (missed != nullptr) {
    fail(position, "a recorded event did not happen", describe_at(missed->event), "nothing");
  }
}

Result<void> JournalChecker::seek(const Mark& mark) {
  fault_.reset();
  compared_ = mark.compared;
  last_match_ = mark.last_match;
  return feed_->seek(mark.feed);
}

}  // namespace retrovisor
