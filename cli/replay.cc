// retrovisor replay: runs a recorded machine again and compares it with the recording all the way.
#include <unistd.h>

#include <memory>
#include <optional>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "cli/summary.h"
#include "replay/bisect.h"
#include "replay/parallel_replay.h"
#include "replay/replay_session.h"
#include "vmm/host/terminal.h"

namespace retrovisor::cli {
namespace {

struct ReplayCommand {
  std::string trace;
  ImageNames images;  // given instead of those the trace names
  std::string from;
  std::string stop_at;
  std::string output;
  bool quiet = false;
  bool no_checks = false;
  bool bisect = false;
  unsigned jobs = 1;
  std::string engine = "auto";
  std::optional<double> timeout;
  ReportOptions report;
};

// Where the guest's output is shown again.
struct ShownAt {
  std::optional<OutputFile> file;
  int fd = -1;  // -1: nowhere
};

Result<void> open_output(const ReplayCommand& options, ShownAt& at) {
  if (options.quiet) return {};
  at.fd = STDOUT_FILENO;
  if (options.output.empty()) return {};
  RV_TRY(auto file, OutputFile::create(options.output, "--output"));
  at.file.emplace(std::move(file));
  at.fd = at.file->fd();
  return {};
}

ReplayEngine replay_engine(const std::string& name) {
  ReplayEngine engine;
  engine.make = engine_factory(name);
  if (engine.make) engine.host = host_model();
  return engine;
}

int bisect_replay(const ReplayCommand& options, const BootImages& images, const StopSource& stop) {
  const SessionFactory session = [&] { return ReplaySession::open(options.trace, images); };
  BisectOptions how;
  how.stop_requested = [&stop] { return stop.requested(); };
  how.progress = [](Position low, Position high) {
    say("bisect: between positions {} and {}", grouped(low.value), grouped(high.value));
  };
  auto found = bisect(session, session, how);
  if (!found) return fail(found.error());
  const int printed = print_report(found->text() + "\n");
  return found->finding == BisectReport::Finding::no_divergence ? printed : kDivergence;
}

// How far what was replayed is what was recorded.
std::string equal_text(const ReplayCommand& options, const ReplayResult& result) {
  std::string run = "the recorded run";
  if (result.end == ReplayResult::End::incomplete) run += ", as far as it was recorded";
  if (result.end == ReplayResult::End::stop_at || result.end == ReplayResult::End::host)
    run += fmt::format(", up to position {}", result.position.value);
  if (options.no_checks) return run + "'s input: nothing was compared (--no-checks)";
  return fmt::format("{}: {} digests and {} journal events compared equal", run, grouped(result.digests_compared),
                     grouped(result.events_compared));
}

int finish(const ReplayCommand& options, ReplaySession& session, Position begin, size_t parts, const ReplayResult& result,
           const StopSource& stop) {
  RunSummary summary;
  summary.what = "replay";
  summary.run.stop = result.stop;
  summary.run.begin = begin;
  summary.run.end = result.position;
  summary.run.host_time = result.host_time;
  if (result.end == ReplayResult::End::host) summary.cause = stop.cause();
  summary.trace =
      TraceFigures{options.trace, session.summary().file_size, session.summary().total_events, session.summary().digests};
  if (result.divergence)
    summary.ended = "NOT the recorded run";
  else if (result.end == ReplayResult::End::incomplete)
    summary.ended = "end of what the trace holds";
  if (!options.from.empty())
    summary.remarks.push_back(begin.value == 0 ? "no key frame was early enough: replayed from the beginning"
                                               : fmt::format("replayed from the key frame at position {}", begin.value));
  if (parts > 1) summary.remarks.push_back(fmt::format("replayed in {} parts, {} at a time", parts, options.jobs));
  if (parts == 1 && options.jobs > 1)
    summary.remarks.push_back("replayed in one part: the trace has no key frames for others to start at (record --key-frames)");
  if (!result.note.empty()) summary.remarks.push_back(result.note);
  if (!result.divergence) summary.remarks.push_back(equal_text(options, result));
  if (auto reported = report(summary, session.machine(), options.report); !reported) return fail(reported.error());
  if (!result.divergence) return exit_code_of(summary, options.report);
  fmt::print(stderr, "{}\n", result.divergence->text());
  say("'retrovisor replay --bisect {}' looks for the instruction", options.trace);
  return fail(result.divergence->error());
}

int replay_parts(const ReplayCommand& options, const BootImages& images, const StopSource& stop) {
  ParallelOptions how;
  how.jobs = options.jobs;
  how.check_digests = how.check_journal = !options.no_checks;
  how.stop_requested = [&stop] { return stop.requested(); };
  Progress progress("replay", 0, true);
  how.progress = [&progress](uint64_t instructions) { progress.update(instructions); };
  auto replayed = retrovisor::replay_parts(options.trace, images, how);
  progress.clear();
  if (!replayed) return fail(replayed.error());
  return finish(options, *replayed->session, Position(0), replayed->parts, replayed->result, stop);
}

int replay(ReplayCommand options) {
  auto trace = find_trace(options.trace);
  if (!trace) return fail(trace.error());
  options.trace = *trace;
  ReplayOptions how;
  how.check_digests = how.check_journal = !options.no_checks;
  if (!options.stop_at.empty()) {
    auto position = parse_position(options.stop_at, "--stop-at");
    if (!position) return fail(position.error());
    how.stop_at = *position;
  }
  Position from;
  if (!options.from.empty()) {
    auto position = parse_position(options.from, "--from");
    if (!position) return fail(position.error());
    from = *position;
    if (from > how.stop_at)
      return fail({ErrorCode::bad_argument, fmt::format("begins behind --stop-at {}", options.stop_at), "--from " + options.from});
  }
  CommandFiles files;
  files.output("--output", options.output);
  if (options.report.json_summary != "-") files.output("--json-summary", options.report.json_summary);
  auto images = read_recorded_images(options.trace, options.images, files);
  if (!images) return fail(images.error());
  if (auto good = files.check(); !good) return fail(good.error());
  auto stop = StopSource::create();
  if (!stop) return fail(stop.error());
  auto signals = StopSignals::install(**stop, options.timeout);
  if (!signals) return fail(signals.error());
  if (options.bisect) return bisect_replay(options, *images, **stop);
  if (options.jobs > 1) return replay_parts(options, *images, **stop);

  ShownAt shown;
  if (auto opened = open_output(options, shown); !opened) return fail(opened.error());
  OutputStream output(shown.fd, stop->get(), Answers::reach_nobody);
  auto session = ReplaySession::open(options.trace, *images,
                                     [&output](Moment, EndpointId, std::span<const uint8_t> bytes) { output.write(bytes); },
                                     replay_engine(options.engine));
  if (!session) return fail(session.error());
  *images = {};  // the guest has its copy
  const Position end = (*session)->end();
  // A run that would end later ends at its end; one that would begin later is none.
  if (!options.stop_at.empty() && how.stop_at > end)
    say("--stop-at {}: the recording ends at {}", grouped(how.stop_at.value), grouped(end.value));
  if (from > end)
    return fail({ErrorCode::bad_argument,
                 fmt::format("the recording{} ends at {}", (*session)->summary().complete() ? "" : ", which was cut off,", grouped(end.value)),
                 "--from " + options.from});
  const auto begin = (*session)->start_from(from);
  if (!begin) return fail(begin.error());

  const bool screen_is_free = shown.fd < 0 || !options.output.empty() || isatty(STDOUT_FILENO) == 0;
  Progress progress("replay", std::min(how.stop_at, (*session)->end()).value, screen_is_free);
  how.stop_requested = [&stop] { return (*stop)->requested(); };
  how.progress = [&](const ReplayProgress& p) {
    output.flush();
    progress.update(p.now.value);
  };
  auto result = (*session)->run(how);
  progress.clear();
  output.flush();
  // Whatever made the terminal answer all the same: it is not for the shell.
  if (shown.fd >= 0 && isatty(shown.fd) != 0) Terminal::discard_input(STDIN_FILENO);
  if (!result) return fail(result.error());
  if (shown.file && output.error().empty())
    if (auto named = shown.file->commit(); !named) return fail(named.error());
  const int code = finish(options, **session, *begin, 1, *result, **stop);
  if (code == kFine && !output.error().empty()) return fail({ErrorCode::io, output.error(), "output"});
  return code;
}

}  // namespace

void add_replay(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("replay", "Run a recorded guest again and check that it is the same run");
  const auto options = std::make_shared<ReplayCommand>();
  const std::string group = "Trace";
  sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
  add_image_options(*sub, options->images, group);
  auto* stop_at = sub->add_option("--stop-at", options->stop_at, "end at this position (200M, 1'500'000)")
                      ->type_name("POSITION")
                      ->group(group);
  sub->add_option("--timeout", options->timeout, "end after this time of the host; exit code 124")
      ->type_name("SECONDS")
      ->group(group);
  sub->add_flag("--no-checks", options->no_checks, "compare neither digests nor journal: only the guest's input is replayed")
      ->group(group);
  auto* bisect = sub->add_flag("--bisect", options->bisect,
                               "narrow a divergence down to one instruction, by replaying twice in step")
                     ->group(group);
  auto* quiet = sub->add_flag("-q,--quiet", options->quiet, "do not show the guest's output again")->group(group);
  auto* output = sub->add_option("--output", options->output, "write the guest's output to this file")
                     ->type_name("FILE")
                     ->excludes(quiet)
                     ->group(group);
  auto* from = sub->add_option("--from", options->from,
                               "start at the last key frame at or before this position (record --key-frames), at the "
                               "beginning if there is none")
                   ->excludes(bisect)
                   ->type_name("POSITION")
                   ->group(group);
  sub->add_option("--jobs", options->jobs,
                  "replay the parts between key frames on this many machines at once; the guest's output is not shown")
      ->check(CLI::Range(1u, 256u))
      ->excludes(bisect, from, stop_at, output)
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  sub->add_option("--engine", options->engine,
                  "auto [the default] and soft: the software CPU; the others: for traces recorded with the same")
      ->check(engine_name())
      ->excludes(bisect)
      ->type_name(kEngineList)
      ->group(group);
  add_report_options(*sub, options->report);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return replay(*options); }; });
}

}  // namespace retrovisor::cli
