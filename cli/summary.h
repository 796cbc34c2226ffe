// What is said at the end of a run, a recording or a replay, as text and as JSON, and the exit code that follows from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/setup.h"
#include "record/run_session.h"
#include "vmm/host/stop_source.h"
#include "vmm/machine/machine.h"

namespace retrovisor::cli {

struct TraceFigures {
  std::string file;
  uint64_t bytes = 0;
  uint64_t events = 0;
  uint64_t digests = 0;
};

struct RunSummary {
  std::string what;   // "run", "recording", "replay"
  std::string ended;  // how, where the stop does not say it; or empty
  RunResult run;
  StopCause cause = StopCause::none;
  std::optional<TraceFigures> trace;
  std::vector<std::string> remarks;  // further lines
};

// Tells the summary as `options` want it.
Result<void> report(const RunSummary& summary, Machine& machine, const ReportOptions& options);
// Ends a run or a recording: the console's last words, the summary, the exit code.
int finish_live(RunSummary summary, Machine& machine, LiveHost& host, const ReportOptions& options);
// The exit code of a run that ended this way.
int exit_code_of(const RunSummary& summary, const ReportOptions& options);

}  // namespace retrovisor::cli
