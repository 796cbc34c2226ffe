#include "replay/replay_boundary.h"

#include <fmt/format.h>

#include <algorithm>
#include <compare>

#include "traces/describe.h"

namespace retrovisor {
namespace {

Moment moment_of(const JournalEvent& e) { return {e.position, VirtualTime(e.c)}; }

bool before(Moment a, Moment b) { return a.position != b.position ? a.position < b.position : a.time < b.time; }

std::string call_text(std::string_view what, Moment at) {
  return fmt::format("at position {}, {} ns: {}", at.position.value, at.time.value, what);
}

}  // namespace

Result<std::unique_ptr<ReplayBoundary>> ReplayBoundary::open(const std::string& trace, Output output) {
  RV_TRY(auto feed, EventFeed::open(trace, EventFeed::Events::boundary));
  return std::unique_ptr<ReplayBoundary>(new ReplayBoundary(std::move(feed), std::move(output)));
}

void ReplayBoundary::fail(Position at, std::string message, std::string recorded, std::string replayed) {
  if (fault_) return;
  fault_ = ReplayFault{{ErrorCode::divergence, std::move(message), fmt::format("position {}", at.value)},
                       at,
                       std::move(recorded),
                       std::move(replayed)};
  if (feed_->error()) fault_->error = *feed_->error();
  if (on_fault_) on_fault_();
}

const TraceEvent* ReplayBoundary::match(Moment at, EventKind kind, uint64_t ordinal, std::string_view asked) {
  if (fault_) return nullptr;
  const TraceEvent* next = feed_->peek(at.position);
  if (feed_->error()) {
    fail(at.position, "the trace cannot be read", {}, {});
    return nullptr;
  }
  if (next == nullptr) return nullptr;
  const JournalEvent& e = next->event;
  const Moment recorded = moment_of(e);
  // Each boundary event says at which call of its moment it came, where there can be several.
  const bool numbered = kind == EventKind::console_input || kind == EventKind::packet;
  const bool missed = before(recorded, at) || (recorded == at && e.kind == kind && numbered && e.b < ordinal);
  if (missed) {
    fail(at.position, "something that came from outside in the recording was never asked for", describe_at(*next),
         call_text(asked, at));
    return nullptr;
  }
  if (recorded != at || e.kind != kind || (numbered && e.b != ordinal)) return nullptr;
  return next;
}

// The recorder was killed when all that it had written was the header: there is nothing to replay, and nothing to be unlike.
bool ReplayBoundary::cut_off_before() const { return !fault_ && feed_->exhausted() && !feed_->complete(); }

// The event that was peeked at last has happened.
void ReplayBoundary::pop() {
  if (on_event_) {
    const TraceEvent* e = feed_->peek(kNoPosition);
    if (e != nullptr) on_event_(*e);
  }
  feed_->pop();
}

uint64_t ReplayBoundary::wall_clock(Moment at) {
  if (detached_) return at.time.value / 1'000'000'000;
  const TraceEvent* e = match(at, EventKind::wall_clock, 0, "the wall clock is read");
  if (e == nullptr && cut_off_before()) return 0;
  if (e == nullptr) {
    fail(at.position, "the wall clock is read where it was not in the recording", "nothing", call_text("wall clock", at));
    return 0;
  }
  const uint64_t seconds = e->event.a;
  pop();
  return seconds;
}

void ReplayBoundary::entropy(Moment at, std::span<uint8_t> out) {
  std::fill(out.begin(), out.end(), uint8_t{0});
  if (detached_) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>((at.time.value + i) * 0x9e3779b97f4a7c15 >> 56);
    return;
  }
  const TraceEvent* e = match(at, EventKind::entropy, 0, "entropy is drawn");
  if (e == nullptr && cut_off_before()) return;
  if (e == nullptr || e->data.size() != out.size()) {
    fail(at.position, "entropy is drawn otherwise than in the recording", e == nullptr ? "nothing" : describe_at(*e),
         call_text(fmt::format("{} bytes of entropy", out.size()), at));
    return;
  }
  std::copy(e->data.begin(), e->data.end(), out.begin());
  pop();
}

size_t ReplayBoundary::receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) {
  if (detached_) return 0;
  const uint64_t ordinal = polls_.next(at);
  size_t n = 0;
  if (const TraceEvent* e = match(at, input_event(endpoints_, endpoint), ordinal, "input is polled"); e != nullptr) {
    if (e->data.size() > out.size() || e->event.a != endpoint.value) {
      fail(at.position, "input is polled otherwise than in the recording", describe_at(*e),
           call_text(fmt::format("at most {} bytes from endpoint {}", out.size(), endpoint.value), at));
      return 0;
    }
    n = e->data.size();
    std::copy(e->data.begin(), e->data.end(), out.begin());
    pop();
  }
  if (host_stop(at, 0, ordinal) && on_host_stop_) on_host_stop_();
  return n;
}

Result<void> ReplayBoundary::read_blocks(Moment at, EndpointId endpoint, uint64_t offset, std::span<uint8_t> out) {
  std::fill(out.begin(), out.end(), uint8_t{0});
  if (detached_) return Error{ErrorCode::unsupported, "the recording holds only what its own way has read", ""};
  for (size_t done = 0; done < out.size(); done += kMaxEventData) {
    const auto part = out.subspan(done, std::min(kMaxEventData, out.size() - done));
    const TraceEvent* e = match(at, EventKind::disk_read, 0, "contents are read");
    if (e == nullptr) return Error{ErrorCode::io, "the recording has no such contents: the read failed there", ""};
    if (e->event.a != endpoint.value || e->event.b != offset + done || e->data.size() != part.size()) {
      fail(at.position, "contents are read otherwise than in the recording", describe_at(*e),
           call_text(fmt::format("{} bytes at {:#x} of endpoint {}", part.size(), offset + done, endpoint.value), at));
      return Error{ErrorCode::divergence, "contents are read otherwise than in the recording", ""};
    }
    std::copy(e->data.begin(), e->data.end(), part.begin());
    pop();
  }
  return {};
}

Result<std::vector<uint8_t>> ReplayBoundary::ask_directory(Moment at, EndpointId endpoint, const DirectoryQuestion& question) {
  if (detached_) return Error{ErrorCode::unsupported, "the recording holds only what its own way has read", ""};
  const TraceEvent* e = match(at, EventKind::directory_read, 0, "a directory is asked");
  if (e == nullptr) return Error{ErrorCode::io, "the recording has no such answer: there was none", ""};
  if (e->event.a != endpoint.value || e->event.b != hash_of(question) || e->data.size() > question.most) {
    fail(at.position, "a directory is asked otherwise than in the recording", describe_at(*e),
         call_text(fmt::format("{} at {} in endpoint {}", question.path, question.offset, endpoint.value), at));
    return Error{ErrorCode::divergence, "a directory is asked otherwise than in the recording", ""};
  }
  std::vector<uint8_t> answer = e->data;
  pop();
  return answer;
}

IdleWait ReplayBoundary::idle_wait(Moment at, uint64_t ns, bool) {
  if (detached_) return {ns};
  const uint64_t ordinal = waits_.next(at);
  uint64_t waited = ns;
  if (const TraceEvent* e = match(at, EventKind::idle_wait, ordinal, "the machine idles"); e != nullptr) {
    if (e->event.a != ns || e->event.b > ns) {
      fail(at.position, "the machine idles otherwise than in the recording", describe_at(*e),
           call_text(fmt::format("idle wait of {} ns", ns), at));
      return {};
    }
    waited = e->event.b;
    pop();
  }
  return {waited, host_stop(at, 1, ordinal)};
}

namespace {

// What a detached machine is told: about what an exit takes on a host.
constexpr uint64_t kDetachedEventNs = 2000;

}  // namespace

uint64_t ReplayBoundary::time_passed(Moment at) {
  if (detached_) return kDetachedEventNs;
  const TraceEvent* e = match(at, EventKind::time_passed, 0, "an event happens");
  if (e == nullptr) return 0;
  const uint64_t ns = e->event.a;
  const bool last = e->event.b != 0;
  pop();
  if (last && on_host_stop_) on_host_stop_();
  return ns;
}

bool ReplayBoundary::deliver(Moment at, bool possible) {
  if (detached_) return possible;
  const TraceEvent* e = match(at, EventKind::deliver, 0, "an interrupt waits");
  if (e == nullptr) return false;
  if (!possible) {
    fail(at.position, "an interrupt was delivered here in the recording", describe_at(*e), call_text("interrupts are held back", at));
    return false;
  }
  pop();
  return true;
}

Landing ReplayBoundary::recorded_landing(const TraceEvent& e) {
  Landing landing;
  landing.position = e.event.position;
  landing.deliveries = e.event.a;
  if (!decode_landing(e.data, landing)) fail(e.event.position, "a landing of the trace cannot be read", describe_at(e), {});
  return landing;
}

std::optional<Landing> ReplayBoundary::next_landing(Moment) {
  if (detached_ || fault_) return std::nullopt;
  const TraceEvent* e = feed_->peek(kNoPosition);
  if (e == nullptr || e->event.kind != EventKind::landing) return std::nullopt;
  const Landing landing = recorded_landing(*e);
  if (fault_) return std::nullopt;
  return landing;
}

void ReplayBoundary::landed(Moment at, const Landing& landing) {
  if (detached_) return;
  const TraceEvent* e = match(at, EventKind::landing, 0, "the machine lands");
  if (e == nullptr) {
    fail(at.position, "the machine lands where it did not in the recording", "nothing", call_text("landing", at));
    return;
  }
  last_landing_ = landing;
  pop();
}

bool ReplayBoundary::search_ends(const Landing& landing, uint64_t instructions) {
  if (!detached_ && stop_requested_ && stop_requested_()) {
    gave_up_ = true;
    if (on_host_stop_) on_host_stop_();
    return true;
  }
  // More than any processor executes, with room for what the host's clock does not see.
  constexpr uint64_t kInstructionsPerNs = 20, kRoom = 100'000'000;
  return landing.host_ns < (UINT64_MAX - kRoom) / kInstructionsPerNs && instructions > landing.host_ns * kInstructionsPerNs + kRoom;
}

void ReplayBoundary::landing_missed(Moment at, const Landing& landing) {
  fail(at.position, "the state in which the recorded run was interrupted is not reached",
       fmt::format("landing {} at {:#x}", landing.position.value, landing.linear_rip), call_text("another event first", at));
}

bool ReplayBoundary::host_stop(Moment at, uint64_t call, uint64_t ordinal) {
  if (fault_) return false;
  const TraceEvent* e = feed_->peek(at.position);
  if (e == nullptr || e->event.kind != EventKind::host_stop || moment_of(e->event) != at) return false;
  if (e->event.a != call || e->event.b != ordinal) return false;
  pop();
  return true;
}

void ReplayBoundary::arrived(Position position) {
  if (fault_ || position.value == 0) return;
  const TraceEvent* missed = feed_->peek(position - 1);
  if (feed_->error()) {
    fail(position, "the trace cannot be read", {}, {});
  } else if (missed != nullptr) {
    fail(position, "something that came from outside in the recording was never asked for", describe_at(*missed), "nothing");
  }
}

bool ReplayBoundary::pending_at(Position position) {
  const TraceEvent* e = feed_->peek(position);
  return e != nullptr && e->event.position == position;
}

Result<void> ReplayBoundary::seek(const Mark& mark) {
  fault_.reset();
  polls_ = mark.polls;
  waits_ = mark.waits;
  return feed_->seek(mark.feed);
}

}  // namespace retrovisor
