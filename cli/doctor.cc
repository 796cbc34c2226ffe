// retrovisor doctor: what this host offers, how fast each engine is here, and which one `auto` takes.
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/doctor.h"
#include "cli/exit_codes.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "cli/version.h"
#include "vmm/kvm/probe.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor::cli {
namespace {

using kvm::Answer;
using kvm::Question;

std::string host_cpu() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {  // the first processor's paragraph
    const size_t colon = line.find(": ");
    if (colon != std::string::npos && line.starts_with("model name")) return line.substr(colon + 2);
  }
  return "unknown";
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
  QuietBoundary boundary;
  MachineConfig config;
  config.memory_size = kMinRam;
  RV_TRY(auto machine, make_machine(config, boundary, images));
  RunOptions options;
  options.slice = uint64_t{1} << 22;
  options.time_limit = std::chrono::milliseconds(500);
  RV_TRY(auto run, run_machine(*machine, options));
  if (run.stop.reason != StopReason::host_request)
    return Error{ErrorCode::unsupported, fmt::format("the measuring guest ended: {}", to_string(run.stop.reason)), "soft"};
  return run.mips();
}

struct Report {
  explicit Report(const EngineAdvice& advice)
      : kvm(advice.probe()),
        choice(kvm::choose_engine(kvm, advice.abilities)),
        holes(determinism_holes(kvm, advice.abilities)) {}

  std::string cpu = host_cpu();
  std::string pmu = probe_pmu();
  kvm::KvmProbe kvm;
  kvm::EngineChoice choice;
  std::vector<kvm::Hole> holes;
  Result<double> soft = measure_soft();
};

std::string as_json(const Report& r) {
  Json kvm = {{"usable", r.kvm.usable()}, {"problem", r.kvm.problem}, {"api_version", r.kvm.capabilities.api_version}};
  if (r.kvm.usable()) {
    kvm["ring0_million_instructions_per_second"] = r.kvm.ring0_per_second / 1e6;
    kvm["ring3_million_instructions_per_second"] = r.kvm.ring3_per_second / 1e6;
    kvm["progress_counter"] = to_string(r.kvm.progress);
    Json& findings = kvm["findings"] = Json::object();
    for (size_t i = 0; i < kvm::kQuestions; ++i) {
      const auto question = static_cast<Question>(i);
      findings[std::string(key(question))] = {{"answer", to_string(r.kvm[question].answer)}, {"seen", r.kvm[question].seen}};
    }
    Json& holes = kvm["holes"] = Json::array();
    for (const kvm::Hole& hole : r.holes)
      holes.push_back({{"what", hole.what}, {"detail", hole.detail}, {"acceptable", hole.acceptable}});
    Json& capabilities = kvm["capabilities"] = Json::object();
    for (const kvm::HostCapabilities::Found& found : r.kvm.capabilities.found) capabilities[found.capability->name] = found.value;
  }
  Json soft = {{"available", r.soft.ok()}};
  if (r.soft.ok())
    soft["million_instructions_per_second"] = *r.soft;
  else
    soft["problem"] = r.soft.error().text();
  const std::string& problem = r.kvm.problem;
  return json_text({
      {"version", kVersion},
      {"host", {{"cpu", r.cpu}, {"hardware_virtualization", r.kvm.hardware}}},
      {"kvm", std::move(kvm)},
      {"pmu", {{"counts_instructions", r.pmu.empty()}, {"problem", r.pmu}}},
      {"engines",
       {{"soft", std::move(soft)},
        {"kvm",
         {{"available", problem.empty()}, {"problem", problem}, {"recommended", r.choice.kvm}, {"reasons", r.choice.reasons}}}}},
      {"auto", name_of_choice(r.choice)},
  });
}

// The table of what was tried: each line followed by what it means.
std::string kvm_table(const kvm::KvmProbe& probe, const std::vector<kvm::Hole>& holes) {
  std::string out = "\nkvm: what was tried here, and what it means for --engine=kvm\n";
  for (size_t i = 0; i < kvm::kQuestions; ++i) {
    const auto question = static_cast<Question>(i);
    const kvm::Finding& finding = probe[question];
    out += fmt::format("  {:<29}{:<8} {}\n", subject(question), to_string(finding.answer), finding.seen);
    out += fmt::format("  {:<37} -> {}\n", "", meaning(question, finding.answer));
  }
  std::string lacking;
  for (const kvm::HostCapabilities::Found& found : probe.capabilities.found)
    if (!found.enough())
      lacking += fmt::format("  {:<37} {}{}\n", found.capability->name, found.capability->required ? "required: " : "",
                             found.capability->use);
  out += lacking.empty() ? "\nkvm: has every capability that could be used\n"
                         : "\nkvm: capabilities that are missing, and what they are for\n" + lacking;
  out += holes.empty() ? "\nkvm: nothing is known that a recording with --engine=kvm could not hold\n"
                       : "\nkvm: what a recording with --engine=kvm cannot hold here\n";
  for (const kvm::Hole& hole : holes)
    out += fmt::format("  {:<37} {}{}\n", hole.what, hole.detail, hole.acceptable ? " (acceptable)" : "");
  return out;
}

std::string as_text(const Report& r) {
  std::string out;
  const auto line = [&](std::string_view name, const std::string& value) { out += fmt::format("{:<13}{}\n", name, value); };
  line("retrovisor", kVersion);
  line("host CPU", r.cpu);
  const std::string kind = r.kvm.hardware ? "hardware" : "emulated or nested in software: the CPU shows neither vmx nor svm";
  line("/dev/kvm", r.kvm.usable() ? fmt::format("opens, API {}; {}", r.kvm.capabilities.api_version, kind) : r.kvm.problem);
  line("PMU", r.pmu.empty() ? "counts retired instructions" : "no retired instructions: " + r.pmu);
  line("engine soft", r.soft.ok()
                          ? fmt::format("{:.0f} million instructions/s in a loop of loads, stores and arithmetic", *r.soft)
                          : "does not work here: " + r.soft.error().text());
  const auto speeds = [&] {
    return fmt::format("{:.0f} million instructions/s in the guest's kernel, {:.0f} in its programs",
                       r.kvm.ring0_per_second / 1e6, r.kvm.ring3_per_second / 1e6);
  };
  line("engine kvm", !r.kvm.usable() ? "cannot be used here" : !r.choice.kvm ? "works with the limits below" : speeds());
  line("auto takes", !r.choice.kvm ? "soft: it needs nothing of the host; kvm is not taken because" : "kvm, because");
  for (const std::string& reason : r.choice.reasons) line("", "- " + reason);
  if (r.kvm.usable()) out += kvm_table(r.kvm, r.holes);
  return out;
}

}  // namespace

int doctor(bool json, const EngineAdvice& advice) {
  const Report report(advice);
  const int printed = print_report(json ? as_json(report) : as_text(report));
  return report.soft.ok() ? printed : exit_code(report.soft.error().code);
}

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("doctor", "What this host offers, how fast each engine is here, which one auto takes");
  const auto json = std::make_shared<bool>(false);
  sub->add_flag("--json", *json, "as JSON");
  sub->callback([json, &action] { action = [json] { return doctor(*json); }; });
}

}  // namespace retrovisor::cli
