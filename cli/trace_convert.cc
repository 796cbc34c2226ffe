// retrovisor trace convert: a trace recorded with --engine=kvm as one that is exact to the instruction.
#include <fmt/format.h>

#include <memory>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "cli/version.h"
#include "traces/describe.h"
#include "traces/reader.h"
#include "replay/convert.h"

namespace retrovisor::cli {
namespace {

struct ConvertCommand {
  std::string trace;
  std::string output;
  ImageNames images;
};

int run(const ConvertCommand& options) {
  BootImages images;
  {
    auto reader = TraceReader::open(options.trace);
    if (!reader) return fail(reader.error());
    auto found = read_recorded_images((*reader)->header(), options.images);
    if (!found) return fail(found.error());
    images = std::move(found).value();
  }
  auto stop = StopSource::create();
  if (!stop) return fail(stop.error());
  auto signals = StopSignals::install(**stop, std::nullopt);
  if (!signals) return fail(signals.error());
  ConvertOptions how;
  how.tool_version = kVersion;
  how.stop_requested = [&stop] { return (*stop)->requested(); };
  auto done = convert(options.trace, images, options.output, how);
  if (!done) return fail(done.error());
  if (done->replay.end == ReplayResult::End::diverged) {
    say("the replay on the soft engine is not the recorded run; {} holds it up to there, without an end", options.output);
    return print_report(done->replay.divergence->text()) == kFine ? kDivergence : kFailed;
  }
  say("{}: {} instructions, {} digests equal, {}", options.output, grouped(done->instructions.value),
      grouped(done->replay.digests_compared), bytes_text(done->trace_bytes));
  if (!done->replay.note.empty()) say("{}", done->replay.note);
  return done->replay.end == ReplayResult::End::complete ? kFine : kBadTrace;
}

}  // namespace

void add_trace_convert(CLI::App& trace, Action& action) {
  CLI::App* sub = trace.add_subcommand("convert", "Make a trace recorded with --engine=kvm exact to the instruction, to debug it");
  const auto options = std::make_shared<ConvertCommand>();
  sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
  sub->add_option("-o,--output", options->output, "trace file to write")->type_name("TRACE")->required();
  sub->add_option("-k,--kernel", options->images.kernel, "the kernel, where it is not where it was")->type_name("FILE");
  sub->add_option("-i,--initrd", options->images.initrd, "the initial RAM disk, likewise")->type_name("FILE");
  sub->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace retrovisor::cli
