// retrovisor run: a machine without a trace.
#include <memory>

#include "cli/auto_engine.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/live_gdb.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "cli/summary.h"

namespace retrovisor::cli {
namespace {

struct RunCommand {
  GuestOptions guest;
  LiveRunOptions live;
  ReportOptions report;
};

int run(RunCommand options) {
  options.guest.engine = engine_named(options.guest, options.live);
  if (auto good = live_files(options.guest, options.live, options.report).check(); !good) return fail(good.error());
  auto config = machine_config(options.guest, options.live);
  if (!config) return fail(config.error());
  auto images = read_images(options.guest, config->memory_size);
  if (!images) return fail(images.error());

  auto host = make_live_host(options.live);
  if (!host) return fail(host.error());
  tell_notices(*host, options.guest, *images);
  config->stop_on_panic = options.live.stop_on_panic || options.report.fail_on_crash;
  auto machine = make_machine(*config, *host->boundary, *images);
  if (!machine) return fail(machine.error());
  const auto elf = gdb::arch_of_elf(images->kernel);
  *images = {};  // the guest has its copy
  host->boundary->on_stop([&machine] { (*machine)->request_stop({StopReason::host_request, 0}); });

  auto ended =
      options.live.gdb.empty()
          ? run_machine(**machine, session_options(*host, *config))
          : run_under_gdb(options.live.gdb, **machine, *host,
                          {[&](const RunOptions& how) { return run_machine(**machine, how); },
                           [&](JournalSink* sink, EventMask mask) { (*machine)->journal().connect(sink, mask); }, true,
                           arch_named(options.live.gdb_arch), elf});
  if (!ended) return fail(ended.error());
  RunSummary summary;
  summary.what = "run";
  summary.run = *ended;
  return finish_live(std::move(summary), **machine, *host, options.report);
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("run", "Run a guest, without recording it");
  const auto options = std::make_shared<RunCommand>();
  add_guest_options(*sub, options->guest);
  add_live_options(*sub, options->live);
  add_report_options(*sub, options->report);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace retrovisor::cli
