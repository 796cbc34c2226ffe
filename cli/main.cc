// retrovisor: the command line tool. Each subcommand is one file; this is the table of them.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>

#include "cli/commands.h"
#include "cli/exit_codes.h"
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
  for (const auto add : {add_run, add_record, add_replay, add_trace, add_gdb, add_symbols, add_doctor}) add(app, action);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {  // help and --version come this way too, with code 0
    return app.exit(e) == 0 ? kFine : kBadArguments;
  }
  return action();
}
