// retrovisor doctor: what this host offers, how fast each engine is here, and which one `auto` takes.
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "cli/version.h"

namespace retrovisor::cli {
namespace {

struct HostCpu {
  std::string model = "unknown";
  bool virtualization = false;  // vmx or svm
};

HostCpu host_cpu() {
  HostCpu cpu;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {  // the first processor's paragraph
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.starts_with("model name")) cpu.model = line.substr(colon + 2);
    if (!line.starts_with("flags")) continue;
    std::istringstream flags(line.substr(colon + 2));
    for (std::string flag; flags >> flag;) cpu.virtualization = cpu.virtualization || flag == "vmx" || flag == "svm";
  }
  return cpu;
}

struct Kvm {
  std::string problem;  // why it cannot be used; empty: it can
  int api = 0;
};

Kvm probe_kvm() {
  Kvm kvm;
  const int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    kvm.problem = errno == ENOENT ? "there is no /dev/kvm" : fmt::format("/dev/kvm does not open: {}", std::strerror(errno));
    return kvm;
  }
  kvm.api = ioctl(fd, KVM_GET_API_VERSION, 0);
  const int vm = ioctl(fd, KVM_CREATE_VM, 0);
  if (kvm.api != KVM_API_VERSION)
    kvm.problem = fmt::format("API version {}, not {}", kvm.api, KVM_API_VERSION);
  else if (vm < 0)
    kvm.problem = fmt::format("it makes no machine: {}", std::strerror(errno));
  if (vm >= 0) close(vm);
  close(fd);
  return kvm;
}

// Does the host count retired instructions for us? Empty: yes.
std::string probe_pmu() {
  perf_event_attr attr{};
  attr.type = PERF_TYPE_HARDWARE;
  attr.size = sizeof(attr);
  attr.config = PERF_COUNT_HW_INSTRUCTIONS;
  attr.exclude_kernel = 1;
  attr.exclude_hv = 1;
  const auto fd = static_cast<int>(syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC));
  if (fd < 0) return std::strerror(errno);
  uint64_t count = 0;
  const bool counts = read(fd, &count, sizeof(count)) == static_cast<ssize_t>(sizeof(count)) && count > 0;
  close(fd);
  return counts ? "" : "the counter stands still";
}

class NoBoundary final : public Boundary {
 public:
  uint64_t wall_clock(Moment) override { return 0; }
  void entropy(Moment, std::span<uint8_t> out) override { std::fill(out.begin(), out.end(), uint8_t{0}); }
  size_t poll_input(Moment, Channel, std::span<uint8_t>) override { return 0; }
  IdleWait idle_wait(Moment, uint64_t ns, bool) override { return {ns}; }
  void output(Moment, Channel, std::span<const uint8_t>) override {}
};

// Millions of instructions per second of a loop of loads, stores, arithmetic and branches.
Result<double> measure_soft() {
  BootImages images;
  images.flat_address = 0x100000;
  images.flat_mode = FlatMode::long64;
  images.kernel = {
      0xbb, 0x00, 0x00, 0x20, 0x00,  //       mov ebx, 0x200000
      0x48, 0x8b, 0x03,              // next: mov rax, [rbx]
      0x48, 0x01, 0xc8,              //       add rax, rcx
      0x48, 0xff, 0xc1,              //       inc rcx
      0x48, 0x89, 0x43, 0x08,        //       mov [rbx + 8], rax
      0x48, 0x8d, 0x14, 0x48,        //       lea rdx, [rax + rcx * 2]
      0x48, 0x31, 0xd6,              //       xor rsi, rdx
      0xf6, 0xc1, 0x07,              //       test cl, 7
      0x75, 0xe7,                    //       jnz next
      0xeb, 0xe5,                    //       jmp next
  };
  NoBoundary boundary;
  MachineConfig config;
  config.memory_size = kMinRam;
  auto machine = make_machine(config, boundary, images);
  if (!machine) return machine.error();
  RunOptions options;
  options.slice = uint64_t{1} << 22;
  options.time_limit = std::chrono::milliseconds(500);
  auto run = run_machine(**machine, options);
  if (!run) return run.error();
  if (run->stop.reason != StopReason::host_request)
    return Error{ErrorCode::unsupported, fmt::format("the measuring guest ended: {}", to_string(run->stop.reason)), "soft"};
  return run->mips();
}

int doctor(bool json) {
  const HostCpu cpu = host_cpu();
  const Kvm kvm = probe_kvm();
  const std::string pmu = probe_pmu();
  const auto speed = measure_soft();
  const std::string kvm_kind =
      cpu.virtualization ? "hardware" : "emulated or nested in software: the CPU shows neither vmx nor svm";
  if (json) {
    Json out;
    out.object().put("version", kVersion).object("host").put("cpu", cpu.model);
    out.put("hardware_virtualization", cpu.virtualization).end();
    out.object("kvm").put("usable", kvm.problem.empty()).put("api_version", kvm.api).put("problem", kvm.problem).end();
    out.object("pmu").put("counts_instructions", pmu.empty()).put("problem", pmu).end();
    out.object("engines").object("soft").put("available", speed.ok());
    if (speed.ok())
      out.put("million_instructions_per_second", *speed);
    else
      out.put("problem", speed.error().text());
    out.end().object("kvm").put("available", false).put("problem", "not part of this build").end().end();
    const int printed = print_report(out.put("auto", "soft").end().text());
    return speed.ok() ? printed : exit_code(speed.error().code);
  }
  std::string out;
  const auto line = [&](std::string_view name, const std::string& value) { out += fmt::format("{:<13}{}\n", name, value); };
  line("retrovisor", kVersion);
  line("host CPU", cpu.model);
  line("/dev/kvm", kvm.problem.empty() ? fmt::format("opens, API {}; {}", kvm.api, kvm_kind) : kvm.problem);
  line("PMU", pmu.empty() ? "counts retired instructions" : "no retired instructions: " + pmu);
  line("engine soft", speed.ok()
                          ? fmt::format("{:.0f} million instructions/s in a loop of loads, stores and arithmetic", *speed)
                          : "does not work here: " + speed.error().text());
  line("engine kvm", "not part of this build");
  line("auto takes", "soft: the only engine of this build; it needs nothing of the host");
  const int printed = print_report(out);
  return speed.ok() ? printed : exit_code(speed.error().code);
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("doctor", "What this host offers, how fast each engine is here, which one auto takes");
  const auto json = std::make_shared<bool>(false);
  sub->add_flag("--json", *json, "as JSON");
  sub->callback([json, &action] { action = [json] { return doctor(*json); }; });
}

}  // namespace retrovisor::cli
