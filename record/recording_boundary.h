// The boundary of a run that is being recorded: asks the live one and writes down what a replay cannot know.
#pragma once

#include <chrono>
#include <functional>

#include "traces/writer.h"
#include "vmm/boundary.h"
#include "vmm/journal.h"

namespace retrovisor {

// Counts the calls of one sort that come at the same moment: what a moment leaves open, the ordinal decides.
class CallOrdinal {
 public:
  // 0 for the first call at `at`, one more for each further one.
  uint64_t next(Moment at) {
    count_ = at == last_ ? count_ + 1 : 0;
    last_ = at;
    return count_;
  }

 private:
  Moment last_{kNoPosition, kNever};
  uint64_t count_ = 0;
};

// The kind of event that what comes in at an endpoint is recorded as.
EventKind input_event(std::span<const Endpoint> endpoints, EndpointId id);

class RecordingBoundary final : public Boundary {
 public:
  // Both outlive the boundary.
  RecordingBoundary(Boundary& live, TraceWriter& writer) : live_(live), writer_(writer) {}

  // The live boundary's owner calls this from inside a call to the live boundary when the host wants the machine to stop
  // (LiveBoundary::on_stop), and then asks the machine for it. It is written down, as IdleWait::host_wants_control is, so
  // that a replay stops in the same call.
  void host_stop() { stopping_ = true; }

  void connect(std::span<const Endpoint> endpoints) override;
  uint64_t wall_clock(Moment at) override;
  void entropy(Moment at, std::span<uint8_t> out) override;
  size_t receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) override;
  Result<void> read_blocks(Moment at, EndpointId endpoint, uint64_t offset, std::span<uint8_t> out) override;
  Result<std::vector<uint8_t>> ask_directory(Moment at, EndpointId endpoint, const DirectoryQuestion& question) override;
  IdleWait idle_wait(Moment at, uint64_t ns, bool input_wanted) override;
  void transmit(Moment at, EndpointId endpoint, std::span<const uint8_t> bytes) override { live_.transmit(at, endpoint, bytes); }
  uint64_t time_passed(Moment at) override;
  bool deliver(Moment at, bool possible) override;
  bool lands() const override { return live_.lands(); }
  bool landing_wanted(Moment at, VirtualTime due) override { return live_.landing_wanted(at, due); }
  void landed(Moment at, const Landing& landing) override;

 private:
  void note_stop(Moment at, uint64_t call, uint64_t ordinal);

  Boundary& live_;
  TraceWriter& writer_;
  std::vector<Endpoint> endpoints_;
  std::chrono::steady_clock::time_point last_event_ = std::chrono::steady_clock::now();
  CallOrdinal polls_;
  CallOrdinal waits_;
  bool stopping_ = false;
};

// Data of EventKind::landing. Nothing if the position says it all.
std::vector<uint8_t> encode_landing(const Landing& landing);
// False: the data is no landing's.
bool decode_landing(std::span<const uint8_t> data, Landing& landing);

// Writes the machine's journal into a trace.
class JournalWriter final : public JournalSink {
 public:
  explicit JournalWriter(TraceWriter& writer) : writer_(writer) {}
  void event(const JournalEvent& e) override { writer_.event(e); }

 private:
  TraceWriter& writer_;
};

}  // namespace retrovisor
