// retrovisor: the command line tool. Each subcommand is one file; this is the table of them.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/say.h"
#include "cli/suggest.h"
#include "cli/version.h"

namespace {

// Started with a standard descriptor closed, the next file we open would get its number, and guest output would end up in a
// trace. /dev/null takes its place: at its end when read, silent when written.
void fill_standard_descriptors() {
  for (int fd = open("/dev/null", O_RDWR); fd >= 0; fd = open("/dev/null", O_RDWR)) {
    if (fd > STDERR_FILENO) {
      close(fd);
      return;
    }
  }
}

// The first word of the command line that names nothing, and what it may have meant.
std::optional<std::string> misspelt(const CLI::App& app, int argc, char** argv) {
  const CLI::App* at = &app;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto subcommands = at->get_subcommands([](const CLI::App*) { return true; });
    if (word == "--") break;
    if (word.starts_with("--")) {
      const std::string name = word.substr(0, word.find('='));
      std::vector<std::string> known;
      for (const CLI::Option* option : at->get_options())
        for (const std::string& known_name : option->get_lnames()) known.push_back("--" + known_name);
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      return fmt::format("'{}' is no option of {}{}", name, at->get_name(), retrovisor::cli::did_you_mean(name, known));
    }
    if (word.starts_with('-') || subcommands.empty()) continue;
    std::vector<std::string> known;
    std::string list;
    const CLI::App* next = nullptr;
    for (const CLI::App* sub : subcommands) {
      known.push_back(sub->get_name());
      list += (list.empty() ? "" : ", ") + sub->get_name();
      if (sub->get_name() == word) next = sub;
    }
    if (next == nullptr)
      return fmt::format("'{}' is no subcommand of {}{} (there are {})", word, at->get_name(),
                         retrovisor::cli::did_you_mean(word, known), list);
    at = next;
  }
  return std::nullopt;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace retrovisor::cli;
  fill_standard_descriptors();
  signal(SIGPIPE, SIG_IGN);  // a reader that went away, and a file that may not grow (ulimit -f), are errors of write(),
  signal(SIGXFSZ, SIG_IGN);  // told where it matters

  CLI::App app("A deterministic record/replay hypervisor for x86-64", "retrovisor");
  app.set_version_flag("--version", kVersionText);
  app.require_subcommand(1);
  app.footer(kExitCodeHelp);
  Action action;
  for (const auto add : {add_run, add_record, add_replay, add_trace, add_debug, add_gdb, add_linux, add_symbols, add_doctor, add_dev})
    add(app, action);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {  // help and --version come this way too, with code 0
    // An unknown word is what is wrong, whatever else is missing without it.
    const bool unknown = dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr || dynamic_cast<const CLI::RequiredError*>(&e) != nullptr;
    if (const auto words = unknown ? misspelt(app, argc, argv) : std::nullopt)
      return fail({retrovisor::ErrorCode::bad_argument, *words, ""});
    return app.exit(e) == 0 ? kFine : kBadArguments;
  }
  return action();
}
