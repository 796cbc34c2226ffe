// retrovisor debug: gdb on a recording, with everything set up.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "vmm/host/stop_source.h"

namespace retrovisor::cli {
namespace {

namespace fs = std::filesystem;

struct DebugCommand {
  std::string trace;
  ImageNames images;
  std::string at = "begin";
  std::string gdb = "gdb";
  std::string symbols;
  std::vector<std::string> arguments;
};

// A directory of our own that goes when it is no longer needed.
class Scratch {
 public:
  static Result<std::unique_ptr<Scratch>> create() {
    std::string name = (fs::temp_directory_path() / "retrovisor-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) return Error{ErrorCode::io, fmt::format("no directory can be made: {}", std::strerror(errno)), name};
    return std::unique_ptr<Scratch>(new Scratch(name));
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string file(const char* name) const { return path_ + "/" + name; }

 private:
  explicit Scratch(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// A process of ours; one that still runs at the end is ended.
class Child {
 public:
  // `apart`: in a process group of its own, so that Ctrl-C at the terminal is not meant for it, and without our standard input.
  static Result<std::unique_ptr<Child>> start(const std::vector<std::string>& words, bool apart) {
    std::vector<char*> argv;
    for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t files;
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_init(&files);
    // What we ignore (main.cc), others do not.
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int signal : {SIGPIPE, SIGXFSZ, SIGINT}) sigaddset(&defaults, signal);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    short flags = POSIX_SPAWN_SETSIGDEF;
    if (apart) {
      posix_spawnattr_setpgroup(&attributes, 0);
      flags |= POSIX_SPAWN_SETPGROUP;
      posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    }
    posix_spawnattr_setflags(&attributes, flags);
    auto out = std::unique_ptr<Child>(new Child);
    const int failed = posix_spawnp(&out->pid_, argv[0], &files, &attributes, argv.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    if (failed != 0) {
      out->pid_ = -1;
      return Error{failed == ENOENT ? ErrorCode::unsupported : ErrorCode::io, fmt::format("cannot be started: {}", std::strerror(failed)), words[0]};
    }
    return out;
  }
  ~Child() {
    if (pid_ <= 0 || ended(WNOHANG)) return;
    kill(pid_, SIGTERM);
    ended(0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Its exit code once it has ended.
  std::optional<int> ended(int options) {
    if (code_) return code_;
    int status = 0;
    pid_t got = 0;
    do {
      got = waitpid(pid_, &status, options);
    } while (got < 0 && errno == EINTR);
    if (got == pid_) code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code_;
  }

 private:
  Child() = default;
  pid_t pid_ = -1;
  std::optional<int> code_;
};

std::vector<std::string> image_words(const ImageNames& images) {
  std::vector<std::string> out;
  if (!images.kernel.empty()) out.insert(out.end(), {"--kernel", images.kernel});
  if (!images.initrd.empty()) out.insert(out.end(), {"--initrd", images.initrd});
  for (const std::string& m : images.modules) out.insert(out.end(), {"--module", m});
  return out;
}

std::vector<std::string> ourselves(std::initializer_list<std::string> words, const DebugCommand& options) {
  std::vector<std::string> out{"/proc/self/exe"};
  out.insert(out.end(), words);
  const auto images = image_words(options.images);
  out.insert(out.end(), images.begin(), images.end());
  return out;
}

// The child's exit code; nothing: `done`, or we shall stop, before it ends.
template <class Done>
std::optional<int> wait_for(Child& child, const StopSource& stop, Done done) {
  while (!stop.requested() && !done()) {
    if (const auto code = child.ended(WNOHANG)) return code;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return std::nullopt;
}

bool newer(const std::string& file, const std::string& than) {
  std::error_code failed;
  const auto a = fs::last_write_time(file, failed);
  if (failed) return false;
  const auto b = fs::last_write_time(than, failed);
  return !failed && a >= b;
}

// A file with the kernel's symbols: kept beside the trace, or, where nothing can be written there, for this once. Empty: there are none.
std::string symbols_for(const DebugCommand& options, const Scratch& scratch, const StopSource& stop) {
  const std::string beside = options.trace + ".sym";
  if (newer(beside, options.trace)) return beside;
  const fs::path folder = fs::path(options.trace).parent_path();
  const bool here = access(folder.empty() ? "." : folder.c_str(), W_OK) == 0;
  const std::string file = here ? beside : scratch.file("kernel.sym");
  const auto making = Child::start(ourselves({"symbols", options.trace, "-o", file}, options), true);
  if (making && wait_for(**making, stop, [] { return false; }) == kFine) return file;
  say("gdb goes without symbols of the kernel");
  return "";
}

int debug(DebugCommand options) {
  auto trace = find_trace(options.trace);
  if (!trace) return fail(trace.error());
  options.trace = *trace;
  // Until gdb is there, Ctrl-C is for us: what was started goes, too.
  auto stop = StopSource::create();
  if (!stop) return fail(stop.error());
  auto signals = StopSignals::install(**stop, std::nullopt);
  if (!signals) return fail(signals.error());
  const auto scratch = Scratch::create();
  if (!scratch) return fail(scratch.error());
  const std::string init = (*scratch)->file("init.gdb");
  if (options.symbols.empty()) options.symbols = symbols_for(options, **scratch, **stop);
  auto words = ourselves({"gdb", options.trace, "--at", options.at, "--listen", "unix:" + (*scratch)->file("server"), "--init", init, "--once"}, options);
  if (!options.symbols.empty()) words.insert(words.end(), {"--symbols", options.symbols});
  const auto server = Child::start(words, true);
  if (!server) return fail(server.error());
  // It is written when the machine stands where it shall. A server that ends before has said why.
  const auto served = wait_for(**server, **stop, [&init] { return access(init.c_str(), F_OK) == 0; });
  if (served) return *served == kFine ? kFailed : *served;
  if ((*stop)->requested()) return kFailed;
  std::vector<std::string> gdb{options.gdb, "-q", "-x", init};
  gdb.insert(gdb.end(), options.arguments.begin(), options.arguments.end());
  signals->reset();
  signal(SIGINT, SIG_IGN);  // it is gdb's
  const auto debugger = Child::start(gdb, false);
  if (!debugger) return fail(debugger.error());
  return (*debugger)->ended(0).value_or(kFailed);
}

}  // namespace

void add_debug(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("debug", "Start gdb on a recorded run, with the kernel's symbols, types and stacks");
  const auto options = std::make_shared<DebugCommand>();
  sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
  sub->add_option("--at", options->at, "where to begin: begin, end or a position (200M)")->capture_default_str()->type_name("POSITION");
  sub->add_option("--symbols", options->symbols, "symbols to load, instead of those that the kernel carries, which are kept as TRACE.sym")
      ->type_name("FILE");
  sub->add_option("--gdb", options->gdb, "the debugger to start")->capture_default_str()->type_name("PROGRAM");
  add_image_options(*sub, options->images);
  sub->add_option("arguments", options->arguments, "for gdb, behind --: retrovisor debug TRACE -- -ex bt")->type_name("...");
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return debug(*options); }; });
}

}  // namespace retrovisor::cli
