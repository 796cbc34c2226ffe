#include "record/recording_boundary.h"

namespace retrovisor {

uint64_t RecordingBoundary::wall_clock(Moment at) {
  const uint64_t seconds = live_.wall_clock(at);
  writer_.boundary_event(EventKind::wall_clock, at.position, seconds, 0, at.time.value, {});
  return seconds;
}

void RecordingBoundary::entropy(Moment at, std::span<uint8_t> out) {
  live_.entropy(at, out);
  writer_.boundary_event(EventKind::entropy, at.position, 0, 0, at.time.value, out);
}

size_t RecordingBoundary::poll_input(Moment at, Channel channel, std::span<uint8_t> out) {
  const uint64_t ordinal = polls_.next(at);
  const size_t n = live_.poll_input(at, channel, out);
  RV_ASSERT(n <= out.size());
  if (n != 0)
    writer_.boundary_event(EventKind::console_input, at.position, static_cast<uint64_t>(channel), ordinal, at.time.value,
                           out.first(n));
  note_stop(at, 0, ordinal);
  return n;
}

IdleWait RecordingBoundary::idle_wait(Moment at, uint64_t ns, bool input_wanted) {
  const uint64_t ordinal = waits_.next(at);
  const IdleWait wait = live_.idle_wait(at, ns, input_wanted);
  RV_ASSERT(wait.waited_ns <= ns);
  if (wait.waited_ns != ns) writer_.boundary_event(EventKind::idle_wait, at.position, ns, wait.waited_ns, at.time.value, {});
  stopping_ = stopping_ || wait.host_wants_control;
  note_stop(at, 1, ordinal);
  return wait;
}

void RecordingBoundary::note_stop(Moment at, uint64_t call, uint64_t ordinal) {
  if (!stopping_) return;
  stopping_ = false;
  writer_.boundary_event(EventKind::host_stop, at.position, call, ordinal, at.time.value, {});
}

}  // namespace retrovisor
