#include "cli/live_gdb.h"

#include <algorithm>

#include "cli/gdb_commands.h"
#include "cli/say.h"
#include "gdbstub/server.h"

namespace retrovisor::cli {

Result<RunResult> run_under_gdb(const std::string& where, Machine& machine, LiveHost& host, const LiveGdb& how) {
  RV_TRY(auto listener, gdb::Listener::open(where, host.stop->wake_fd()));
  gdb::Door door(*listener);
  const Position begin = machine.position();
  std::chrono::nanoseconds host_time{0};
  RunResult last;
  last.begin = last.end = begin;
  last.on_arrival = true;
  last.stop.reason = StopReason::host_request;
  const auto advance = [&](Position limit, std::function<bool()> stop) -> Result<RunResult> {
    RunOptions options = session_options(host, machine.config());
    options.stop_at = std::min(options.stop_at, limit);
    const auto host_stop = std::move(options.stop_requested);
    options.stop_requested = [&] { return host_stop() || (stop && stop()); };
    auto run = how.run(options);
    if (!run) return run;
    host_time += run->host_time;
    last = *run;
    return run;
  };
  gdb::LiveTarget target(machine, advance, how.listen, how.may_change);
  host.boundary->on_sleep([&target, &machine] {
    if (!target.stop_wanted()) return false;
    machine.request_stop({StopReason::observed, 0});
    return true;
  });
  gdb::ServerOptions options;
  options.session.commands = kernel_commands();
  options.session.arch = how.arch;
  options.session.kernel = how.kernel;
  options.log = [](std::string_view text) { say("{}", text); };
  say("waiting for a debugger; in gdb: target remote {}", listener->address());
  const auto end = gdb::serve(target, door, options);
  host.boundary->on_sleep({});
  if (!end) return end.error();
  if (*end == gdb::SessionEnd::detached && !target.ended()) {
    if (auto run = advance(kNoPosition, {}); !run) return run;
  } else if (!target.ended()) {
    last.stop = {StopReason::host_request, 0};
    last.on_arrival = true;
  }
  last.begin = begin;
  last.end = machine.position();
  last.guest_time = machine.now();
  last.idle_ns = machine.idle_ns();
  last.host_time = host_time;
  return last;
}

}  // namespace retrovisor::cli
