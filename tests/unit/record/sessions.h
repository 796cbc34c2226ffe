// Recording sessions for tests: a guest, a scripted outside, and a trace file.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "record/record_session.h"
#include "record/recording_boundary.h"
#include "replay/replay_session.h"
#include "tests/unit/record/session_guest.h"
#include "tests/unit/traces/trace_files.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor {

// Virtual time; each key arrives at its guest time.
class TimedBoundary final : public QuietBoundary {
 public:
  struct Key {
    uint64_t time;
    char byte;
  };
  std::deque<Key> keys;
  std::string shown;
  // Asked in every call that can wait or poll, with the moment; true stops the machine as Ctrl-C would.
  std::function<bool(Moment)> wants_stop;
  std::function<void()> stop;

  uint64_t wall_clock(Moment) override { return 1'700'000'000; }
  void entropy(Moment, std::span<uint8_t> out) override {
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(i * 7 + 1);
  }
  size_t receive(Moment at, EndpointId, std::span<uint8_t> out) override {
    if (wants_stop && wants_stop(at)) stop();
    size_t n = 0;
    while (n < out.size() && !keys.empty() && keys.front().time <= at.time.value) {
      out[n++] = static_cast<uint8_t>(keys.front().byte);
      keys.pop_front();
    }
    return n;
  }
  IdleWait idle_wait(Moment at, uint64_t ns, bool input_wanted) override {
    if (wants_stop && wants_stop(at)) {
      stop();
      return {ns == UINT64_MAX ? 0 : ns / 3};
    }
    if (input_wanted && !keys.empty()) {
      const uint64_t until = keys.front().time > at.time.value ? keys.front().time - at.time.value : 0;
      if (until < ns) return {until};
    }
    return {ns};
  }
  void transmit(Moment, EndpointId, std::span<const uint8_t> bytes) override { shown.append(bytes.begin(), bytes.end()); }
};

inline BootImages guest_images() {
  BootImages images;
  images.kernel = session_guest();
  images.flat_address = kGuestAddress;
  images.flat_mode = FlatMode::protected32;
  return images;
}

struct SessionSetup {
  std::optional<BootImages> images;  // none: guest_images()
  EventMask journal = kJournalDefault;
  DigestDetail detail = DigestDetail::fields;
  uint64_t digest_interval = 50'000;
  RecordOptions options;
  std::deque<TimedBoundary::Key> keys{
      {300'000, 'a'}, {1'200'000, 'b'}, {1'200'100, 'c'}, {2'500'000, 'd'}, {4'000'000, 'q'}};
  std::function<bool(Moment)> wants_stop;
  // Records, if it is not to be done in one run.
  std::function<Result<RecordResult>(Machine&, TraceWriter&)> drive;
};

// Records the guest into `path`; its console output goes to `shown`.
inline Result<RecordResult> try_record_guest(const std::string& path, const SessionSetup& setup,
                                             std::string* shown = nullptr) {
  MachineConfig config;
  config.memory_size = kMinRam;
  const BootImages images = setup.images.value_or(guest_images());
  TraceHeader header = make_header(config, images, {.kernel = "guest", .initrd = {}, .modules = {}});
  header.journal_mask = setup.journal;
  header.digest_detail = setup.detail;
  header.digest_interval = setup.digest_interval;
  auto writer = TraceWriter::create(path, header);
  EXPECT_TRUE(writer.ok());
  TimedBoundary live;
  live.keys = setup.keys;
  RecordingBoundary boundary(live, **writer);
  auto machine = Machine::create(config, boundary);
  EXPECT_TRUE(machine.ok());
  Machine& m = **machine;
  live.wants_stop = setup.wants_stop;
  live.stop = [&] {
    boundary.host_stop();
    m.request_stop({StopReason::host_request, 0});
  };
  const auto loaded = m.load(images);
  EXPECT_TRUE(loaded.ok()) << (loaded ? "" : loaded.error().text());
  auto result = setup.drive ? setup.drive(m, **writer) : record(m, **writer, setup.options);
  if (shown != nullptr) *shown = live.shown;
  return result;
}

inline RecordResult record_guest(const std::string& path, const SessionSetup& setup, std::string* shown = nullptr) {
  const auto result = try_record_guest(path, setup, shown);
  EXPECT_TRUE(result.ok()) << (result ? "" : result.error().text());
  return result ? *result : RecordResult{};
}

inline std::unique_ptr<ReplaySession> open_replay(const std::string& path, ReplayBoundary::Output output = {}) {
  auto session = ReplaySession::open(path, guest_images(), std::move(output));
  EXPECT_TRUE(session.ok()) << (session ? "" : session.error().text());
  return session ? std::move(*session) : nullptr;
}

inline ReplayResult replay(const std::string& path, const ReplayOptions& options = {}) {
  const auto session = open_replay(path);
  if (session == nullptr) return {};
  const auto result = session->run(options);
  EXPECT_TRUE(result.ok()) << (result ? "" : result.error().text());
  return result ? *result : ReplayResult{};
}

// Writes the trace `from` again as `to`, each item as `change` leaves it; false drops it.
inline void rewrite(const std::string& from, const std::string& to, const std::function<bool(TraceItem&)>& change) {
  auto reader = TraceReader::open(from);
  ASSERT_TRUE(reader.ok());
  auto writer = TraceWriter::create(to, (*reader)->header());
  ASSERT_TRUE(writer.ok());
  for (;;) {
    auto item = (*reader)->next();
    ASSERT_TRUE(item.ok());
    if (!item->has_value()) return;
    if (!change(**item)) continue;
    if (auto* event = std::get_if<TraceEvent>(&**item)) {
      const JournalEvent& e = event->event;
      if (is_boundary(e.kind))
        (*writer)->boundary_event(e.kind, e.position, e.a, e.b, e.c, event->data);
      else
        (*writer)->event(e);
    } else if (auto* digest = std::get_if<DigestRecord>(&**item)) {
      (*writer)->digest(*digest);
    } else if (auto* frame = std::get_if<KeyFrame>(&**item)) {
      (*writer)->key_frame(*frame);
    } else if (auto* end = std::get_if<EndRecord>(&**item)) {
      ASSERT_TRUE((*writer)->end(end->position, end->stop, end->state).ok());
    }
  }
}

}  // namespace retrovisor
