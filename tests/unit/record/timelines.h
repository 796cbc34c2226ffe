// Timelines for tests: the session guest recorded and opened, and what a plain run says about it.
#pragma once

#include <map>
#include <random>

#include "replay/timeline.h"
#include "tests/unit/record/sessions.h"

namespace retrovisor {

inline std::unique_ptr<Timeline> open_timeline(const std::string& path, TimelineOptions options = {}) {
  if (options.checkpoint_spacing == 0) options.checkpoint_spacing = 50'000;
  auto timeline = Timeline::open(path, guest_images(), std::move(options));
  EXPECT_TRUE(timeline.ok()) << (timeline ? "" : timeline.error().text());
  return timeline ? std::move(*timeline) : nullptr;
}

// A recording of the session guest and its timeline.
struct Recorded {
  TempFile file;
  std::unique_ptr<Timeline> timeline;

  explicit Recorded(const SessionSetup& setup = {}, TimelineOptions options = {}) {
    record_guest(file.path(), setup);
    timeline = open_timeline(file.path(), std::move(options));
  }
  Timeline* operator->() const { return timeline.get(); }
  Timeline& operator*() const { return *timeline; }
};

// A plain replay that goes forward only.
class PlainRun {
 public:
  explicit PlainRun(const std::string& path) : session_(open_replay(path)) {}
  Machine& machine() { return session_->machine(); }
  void run_to(Position p) {
    while (machine().position() < p)
      if (machine().run_until(p).reason != StopReason::position && machine().position() < p) return;
  }
  StateDigest digest_at(Position p) {
    run_to(p);
    EXPECT_EQ(machine().position(), p);
    return machine().digest();
  }

 private:
  std::unique_ptr<ReplaySession> session_;
};

inline uint64_t eip(Machine& m) { return m.vcpu(VcpuId(0)).state.rip; }

inline uint32_t word_at(Machine& m, uint64_t address) {
  uint32_t value = 0;
  EXPECT_TRUE(m.memory().read(PhysAddr(address), std::span(reinterpret_cast<uint8_t*>(&value), 4)));
  return value;
}

inline TimelineStop check(Result<TimelineStop> stop) {
  EXPECT_TRUE(stop.ok()) << (stop ? "" : stop.error().text());
  return stop ? *stop : TimelineStop{};
}

}  // namespace retrovisor
