#include "cli/setup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "cli/progress.h"
#include "cli/say.h"
#include "replay/replay_session.h"
#include "traces/describe.h"
#include "traces/reader.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf_image.h"
#include "vmm/boot/gzip.h"
#include "vmm/boot/multiboot.h"
#include "vmm/board/device_type.h"
#include "vmm/kvm/host_model.h"
#include "vmm/kvm/kvm_api.h"
#include "vmm/kvm/kvm_engine.h"
#include "vmm/kvm/probe.h"
#include "vmm/kvm/tsc_trap.h"

namespace retrovisor::cli {
namespace {

// What --deterministic fixes, where the user says nothing else.
constexpr uint64_t kFixedClock = 1'767'225'600;  // 2026-01-01T00:00:00Z
constexpr uint64_t kFixedSeed = 1;

// Events per slice: under KVM each takes microseconds.
constexpr uint64_t kEventSlice = 256;

// Of a packed kernel, to see what it is.
constexpr uint64_t kMaxUnpacked = uint64_t{1} << 30;

Error io_error(const std::string& what, const std::string& path, const std::string& option) {
  return {ErrorCode::io, fmt::format("cannot {} {}: {}", what, path, std::strerror(errno)), option};
}

}  // namespace

Result<std::vector<uint8_t>> read_image(const std::string& path, const std::string& option, uint64_t limit) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return io_error("open", path, option);
  struct Close {
    int fd;
    ~Close() { close(fd); }
  } const closer{fd};
  struct stat status {};
  if (fstat(fd, &status) != 0) return io_error("look at", path, option);
  if (!S_ISREG(status.st_mode)) return Error{ErrorCode::bad_image, path + " is no regular file", option};
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size > limit)
    return Error{
        ErrorCode::bad_image,
        fmt::format("{} has {}, which do not fit into {} of guest memory", path, bytes_text(size), bytes_text(limit)),
        option};
  std::vector<uint8_t> bytes(size);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = read(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error("read", path, option);
    if (n == 0) return Error{ErrorCode::io, path + " became shorter while it was read", option};
    done += static_cast<size_t>(n);
  }
  return bytes;
}

std::pair<std::string, std::string> split_module(const std::string& text) {
  const size_t space = text.find(' ');
  if (space == std::string::npos) return {text, ""};
  return {text.substr(0, space), text.substr(space + 1)};
}

Result<BootImages> read_images(const GuestOptions& options, uint64_t memory_size) {
  BootImages images;
  auto kernel = read_image(options.kernel, "--kernel", memory_size);
  if (!kernel) return kernel.error();
  images.kernel = std::move(kernel).value();
  if (!options.initrd.empty()) {
    auto initrd = read_image(options.initrd, "--initrd", memory_size);
    if (!initrd) return initrd.error();
    if (initrd->empty()) return Error{ErrorCode::bad_image, options.initrd + " is empty", "--initrd"};
    images.initrd = std::move(initrd).value();
  }
  for (const std::string& module : options.modules) {
    auto [path, arguments] = split_module(module);
    auto bytes = read_image(path, "--module", memory_size);
    if (!bytes) return bytes.error();
    images.modules.push_back(std::move(bytes).value());
    images.module_arguments.push_back(std::move(arguments));
  }
  images.command_line = options.append;
  if (!options.flat_address.empty()) {
    auto address = parse_number(options.flat_address, "--flat-address");
    if (!address) return address.error();
    images.flat_address = *address;
  }
  auto mode = parse_flat_mode(options.flat_mode);
  if (!mode) return mode.error();
  images.flat_mode = *mode;
  RV_TRY(name_images(images, options.kernel, image_names(options).modules, memory_size));
  return images;
}

namespace {

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

// As typed to record, with arguments behind it (the trace has them); or a name with a space in it.
std::string module_file(const std::string& given) {
  return access(given.c_str(), F_OK) == 0 ? given : split_module(given).first;
}

// The file that was given. Else where it was recorded, and beside the trace: the first that has the recorded bytes. If none has,
// the first that could be read is refused for what it is.
Result<std::vector<uint8_t>> find_image(const TraceImage& image, const std::string& trace, const std::string& given,
                                        const std::string& option, uint64_t limit, CommandFiles& files) {
  std::vector<std::string> places = {given};
  if (given.empty()) {
    places = {image.name};
    if (!image.name.starts_with('/')) places.push_back(folder_of(trace) + image.name);
    places.push_back(folder_of(trace) + image.name.substr(image.name.rfind('/') + 1));
  }
  std::optional<Error> first_error, other;
  for (const std::string& path : places) {
    auto bytes = read_image(path, option, limit);
    if (!bytes) {
      if (!first_error) first_error = std::move(bytes).error();
      continue;
    }
    auto same = check_image(image, *bytes, path);
    if (same) {
      files.input(option, path);
      return bytes;
    }
    if (!other) other = std::move(same).error();
  }
  if (other) {
    files.input(option, other->where);  // what is said of it is not said into it
    RV_TRY(files.check());
  }
  if (!given.empty()) return other ? std::move(*other) : std::move(*first_error);
  if (other) {
    say("{} is not the {} that was recorded, and beside the trace there is none: say with {} where it is now", other->where,
        to_string(image.role), option);
    return std::move(*other);
  }
  first_error->message += fmt::format(", nor is it beside the trace; the trace was recorded with it: say with {} where it is now", option);
  return std::move(*first_error);
}

}  // namespace

void add_image_options(CLI::App& command, ImageNames& images, const std::string& group) {
  const auto add = [&](CLI::Option* option) {
    if (!group.empty()) option->group(group);
    return option->type_name("FILE");
  };
  add(command.add_option("-k,--kernel", images.kernel, "the kernel of the recording, where it is not where it was"));
  add(command.add_option("-i,--initrd", images.initrd, "the initial RAM disk, likewise"));
  add(command.add_option("--module", images.modules, "a module, likewise; in the recorded order"))->allow_extra_args(false);
}

Result<Position> parse_place(const std::string& text, const std::string& option, Position begin, Position end) {
  if (text == "begin") return begin;
  if (text == "end") return end;
  return parse_position(text, option);
}

Result<BootImages> read_recorded_images(const TraceHeader& header, const std::string& trace, const ImageNames& instead,
                                        CommandFiles& files) {
  BootImages images;
  const auto recorded = [&](ImageRole role) {
    return static_cast<size_t>(std::count_if(header.images.begin(), header.images.end(), [&](const TraceImage& i) { return i.role == role; }));
  };
  if (!instead.initrd.empty() && recorded(ImageRole::initrd) == 0)
    return Error{ErrorCode::bad_argument, "the trace was recorded without an initrd", "--initrd"};
  if (const size_t count = recorded(ImageRole::module); instead.modules.size() > count)
    return Error{ErrorCode::bad_argument, fmt::format("the trace was recorded with {} module{}", count, count == 1 ? "" : "s"), "--module"};
  for (const TraceImage& image : header.images) {
    const size_t module = images.modules.size();
    std::string given;
    if (image.role == ImageRole::kernel) given = instead.kernel;
    if (image.role == ImageRole::initrd) given = instead.initrd;
    if (image.role == ImageRole::module && module < instead.modules.size()) given = module_file(instead.modules[module]);
    auto bytes =
        find_image(image, trace, given, fmt::format("--{}", to_string(image.role)), header.memory_size, files);
    if (!bytes) return std::move(bytes).error();
    switch (image.role) {
      case ImageRole::kernel: images.kernel = std::move(bytes).value(); break;
      case ImageRole::initrd: images.initrd = std::move(bytes).value(); break;
      case ImageRole::module: images.modules.push_back(std::move(bytes).value()); break;
    }
  }
  return images;
}

Result<BootImages> read_recorded_images(const std::string& trace, const ImageNames& instead, CommandFiles& files) {
  files.input("TRACE", trace);
  auto reader = TraceReader::open(trace);
  if (!reader) return reader.error();
  return read_recorded_images((*reader)->header(), trace, instead, files);
}

CommandFiles live_files(const GuestOptions& guest, const LiveRunOptions& live, const ReportOptions& report) {
  CommandFiles files;
  files.input("--kernel", guest.kernel);
  files.input("--initrd", guest.initrd);
  for (const std::string& module : guest.modules) files.input("--module", split_module(module).first);
  if (const auto console = parse_console(live.console); console.ok()) files.input("--console", console->script_file);
  if (report.json_summary != "-") files.output("--json-summary", report.json_summary);
  files.listener("--gdb", live.gdb);
  return files;
}

namespace {

// Without links, so that it stays the recorded file when a link is moved on to the next version.
std::string absolute(const std::string& path) {
  if (path.empty()) return path;
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr), &std::free);
  return real != nullptr ? std::string(real.get()) : path;
}

}  // namespace

ImageNames image_names(const GuestOptions& options) {
  ImageNames names{absolute(options.kernel), absolute(options.initrd), {}};
  for (const std::string& module : options.modules) names.modules.push_back(absolute(split_module(module).first));
  return names;
}

Result<std::unique_ptr<Machine>> make_machine(const MachineConfig& config, Boundary& boundary, const BootImages& images) {
  auto machine = Machine::create(config, boundary);
  if (!machine) return machine.error();
  if (auto loaded = (*machine)->load(images); !loaded) return loaded.error();
  return machine;
}

Result<void> try_images(const MachineConfig& config, const BootImages& images) {
  auto memory = GuestMemory::create(config.memory_size);
  if (!memory) return memory.error();
  CpuState state;
  auto loaded = load_guest(images, **memory, state, config.vcpus, config.devices);
  if (!loaded) return loaded.error();
  return {};
}

namespace {

kvm::KvmEngineOptions kvm_options(const std::string& engine) {
  using Share = kvm::KvmEngineOptions::Share;
  kvm::KvmEngineOptions options;
  options.share = engine == "kvm,soft" ? Share::kernel_only : engine == "kvm,step" ? Share::stepped : Share::kvm;
  // What unpacks a kernel is the soft engine's, as its programs are.
  options.upper_half_only = options.share == Share::kernel_only;
  return options;
}

}  // namespace

bool is_kvm(const std::string& engine) { return engine.starts_with("kvm"); }

EngineFactory engine_factory(const std::string& engine) {
  return is_kvm(engine) ? kvm::kvm_engine(kvm_options(engine)) : EngineFactory();
}

void say_recording_limits(const std::string& engine) {
  using Share = kvm::KvmEngineOptions::Share;
  const Share share = kvm_options(engine).share;
  if (share == Share::stepped) return;  // none of these instructions is KVM's
  for (const kvm::Hole& hole : kvm::determinism_holes(kvm::probe_kvm()))
    if (!hole.in_programs || share != Share::kernel_only) say("not recorded exactly on this host: {}: {}", hole.what, hole.detail);
}

ProcessorModel host_model() { return kvm::host_processor_model(); }

Result<MachineConfig> machine_config(const GuestOptions& guest, const LiveRunOptions& live) {
  MachineConfig config;
  auto memory_size = parse_memory(guest.memory, "--memory");
  if (!memory_size) return memory_size.error();
  config.memory_size = *memory_size;
  config.vcpus = guest.vcpus;
  for (const std::string& text : guest.devices) {
    RV_TRY(auto device, parse_device(text));
    RV_TRY(add_device(config.devices, std::move(device)));
  }
  const bool kvm = is_kvm(guest.engine);
  if (!guest.processor_model.empty()) {
    if (kvm) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("under kvm the host's processor answers, whose model is {}", name_of(kvm::host_processor_model())),
                   "--processor-model"};
    }
    config.processor_model = *processor_model_named(guest.processor_model);  // one of the names: options.cc
  }
  if (!kvm && live.slowdown != 1)
    return Error{ErrorCode::bad_argument, "only under kvm does guest time follow the host's clock", "--slowdown"};
  if (!kvm) return config;
  config.engine = engine_factory(guest.engine);
  config.positions = PositionUnit::events;
  config.time = TimeSource::events;
  config.processor_model = kvm::host_processor_model();
  config.user_tsc = kvm::host_user_tsc();
  if (live.deterministic)
    return Error{ErrorCode::bad_argument, "under kvm, time comes from the host; --deterministic needs --engine=soft", "--engine"};
  if (!live.gdb.empty())
    return Error{ErrorCode::unsupported,
                 "a debugger needs --engine=soft; record with kvm, 'retrovisor trace convert' the trace, and debug that", "--gdb"};
  // Before any file is made: what is missing of KVM is told now.
  if (auto usable = kvm::Kvm::open(); !usable) return std::move(usable).error();
  return config;
}

Result<LiveHost> make_live_host(const LiveRunOptions& options) {
  LiveHost host;
  const std::string console_text = !options.console.empty() ? options.console : options.deterministic ? "none" : "stdio";
  auto console_options = parse_console(console_text);
  if (!console_options) return console_options.error();
  if (options.deterministic &&
      (console_options->kind == ConsoleKind::stdio || console_options->kind == ConsoleKind::terminal))
    return Error{ErrorCode::bad_argument, "what is typed is not deterministic; use a script or no input", "--console"};
  if (options.deterministic && options.time == "real")
    return Error{ErrorCode::bad_argument, "real time is not deterministic", "--time"};
  if (!options.stop_at.empty()) {
    auto position = parse_position(options.stop_at, "--stop-at");
    if (!position) return position.error();
    host.stop_at = *position;
  }
  auto idle_limit = parse_duration(options.idle_limit, "--idle-limit");
  if (!idle_limit) return idle_limit.error();
  host.options.idle_limit_ns = *idle_limit;
  if (options.deterministic) {
    host.options.wall_clock = kFixedClock;
    host.options.seed = kFixedSeed;
  }
  if (!options.rtc.empty()) {
    auto rtc = parse_rtc(options.rtc, "--rtc");
    if (!rtc) return rtc.error();
    host.options.wall_clock = *rtc;
  }
  if (!options.seed.empty()) {
    auto seed = parse_number(options.seed, "--seed");
    if (!seed) return seed.error();
    host.options.seed = *seed;
  }

  auto stop = StopSource::create();
  if (!stop) return stop.error();
  host.stop = std::move(stop).value();
  auto signals = StopSignals::install(*host.stop, options.timeout);
  if (!signals) return signals.error();
  host.signals = std::move(signals).value();
  auto console = make_console(*console_options, host.stop.get());
  if (!console) return console.error();
  host.options.real_time = options.time.empty() ? (*console)->interactive() : options.time == "real";
  host.options.slowdown = options.slowdown;
  host.boundary = std::make_unique<LiveBoundary>(host.options, std::move(console).value(), *host.stop);
  return host;
}

namespace {

// What to say of a guest that stays silent; nothing if there is nothing that one could do about it. Who reads the command line
// decides what helps: a boot sector is given none, and only Linux (and Xen, for its first domain's) knows this word of it.
std::string hint_on_silence(const GuestOptions& guest, const BootImages& images) {
  if (images.flat_address) return {};
  const auto says = [&guest](std::string_view what) { return guest.append.find(what) != std::string::npos; };
  if (says("console=") || says("earlyprintk") || says("earlycon")) return {};
  std::vector<uint8_t> unpacked;
  if (is_gzip(images.kernel))
    if (auto plain = gunzip(images.kernel, kMaxUnpacked)) unpacked = std::move(*plain);
  const std::span<const uint8_t> kernel = unpacked.empty() ? std::span(images.kernel) : std::span(unpacked);
  if (is_bzimage(kernel))
    return "no output so far, and the command line has no console=: a Linux kernel speaks to the serial port with --append console=ttyS0";
  if (!is_elf(kernel) && !find_multiboot_header(kernel))
    return "no output so far: what is shown is what the guest writes to its serial port (0x3f8), by the BIOS (INT 10h) or to port 0xe9; "
           "a boot sector takes no command line, so what it starts has to be told by its own configuration";
  return "no output so far: what is shown is what the guest writes to its serial port (0x3f8) or to port 0xe9; if it is Linux, it does "
         "with --append console=ttyS0, others have words of their own for it (Xen: console=com1)";
}

}  // namespace

void tell_notices(LiveHost& host, const GuestOptions& guest, const BootImages& images) {
  host.boundary->on_notice([hint = hint_on_silence(guest, images)](Notice what) {
    if (what == Notice::silent && !hint.empty()) say("{}", hint);
    if (what == Notice::paced)
      say("the guest does nothing but look after its timers: its idle waits take as long as they say until it prints or is "
          "typed to (--idle-limit)");
  });
}

RunOptions session_options(const LiveHost& host, const MachineConfig& config) {
  const bool by_events = config.positions == PositionUnit::events;
  RunOptions options;
  options.stop_at = host.stop_at;
  if (by_events) options.slice = kEventSlice;
  // The boundary stops the machine too (on_stop), and sooner; but it is not asked while a guest leaves its serial port full.
  options.stop_requested = [&host] {
    host.boundary->console().attend();
    return host.stop->requested();
  };
  return options;
}

}  // namespace retrovisor::cli
