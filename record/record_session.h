// Records a run: the journal and digests beside what the recording boundary writes.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "record/run_session.h"
#include "traces/writer.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/machine.h"

namespace retrovisor {

// Digests this far apart cost little beside the run, and a divergence is at most this far from where it was seen.
inline constexpr uint64_t kDefaultDigestInterval = uint64_t{16} << 20;
// The same where positions count events, each of which takes some ten microseconds.
inline constexpr uint64_t kDefaultEventDigestInterval = 16384;

struct RecordOptions {
  RunOptions run;
  // Host time after which what was collected is written, so that a recorder that is killed loses little.
  std::chrono::nanoseconds flush_interval = std::chrono::milliseconds(250);
  bool sync = false;  // have the whole trace on disk at the end
  // Instructions between two key frames, which stand at its multiples; 0: none.
  uint64_t key_frame_interval = 0;
};

struct RecordResult {
  RunResult run;
  uint64_t trace_bytes = 0;
  uint64_t events = 0;
  uint64_t digests = 0;
  uint64_t key_frames = 0;
};

// Names of the input files, as the trace shall give them; missing ones stay empty.
struct ImageNames {
  std::string kernel;
  std::string initrd;
  std::vector<std::string> modules;
};

// The parts of a trace's header that follow from machine and images: memory, vCPUs, CPU model, images, command line. The
// caller adds tool version, engine, time mode, seed, RTC, journal mask and digests.
TraceHeader make_header(const MachineConfig& config, const BootImages& images, const ImageNames& names);
// XXH3-64 of the CPUID table at reset, all leaves: equal tables show guests the same CPU.
uint64_t cpu_table_digest(uint32_t vcpus);

// A recording in several runs: for debuggers. `machine` is built on a RecordingBoundary over `writer` and loaded. Journal
// mask, digest interval (0: only at begin and end) and detail are those of the writer's header. When the trace cannot be
// written a run ends with the writer's error, which says what was kept. All arguments outlive the object.
class Recording {
 public:
  static Result<std::unique_ptr<Recording>> begin(Machine& machine, TraceWriter& writer, const RecordOptions& options);
  ~Recording();
  // On from where the machine stands.
  Result<RunResult> run(const RunOptions& options);
  // Lets `sink` see the journal's events of these kinds too; null: nobody but the trace.
  void listen(JournalSink* sink, EventMask mask);
  // Completes the trace. `last`: how the last run ended.
  Result<RecordResult> finish(const RunResult& last);

 private:
  class Impl;
  explicit Recording(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The same in one run.
Result<RecordResult> record(Machine& machine, TraceWriter& writer, const RecordOptions& options);

}  // namespace retrovisor
