// retrovisor gdb: serves a recorded run to a debugger.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <optional>

#include "analysis/linux/symbol_file.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/gdb_commands.h"
#include "cli/gdb_linux.h"
#include "cli/live_gdb.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "gdbstub/server.h"

namespace retrovisor::cli {
namespace {

struct GdbCommand {
  std::string trace;
  ImageNames images;
  std::string listen = "127.0.0.1:1234";
  bool stdio = false;
  bool once = false;
  bool warm = false;
  std::string arch = "auto";
  std::string at = "begin";
  std::string checkpoint_memory;
  std::string init;
  std::string symbols;
};

// Commands for gdb's -x: connects, gets symbols where they are. gdb asks for registers only after a stop; so that it shows
// those of where a monitor command has led to, it forgets what it knows behind each.
Result<void> write_init_file(const GdbCommand& options, const std::string& address, gdb::TimelineTarget& target) {
  // A caller's registers are known as far as they were saved: gdb is not to ask for more than it needs of them.
  std::string out = "set confirm off\nset pagination off\nset print entry-values if-needed\n";
  // Without `target remote` before it, gdb does not know the architecture.
  if (!address.empty()) out += "target remote " + address + "\n";
  out += "define hookpost-monitor\n  maintenance flush register-cache\nend\n"
         "define seek\n"
         "  if $argc == 1\n    monitor seek $arg0\n  end\n"
         "  if $argc == 2\n    monitor seek $arg0 $arg1\n  end\n"
         "  if $argc == 1 || $argc == 2\n    frame\n  else\n    help seek\n  end\n"
         "end\n"
         "document seek\n"
         "Go to a position of the recorded run, and show where that is.\n"
         "Usage: seek POSITION | seek event N\n"
         "A POSITION counts instructions: 1500000, 200M, +1k and -1k from here, begin, end.\n"
         "end\n";
  if (!options.symbols.empty()) {
    RV_TRY(auto symbols, recorded_symbols(*target.timeline()));
    auto where = symbol_file_arguments(options.symbols, symbols);
    if (!where) return Error{where.error().code, "--symbols: " + where.error().message, where.error().where};
    out += fmt::format("add-symbol-file {} {}\n", options.symbols, *where);
  }
  out += gdb_unwinder_script();
  return write_output(options.init, "--init", out);
}

// Before anything is made: the listener makes a socket.
Result<void> check_outputs(const GdbCommand& options) {
  CommandFiles files;
  files.input("TRACE", options.trace);
  files.input("--symbols", options.symbols);
  files.output("--init", options.init);
  if (!options.stdio) files.listener("--listen", options.listen);
  return files.check();
}

Result<std::unique_ptr<gdb::TimelineTarget>> open_target(const GdbCommand& options, Progress& progress,
                                                          gdb::SessionOptions& session) {
  CommandFiles files;
  RV_TRY(auto images, read_recorded_images(options.trace, options.images, files));
  files.output("--init", options.init);
  RV_TRY(files.check());
  session.kernel = gdb::arch_of_elf(images.kernel);
  TimelineOptions how;
  if (!options.checkpoint_memory.empty()) {
    RV_TRY(how.checkpoint_memory, parse_memory(options.checkpoint_memory, "--checkpoint-memory"));
  }
  how.progress = [&progress](Position now, Position) { progress.update(now.value); };
  return gdb::TimelineTarget::open(options.trace, images, std::move(how));
}

// What takes long before a debugger has its first answer: the way to where it begins, and symbols that have to be looked for.
Result<void> prepare(const GdbCommand& options, gdb::TimelineTarget& target, const std::string& address) {
  Timeline& timeline = *target.timeline();
  if (options.warm) RV_TRY(timeline.warm());
  RV_TRY(auto at, parse_place(options.at, "--at", timeline.begin(), timeline.end()));
  if (at > timeline.end())
    say("--at {}: the recording ends at {}: beginning there", grouped(at.value), grouped(timeline.end().value));
  RV_TRY(timeline.seek(at));
  return options.init.empty() ? Result<void>() : write_init_file(options, address, target);
}

// gdb is there already, and is kept waiting from the first moment: opening the trace reads all of it.
int serve_stdio(const GdbCommand& options, StopSource& stop, gdb::ServerOptions how) {
  const auto connection = gdb::make_connection(STDIN_FILENO, STDOUT_FILENO, stop.wake_fd(), false);
  auto patience = std::make_unique<gdb::KeepAlive>(*connection);
  patience->busy(gdb::KeepAlive::Sign::noise);
  Progress progress("gdb", 0, false);
  auto opened = open_target(options, progress, how.session);
  if (!opened) return fail(opened.error());
  gdb::TimelineTarget& target = **opened;
  std::optional<Error> error;
  how.session.begin = [&](gdb::Execution&) {
    if (auto ready = prepare(options, target, {}); !ready) error = ready.error();
    return !error;
  };
  patience.reset();
  gdb::serve(target, *connection, how.session);
  return error ? fail(*error) : kFine;
}

int serve_listening(const GdbCommand& options, StopSource& stop, gdb::ServerOptions how) {
  // From here on clients can come; they are kept waiting until everything is ready.
  auto listener = gdb::Listener::open(options.listen, stop.wake_fd());
  if (!listener) return fail(listener.error());
  gdb::Door door(**listener);
  Progress progress("gdb", 0, options.warm);
  auto opened = open_target(options, progress, how.session);
  if (!opened) return fail(opened.error());
  gdb::TimelineTarget& target = **opened;
  target.on_poll([&stop] { return stop.requested(); });
  if (auto ready = prepare(options, target, (*listener)->address()); !ready) return fail(ready.error());
  progress.clear();
  say("{} at position {} of {}; in gdb: target remote {}", options.trace, grouped(target.timeline()->position().value),
      grouped(target.timeline()->end().value), (*listener)->address());
  auto served = gdb::serve(target, door, how);
  if (!served) return fail(served.error());
  return kFine;
}

int serve(GdbCommand options) {
  auto trace = find_trace(options.trace);
  if (!trace) return fail(trace.error());
  options.trace = *trace;
  if (auto checked = check_outputs(options); !checked) return fail(checked.error());
  auto stop = StopSource::create();
  if (!stop) return fail(stop.error());
  auto signals = StopSignals::install(**stop, std::nullopt);
  if (!signals) return fail(signals.error());
  gdb::ServerOptions how;
  how.once = options.once;
  how.session.arch = arch_named(options.arch);
  how.session.commands = kernel_commands();
  LinuxView kernel = linux_view();
  for (gdb::MonitorCommand& command : kernel.commands) how.session.commands.push_back(std::move(command));
  how.session.window = std::move(kernel.window);
  how.log = [](std::string_view text) { say("{}", text); };
  return options.stdio ? serve_stdio(options, **stop, std::move(how)) : serve_listening(options, **stop, std::move(how));
}

}  // namespace

void add_gdb(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("gdb", "Serve a recorded run to GDB, which can run it in both directions");
  const auto options = std::make_shared<GdbCommand>();
  const std::string trace = "Trace", server = "Server";
  sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
  add_image_options(*sub, options->images, trace);
  sub->add_option("--at", options->at, "where to begin: begin, end or a position (200M)")
      ->capture_default_str()
      ->type_name("POSITION")
      ->group(trace);
  sub->add_option("--checkpoint-memory", options->checkpoint_memory, "memory for going back; a number alone counts MiB [a quarter of the host's]")
      ->type_name("SIZE")
      ->group(trace);
  sub->add_flag("--warm", options->warm, "run through the whole recording first, so that every place is quick to reach")
      ->group(trace);
  auto* listen =
      sub->add_option("-l,--listen", options->listen,
                      "where clients connect: PORT, HOST:PORT or unix:PATH. An address that others can reach must "
                      "be named: whoever connects may do anything with the guest")
          ->capture_default_str()
          ->type_name("WHERE")
          ->group(server);
  sub->add_flag("--stdio", options->stdio,
                "speak on standard input and output: target remote | retrovisor gdb --stdio TRACE")
      ->excludes(listen)
      ->group(server);
  sub->add_flag("--once", options->once, "end when the first client leaves")->group(server);
  sub->add_option("--arch,--gdb-arch", options->arch, kGdbArchHelp)
      ->check(CLI::IsMember({"auto", "x86-64", "i386"}))
      ->capture_default_str()
      ->type_name("NAME")
      ->group(server);
  auto* init = sub->add_option("--init", options->init, "write a file for gdb's -x that connects to this server")
                   ->type_name("FILE")
                   ->group(server);
  sub->add_option(
         "--symbols", options->symbols,
         "let that file load these symbols (vmlinux, or what 'retrovisor symbols' made of the kernel), moved to where "
         "the recorded kernel was")
      ->type_name("FILE")
      ->needs(init)
      ->group(server);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return serve(*options); }; });
}

}  // namespace retrovisor::cli
