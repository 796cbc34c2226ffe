#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "vmm/board/device_type.h"
#include "vmm/processor_model.h"

namespace retrovisor::cli {
namespace {

Error bad(const std::string& option, std::string message) { return {ErrorCode::bad_argument, std::move(message), option}; }

// Digits with separators up to the first other character; nothing if there is none or it is too large.
std::optional<uint64_t> leading_number(std::string_view text, size_t& end) {
  uint64_t value = 0;
  bool digits = false;
  for (end = 0; end < text.size(); ++end) {
    const char c = text[end];
    if (digits && (c == '\'' || c == '_')) continue;
    if (c < '0' || c > '9') break;
    digits = true;
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(c - '0'), &value))
      return std::nullopt;
  }
  if (!digits) return std::nullopt;
  return value;
}

Result<uint64_t> scaled(const std::string& text, std::string_view units, uint64_t base, const std::string& option) {
  size_t end = 0;
  auto value = leading_number(text, end);
  uint64_t factor = 1;
  if (value && end + 1 == text.size()) {
    const size_t unit = units.find(text[end]);
    if (unit == std::string_view::npos)
      value = std::nullopt;
    else
      for (size_t i = 0; i <= unit; ++i) factor *= base;
  } else if (end != text.size()) {
    value = std::nullopt;
  }
  uint64_t product = 0;
  if (!value || __builtin_mul_overflow(*value, factor, &product))
    return bad(option, fmt::format("'{}' is no number with one of the units {}", text, units));
  return product;
}

// Asked for help, the option says it and ends the program, as --help does.
CLI::Validator device_or_help() {
  return {[](std::string& text) {
            const auto device = parse_device(text);
            if (!device) return device.error().message;
            if (device->type == "help") throw CLI::CallForVersion(device_help(), CLI::ExitCodes::Success);
            const auto type = find_device_type(device->type);
            const auto is_help = [](const auto& option) { return option.first == "help"; };
            if (type.ok() && std::any_of(device->options.begin(), device->options.end(), is_help))
              throw CLI::CallForVersion(device_help(**type), CLI::ExitCodes::Success);
            const auto checked = check_device(*device);
            return checked ? std::string() : checked.error().message;
          },
          ""};
}

}  // namespace

CLI::Validator engine_name() {
  return {[](std::string& text) {
            const bool known = std::find(kEngineNames.begin(), kEngineNames.end(), text) != kEngineNames.end();
            return known ? std::string() : fmt::format("'{}' is none of {}", text, kEngineList);
          },
          ""};
}

void add_guest_options(CLI::App& app, GuestOptions& options) {
  const std::string group = "Guest";
  app.add_option("-k,--kernel", options.kernel,
                 "Linux bzImage, ELF with a PVH note, multiboot image (packed by gzip or not), boot sector or disk image, or (with "
                 "--flat-address) a flat binary")
      ->type_name("FILE")
      ->required()
      ->group(group);
  app.add_option("-i,--initrd", options.initrd, "initial RAM disk")->type_name("FILE")->group(group);
  app.add_option("--module", options.modules, "multiboot module and, after a space, its command line; may be repeated")
      ->type_name("'FILE ARGS'")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("-a,--append", options.append, "kernel command line, for example console=ttyS0")
      ->type_name("STR")
      ->group(group);
  app.add_option("-m,--memory", options.memory, "guest RAM, 16M to 64G; a number alone counts MiB")
      ->capture_default_str()
      ->type_name("SIZE")
      ->group(group);
  app.add_option("--vcpus", options.vcpus, fmt::format("virtual CPUs, 1 to {}; they run in turns", kMaxVcpus))
      ->check(CLI::Range(uint32_t{1}, kMaxVcpus))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  app.add_option("--engine", options.engine,
                 "auto: what 'retrovisor doctor' says [the default]; soft: the software CPU; kvm: the host's; 'kvm,soft': kvm for the guest's kernel and soft for its programs; "
                 "'kvm,step': kvm step by step, for what every KVM does right (slow, and exact where this host's KVM is not)")
      ->check(engine_name())
      ->type_name(kEngineList)
      ->group(group);
  app.add_option("--processor-model", options.processor_model,
                 "whose answers the soft engine gives where processors differ: model (its own, the default), or those of a "
                 "vendor's processors, as a recording with kvm has them")
      ->check(CLI::IsMember(std::vector<std::string>(kProcessorModelNames.begin(), kProcessorModelNames.end())))
      ->type_name("NAME")
      ->group(group);
  app.add_option("--device", options.devices,
                 "one more device or, of a type of which a machine has just one, options for it, as TYPE[,OPTION=VALUE...]; may be "
                 "repeated. --device help lists the types, --device TYPE,help the options of one")
      ->type_name("DEVICE")
      ->allow_extra_args(false)
      ->check(device_or_help())
      ->group(group);
  app.add_option("--flat-address", options.flat_address,
                 "load the kernel as a flat binary at this physical address and start there")
      ->type_name("ADDR")
      ->group(group);
  app.add_option("--flat-mode", options.flat_mode, "CPU mode a flat binary starts in: real16, protected32 or long64")
      ->check(CLI::IsMember({"real16", "protected32", "long64"}))
      ->capture_default_str()
      ->type_name("MODE")
      ->group(group);
}

void add_live_options(CLI::App& app, LiveRunOptions& options) {
  const std::string group = "Run";
  app.add_option("-c,--console", options.console,
                 "where console input comes from: stdio (a terminal or a pipe), tty (insist on a terminal), none, or "
                 "script:FILE. Guest output always goes to standard output. Default: stdio; none with --deterministic")
      ->type_name("HOW")
      ->group(group);
  app.add_option(
         "--time", options.time,
         "real: idle waits last as long as they say; virtual: they are skipped. Default: real at a terminal, else virtual")
      ->check(CLI::IsMember({"real", "virtual"}))
      ->type_name("MODE")
      ->group(group);
  app.add_option("--slowdown", options.slowdown,
                 "with --engine=kvm, how many times slower than the host's clock the guest's goes while it runs; for hosts whose "
                 "KVM emulates guest kernels, so that their watchdogs do not bark [1]")
      ->check(CLI::Range(1, 1000))
      ->type_name("N")
      ->group(group);
  app.add_option("--rtc", options.rtc, "what the guest's clock says at the start: seconds since 1970 or 2026-01-31T12:34:56")
      ->type_name("TIME")
      ->group(group);
  app.add_option("--seed", options.seed, "number that the guest's randomness is made of")->type_name("N")->group(group);
  app.add_flag("--deterministic", options.deterministic,
               "virtual time, fixed --rtc and --seed, no input but a script's: two such runs are the same run")
      ->group(group);
  app.add_flag("--stop-on-panic", options.stop_on_panic,
               "end when the guest kernel says on its console that it has panicked")
      ->group(group);
  app.add_option("--stop-at", options.stop_at, "end after this many instructions (200M, 1'500'000)")
      ->type_name("POSITION")
      ->group(group);
  app.add_option("--timeout", options.timeout, "end after this time of the host; exit code 124")
      ->type_name("SECONDS")
      ->group(group);
  app.add_option("--idle-limit", options.idle_limit,
                 "in virtual time: for how long a guest may do nothing but look after its timers (30m, 1h, none), in time of the "
                 "guest. Then the run ends with exit code 8 if no input can come any more; else its idle waits last as long "
                 "as they say, until it prints or is typed to")
      ->capture_default_str()
      ->type_name("TIME")
      ->group(group);
  app.add_option("--gdb", options.gdb,
                 "wait for a debugger before the first instruction, at PORT, HOST:PORT or unix:PATH, and obey it: forward "
                 "only. A host that others can reach must be named")
      ->type_name("WHERE")
      ->group(group);
  app.add_option("--gdb-arch", options.gdb_arch, kGdbArchHelp)
      ->check(CLI::IsMember({"auto", "x86-64", "i386"}))
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
}

void add_report_options(CLI::App& app, ReportOptions& options) {
  const std::string group = "Report";
  app.add_flag("--fail-on-crash", options.fail_on_crash,
               "exit code 5 if the guest panics, triple-faults or gets stuck in exceptions; implies --stop-on-panic")
      ->group(group);
  app.add_flag("--guest-exit-code", options.guest_exit_code,
               "exit with what the guest writes to the debug-exit port 0xf4: (value << 1) | 1")
      ->group(group);
  app.add_flag("--no-summary", options.no_summary, "no summary at the end")->group(group);
  app.add_option("--json-summary", options.json_summary, "write the summary as JSON to this file (- for standard error)")
      ->type_name("FILE")
      ->group(group);
}

Result<uint64_t> parse_size(const std::string& text, const std::string& option) {
  return scaled(text, "KMGT", 1024, option);
}

Result<uint64_t> parse_memory(const std::string& text, const std::string& option) {
  const bool number = !text.empty() && text.find_first_not_of("0123456789'_") == std::string::npos;
  return parse_size(number ? text + "M" : text, option);
}

Result<uint64_t> parse_duration(const std::string& text, const std::string& option) {
  if (text == "none") return uint64_t{0};
  constexpr uint64_t kSecond = 1'000'000'000;
  size_t end = 0;
  const auto value = leading_number(text, end);
  uint64_t factor = 0;
  if (value && end + 1 == text.size())
    switch (text[end]) {
      case 's': factor = kSecond; break;
      case 'm': factor = 60 * kSecond; break;
      case 'h': factor = 3600 * kSecond; break;
      case 'd': factor = 86400 * kSecond; break;
      default: break;
    }
  constexpr uint64_t kMost = uint64_t{36500} * 86400 * kSecond;  // a century: guest time stays far below what it can count
  if (factor == 0 || *value == 0 || *value > kMost / factor)
    return bad(option, fmt::format("'{}' is no time such as 90s, 30m, 2h, 1d, nor none", text));
  return *value * factor;
}

Result<Position> parse_position(const std::string& text, const std::string& option) {
  RV_TRY(auto value, scaled(text, "kMG", 1000, option));
  if (value >= (uint64_t{1} << 62)) return bad(option, fmt::format("'{}' is beyond every machine's life", text));
  return Position(value);
}

Result<uint64_t> parse_number(const std::string& text, const std::string& option) {
  if (text.size() > 2 && text.size() <= 18 && (text.starts_with("0x") || text.starts_with("0X")) &&
      text.find_first_not_of("0123456789abcdefABCDEF", 2) == std::string::npos)
    return std::stoull(text.substr(2), nullptr, 16);
  size_t end = 0;
  const auto value = leading_number(text, end);
  if (!value || end != text.size()) return bad(option, fmt::format("'{}' is no number", text));
  return *value;
}

Result<uint64_t> parse_rtc(const std::string& text, const std::string& option) {
  std::tm t{};
  const char* end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &t);
  if (end != nullptr && (*end == '\0' || std::string_view(end) == "Z")) {
    const time_t seconds = timegm(&t);
    if (seconds >= 0) return static_cast<uint64_t>(seconds);
  }
  auto seconds = parse_number(text, option);
  // The RTC counts years to 2099.
  if (!seconds || *seconds >= 4'102'444'800)
    return bad(option,
               fmt::format("'{}' is neither seconds since 1970 nor a time such as 2026-01-31T12:34:56, up to 2099", text));
  return seconds;
}

Result<FlatMode> parse_flat_mode(const std::string& text) {
  if (text == "real16") return FlatMode::real16;
  if (text == "protected32") return FlatMode::protected32;
  if (text == "long64") return FlatMode::long64;
  return bad("--flat-mode", fmt::format("'{}' is not one of real16, protected32, long64", text));
}

Result<ConsoleOptions> parse_console(const std::string& text) {
  ConsoleOptions options;
  constexpr std::string_view kScript = "script:";
  if (text == "stdio") {
    options.kind = ConsoleKind::stdio;
  } else if (text == "tty") {
    options.kind = ConsoleKind::terminal;
  } else if (text == "none") {
    options.kind = ConsoleKind::none;
  } else if (text.starts_with(kScript) && text.size() > kScript.size()) {
    options.kind = ConsoleKind::script;
    options.script_file = text.substr(kScript.size());
  } else {
    return bad("--console", fmt::format("'{}' is not one of stdio, tty, none, script:FILE", text));
  }
  return options;
}

}  // namespace retrovisor::cli
