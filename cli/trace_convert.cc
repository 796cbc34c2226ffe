// retrovisor trace convert: a trace recorded with --engine=kvm as one that is exact to the instruction.
#include <fmt/format.h>

#include <memory>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "cli/version.h"
#include "replay/convert.h"
#include "traces/describe.h"

namespace retrovisor::cli {
namespace {

struct ConvertCommand {
  std::string trace;
  std::string output;
  ImageNames images;
};

int run(ConvertCommand options) {
  auto trace = find_trace(options.trace);
  if (!trace) return fail(trace.error());
  options.trace = *trace;
  CommandFiles files;
  files.output("--output", options.output);
  auto images = read_recorded_images(options.trace, options.images, files);
  if (!images) return fail(images.error());
  if (auto good = files.check(); !good) return fail(good.error());
  auto stop = StopSource::create();
  if (!stop) return fail(stop.error());
  auto signals = StopSignals::install(**stop, std::nullopt);
  if (!signals) return fail(signals.error());
  Progress progress("convert", 0, true);
  ConvertOptions how;
  how.tool_version = kVersion;
  how.stop_requested = [&stop] { return (*stop)->requested(); };
  how.progress = [&progress](const ReplayProgress& p) { progress.update(p.now.value); };
  auto output = OutputFile::create(options.output, "--output");
  if (!output) return fail(output.error());
  auto done = convert(options.trace, *images, output->path(), how);
  progress.clear();
  if (!done) return fail(done.error());
  const ReplayResult& replay = done->replay;
  const std::string holds = fmt::format("{} holds its first {} instructions, without an end", output->path(),
                                        grouped(done->instructions.value));
  output->keep();
  if (replay.end == ReplayResult::End::diverged) {
    say("the replay on the soft engine is not the recorded run; {}", holds);
    fmt::print(stderr, "{}\n", replay.divergence->text());
    return fail(replay.divergence->error());
  }
  if (replay.end == ReplayResult::End::host) {
    say("interrupted at event {} of {}; {}", grouped(replay.position.value), grouped(done->events.value), holds);
    return kFailed;
  }
  if (auto named = output->commit(); !named) return fail(named.error());
  say("{}: {} instructions, all {} digests and {} journal events were equal, {}", options.output,
      grouped(done->instructions.value), grouped(replay.digests_compared), grouped(replay.events_compared),
      bytes_text(done->trace_bytes));
  if (!replay.note.empty()) say("{}; so is what was made of it", replay.note);
  return kFine;
}

}  // namespace

void add_trace_convert(CLI::App& trace, Action& action) {
  CLI::App* sub = trace.add_subcommand("convert", "Make a trace recorded with --engine=kvm exact to the instruction, to debug it");
  const auto options = std::make_shared<ConvertCommand>();
  sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
  sub->add_option("-o,--output", options->output, "trace file to write")->type_name("TRACE")->required();
  add_image_options(*sub, options->images);
  sub->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace retrovisor::cli
