// --gdb of run and record: a debugger drives a machine that runs for the first time.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "cli/setup.h"
#include "gdbstub/target_xml.h"
#include "record/run_session.h"

namespace retrovisor::cli {

struct LiveGdb {
  std::function<Result<RunResult>(const RunOptions&)> run;        // on from where the machine stands
  std::function<void(JournalSink* sink, EventMask mask)> listen;  // to journal events, beside who does already
  bool may_change = true;                                         // the debugger may write memory and registers
  std::optional<gdb::Arch> arch, kernel;                          // gdb::SessionOptions
};

// --gdb-arch: "auto" is none.
inline std::optional<gdb::Arch> arch_named(const std::string& name) {
  if (name == "auto") return std::nullopt;
  return name == "i386" ? gdb::Arch::i386 : gdb::Arch::x86_64;
}

// Waits for a debugger at `where` (gdb::Listener::open) and does what it says until the machine has ended or it kills it;
// after it has detached the machine runs on to its end. The result is that of the whole run.
Result<RunResult> run_under_gdb(const std::string& where, Machine& machine, LiveHost& host, const LiveGdb& how);

}  // namespace retrovisor::cli
