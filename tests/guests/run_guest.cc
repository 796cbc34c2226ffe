// Runs one guest of tests/guests and judges it by the lines in its source (see lib/guest.inc).
// Usage: run_guest GUEST.asm GUEST.bin
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "vmm/board/device_type.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/machine.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor {
namespace {

constexpr uint64_t kMemory = uint64_t{64} << 20;
constexpr uint64_t kLoadAddress = 0x7c00;
constexpr Position kDefaultLimit{2'000'000'000};  // a guest that has not ended by then hangs

struct Expectation {
  std::string stop = "debug_exit";
  uint64_t code = 1;
  std::optional<std::string> console;  // a regular expression
  uint32_t vcpus = 1;
  std::vector<std::string> devices;
  std::string input;
  Position limit = kDefaultLimit;
  bool as_kernel = false;  // recognised by what it is, not loaded flat
};

// "; key: value" lines at the top of the source.
Expectation read_expectation(const std::string& path) {
  Expectation e;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line) && line.starts_with(";");) {
    static const std::regex kLine("; (expect|console|vcpus|device|input|limit|load): (.*)");
    std::smatch m;
    if (!std::regex_match(line, m, kLine)) continue;
    const std::string key = m[1], value = m[2];
    if (key == "console") e.console = value;
    if (key == "vcpus") e.vcpus = static_cast<uint32_t>(std::stoul(value));
    if (key == "device") e.devices.push_back(value);
    if (key == "input") e.input = value;
    if (key == "load") e.as_kernel = value == "kernel";
    if (key == "limit") e.limit = Position(std::stoull(value));
    if (key == "expect") {
      const size_t space = value.find(' ');
      e.stop = value.substr(0, space);
      e.code = space == std::string::npos ? 0 : std::stoull(value.substr(space + 1));
    }
  }
  return e;
}

// A boundary without a host: the same date, the same entropy, the same input at every run; idle time passes at once.
class FixedBoundary final : public QuietBoundary {
 public:
  explicit FixedBoundary(std::string input) : input_(std::move(input)) {}

  size_t receive(Moment, EndpointId, std::span<uint8_t> out) override {
    const size_t n = std::min(out.size(), input_.size());
    std::memcpy(out.data(), input_.data(), n);
    input_.erase(0, n);
    return n;
  }
  IdleWait idle_wait(Moment, uint64_t ns, bool input_wanted) override {
    return {input_wanted && !input_.empty() ? std::min<uint64_t>(ns, kInputDelayNs) : ns, false};
  }
  void transmit(Moment, EndpointId, std::span<const uint8_t> bytes) override { console_.append(bytes.begin(), bytes.end()); }

  const std::string& console() const { return console_; }

 private:
  static constexpr uint64_t kInputDelayNs = 1000;  // after which input arrives at an idle machine

  std::string input_;
  std::string console_;
};

struct Outcome {
  Stop stop;
  std::string console;
  std::string registers;  // where the vCPUs stand, for a failure's report
  uint64_t position = 0;
  StateDigest digest;
};

// What happens between two steps of a run.
enum class Between : uint8_t { nothing, forget_translations };

// Runs the guest in steps of at most `step` instructions.
Result<Outcome> run(const Expectation& expected, const std::vector<uint8_t>& binary, uint64_t step, Between between) {
  FixedBoundary boundary(expected.input);
  MachineConfig config;
  config.memory_size = kMemory;
  config.vcpus = expected.vcpus;
  for (const std::string& text : expected.devices) {
    RV_TRY(auto device, parse_device(text));
    RV_TRY(add_device(config.devices, std::move(device)));
  }
  auto machine = Machine::create(config, boundary);
  if (!machine) return std::move(machine).error();
  Machine& m = **machine;
  BootImages images;
  images.kernel = binary;
  if (!expected.as_kernel) images.flat_address = kLoadAddress;
  images.flat_mode = FlatMode::real16;
  auto loaded = m.load(images);
  if (!loaded) return std::move(loaded).error();
  Outcome out;
  do {
    out.stop = m.run_until(std::min(expected.limit, m.position() + step));
    if (between == Between::forget_translations)
      for (uint32_t i = 0; i < expected.vcpus; ++i) m.engine().state_changed(m.vcpu(VcpuId(i)));
  } while (out.stop.reason == StopReason::position && m.position() < expected.limit);
  out.console = boundary.console();
  out.position = m.position().value;
  out.digest = m.digest();
  for (uint32_t i = 0; i < expected.vcpus; ++i) {
    const CpuState& s = m.vcpu(VcpuId(i)).state;
    out.registers += fmt::format("vCPU {}: cs:rip {:x}:{:x} rsp {:x} rax {:x} rcx {:x} rflags {:x} cr0 {:x}\n", i,
                                 s.segment[CS].selector, s.rip, s.gpr[RSP], s.gpr[RAX], s.gpr[RCX], s.rflags, s.cr0);
  }
  return out;
}

// As the guests' sources call it.
std::string_view stop_name(StopReason reason) {
  switch (reason) {
    case StopReason::debug_exit: return "debug_exit";
    case StopReason::power_off: return "power_off";
    case StopReason::reset: return "reset";
    case StopReason::triple_fault: return "triple_fault";
    case StopReason::halted_forever: return "halted_forever";
    default: return to_string(reason);
  }
}

// Returns what is wrong, or nothing.
std::string judge(const Expectation& expected, const Outcome& out) {
  const std::string stop(stop_name(out.stop.reason));
  const uint64_t code = out.stop.reason == StopReason::debug_exit ? out.stop.detail : 0;
  if (stop != expected.stop || code != expected.code)
    return fmt::format("stopped by {} {}, expected {} {}", stop, code, expected.stop, expected.code);
  if (expected.console && !std::regex_search(out.console, std::regex(*expected.console)))
    return fmt::format("console does not show \"{}\"", *expected.console);
  return "";
}

int run_main(const std::string& source, const std::string& path) {
  const Expectation expected = read_expectation(source);
  std::ifstream file(path, std::ios::binary);
  const std::vector<uint8_t> binary{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (binary.empty()) {
    fmt::print(stderr, "cannot read {}\n", path);
    return 2;
  }
  const auto out = run(expected, binary, expected.limit.value, Between::nothing);
  if (!out) {
    fmt::print(stderr, "{}\n", out.error().text());
    return 2;
  }
  fmt::print("{}position {}\n", out->console, out->position);
  if (const std::string wrong = judge(expected, *out); !wrong.empty()) {
    fmt::print(stderr, "{}{}\n", out->registers, wrong);
    return 1;
  }
  // A run depends neither on how it is cut into pieces nor on what the engine remembers of page tables. (The steps are primes,
  // to fall anywhere.)
  for (const auto& [step, between] : {std::pair{9973u, Between::nothing}, std::pair{499u, Between::forget_translations}}) {
    const auto again = run(expected, binary, step, between);
    if (again && again->console == out->console && again->position == out->position && again->digest == out->digest) continue;
    fmt::print(stderr, "run in pieces of {} ends differently: position {} instead of {}\n{}", step, again ? again->position : 0,
               out->position, again ? again->console : again.error().text());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace retrovisor

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: run_guest GUEST.asm GUEST.bin\n");
    return 2;
  }
  return retrovisor::run_main(argv[1], argv[2]);
}
