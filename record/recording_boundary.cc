#include "record/recording_boundary.h"

#include <algorithm>

namespace retrovisor {

EventKind input_event(std::span<const Endpoint> endpoints, EndpointId id) {
  const bool packets = id.value < endpoints.size() && endpoints[id.value].kind == EndpointKind::packets;
  return packets ? EventKind::packet : EventKind::console_input;
}

void RecordingBoundary::connect(std::span<const Endpoint> endpoints) {
  endpoints_.assign(endpoints.begin(), endpoints.end());
  live_.connect(endpoints);
}

uint64_t RecordingBoundary::wall_clock(Moment at) {
  const uint64_t seconds = live_.wall_clock(at);
  writer_.boundary_event(EventKind::wall_clock, at.position, seconds, 0, at.time.value, {});
  return seconds;
}

void RecordingBoundary::entropy(Moment at, std::span<uint8_t> out) {
  live_.entropy(at, out);
  writer_.boundary_event(EventKind::entropy, at.position, 0, 0, at.time.value, out);
}

size_t RecordingBoundary::receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) {
  const uint64_t ordinal = polls_.next(at);
  const size_t n = live_.receive(at, endpoint, out);
  RV_ASSERT(n <= out.size());
  if (n != 0)
    writer_.boundary_event(input_event(endpoints_, endpoint), at.position, endpoint.value, ordinal, at.time.value, out.first(n));
  note_stop(at, 0, ordinal);
  return n;
}

Result<void> RecordingBoundary::read_blocks(Moment at, EndpointId endpoint, uint64_t offset, std::span<uint8_t> out) {
  RV_TRY(live_.read_blocks(at, endpoint, offset, out));
  for (size_t done = 0; done < out.size(); done += kMaxEventData) {
    const auto part = out.subspan(done, std::min(kMaxEventData, out.size() - done));
    writer_.boundary_event(EventKind::disk_read, at.position, endpoint.value, offset + done, at.time.value, part);
  }
  return {};
}

Result<std::vector<uint8_t>> RecordingBoundary::ask_directory(Moment at, EndpointId endpoint, const DirectoryQuestion& question) {
  RV_TRY(auto answer, live_.ask_directory(at, endpoint, question));
  RV_ASSERT(answer.size() <= question.most);
  static_assert(kMostDirectoryAnswer <= kMaxEventData);
  writer_.boundary_event(EventKind::directory_read, at.position, endpoint.value, hash_of(question), at.time.value, answer);
  return answer;
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

uint64_t RecordingBoundary::time_passed(Moment at) {
  const uint64_t ns = live_.time_passed(at);
  // Written even if it is 0: where positions count instructions, two events of one instruction would come at one moment.
  writer_.boundary_event(EventKind::time_passed, at.position, ns, 0, at.time.value, {});
  last_event_ = std::chrono::steady_clock::now();
  return ns;
}

bool RecordingBoundary::deliver(Moment at, bool possible) {
  const bool here = live_.deliver(at, possible);
  if (here) writer_.boundary_event(EventKind::deliver, at.position, 0, 0, at.time.value, {});
  return here;
}

void RecordingBoundary::landed(Moment at, const Landing& landing) {
  live_.landed(at, landing);
  const uint64_t deliveries = landing.by_state ? 0 : landing.deliveries;
  Landing timed = landing;
  const auto passed = std::chrono::steady_clock::now() - last_event_;
  timed.host_ns = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(passed).count());
  writer_.boundary_event(EventKind::landing, at.position, deliveries, 0, at.time.value, encode_landing(timed));
}

std::vector<uint8_t> encode_landing(const Landing& landing) {
  if (!landing.by_state) return {};
  StateWriter out;
  for (const uint64_t r : landing.gpr) out.u64("gpr", r);
  out.u64("linear_rip", landing.linear_rip);
  out.u64("rflags", landing.rflags);
  out.u64("cpu", landing.state.cpu);
  out.u64("memory", landing.state.memory);
  out.u64("progress", landing.progress);
  out.u64("host_ns", landing.host_ns);
  return out.take();
}

bool decode_landing(std::span<const uint8_t> data, Landing& landing) {
  landing.by_state = !data.empty();
  if (data.empty()) return true;
  StateReader in(data);
  for (uint64_t& r : landing.gpr) in.u64("gpr", r);
  in.u64("linear_rip", landing.linear_rip);
  in.u64("rflags", landing.rflags);
  in.u64("cpu", landing.state.cpu);
  in.u64("memory", landing.state.memory);
  in.u64("progress", landing.progress);
  if (!in.at_end()) in.u64("host_ns", landing.host_ns);
  return in.finish().ok() && in.at_end();
}

void RecordingBoundary::note_stop(Moment at, uint64_t call, uint64_t ordinal) {
  if (!stopping_) return;
  stopping_ = false;
  writer_.boundary_event(EventKind::host_stop, at.position, call, ordinal, at.time.value, {});
}

}  // namespace retrovisor
