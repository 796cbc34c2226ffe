// retrovisor linux: what the Linux kernel in a recording tells of itself at a position.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/linux_views.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "replay/timeline.h"

namespace retrovisor::cli {
namespace {

struct LinuxCommand {
  std::string trace;
  ImageNames images;
  std::string at = "end";
  std::string view;
  std::vector<std::string> words;
  bool json = false;
};

const LinuxViewCommand* view_named(const std::string& name) {
  for (const LinuxViewCommand& v : linux_views())
    if (v.name == name) return &v;
  return nullptr;
}

Result<std::string> show(LinuxCommand options) {
  const LinuxViewCommand* const view = view_named(options.view);
  if (view == nullptr) {
    std::string known;
    for (const LinuxViewCommand& v : linux_views()) known += (known.empty() ? "" : ", ") + std::string(v.name);
    return Error{ErrorCode::bad_argument, fmt::format("'{}' is no view (there are {})", options.view, known), "VIEW"};
  }
  RV_TRY(options.trace, find_trace(options.trace));
  CommandFiles files;
  RV_TRY(const auto images, read_recorded_images(options.trace, options.images, files));
  RV_TRY(files.check());
  TimelineOptions how;
  Progress progress("linux", 0, false);
  how.progress = [&progress](Position now, Position) { progress.update(now.value); };
  RV_TRY(const auto timeline, Timeline::open(options.trace, images, std::move(how)));
  RV_TRY(const Position at, parse_place(options.at, "--at", timeline->begin(), timeline->end()));
  if (at > timeline->end())
    return Error{ErrorCode::bad_argument, fmt::format("the recording ends at {}", grouped(timeline->end().value)), fmt::format("--at {}", at.value)};
  RV_TRY(timeline->seek(at));
  progress.clear();
  Machine& machine = timeline->machine();
  KnownKernel known;
  RV_TRY(const LinuxKernel* const kernel, known.in(machine));
  RV_TRY(const auto memory, KernelsMemory::of(machine, *kernel, VcpuId(0)));
  return view->run({machine, *kernel, *memory, options.words, std::nullopt, options.json});
}

int linux_command(const LinuxCommand& options) {
  const auto text = show(options);
  return text ? print_report(*text) : fail(text.error());
}

}  // namespace

void add_linux(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("linux", "What the Linux kernel in a recording tells of itself at a position: its log, tasks, stacks, modules");
  const auto options = std::make_shared<LinuxCommand>();
  sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
  std::string views = "what to show";
  for (const LinuxViewCommand& v : linux_views()) views += fmt::format("; {}{}{}: {}", v.name, *v.usage != 0 ? " " : "", v.usage, v.help);
  sub->add_option("view", options->view, views)->type_name("VIEW")->required();
  sub->add_option("arguments", options->words, "of the view")->type_name("ARGUMENT");
  sub->add_option("--at", options->at, "where in the recording: begin, end or a position (200M)")->capture_default_str()->type_name("POSITION");
  sub->add_flag("--json", options->json, "as JSON");
  add_image_options(*sub, options->images);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return linux_command(*options); }; });
}

}  // namespace retrovisor::cli
