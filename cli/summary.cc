#include "cli/summary.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/host_memory.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "vmm/kvm/kvm_engine.h"
#include "traces/describe.h"

namespace retrovisor::cli {
namespace {

double seconds_of(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

// What KVM did not do itself, the most frequent first.
std::vector<std::pair<std::string, uint64_t>> by_count(const std::map<std::string, uint64_t>& assisted) {
  std::vector<std::pair<std::string, uint64_t>> out(assisted.begin(), assisted.end());
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.second != b.second ? a.second > b.second : a.first < b.first; });
  return out;
}

void say_kvm(const kvm::KvmStatistics& kvm) {
  constexpr size_t kMost = 16;
  say("  kvm: {} entries, {} kicks, {} instructions counted, {} code sites patched", grouped(kvm.entries), grouped(kvm.kicks),
      grouped(kvm.progress), grouped(kvm.patched));
  std::string list;
  const auto assisted = by_count(kvm.assisted);
  for (size_t i = 0; i < assisted.size() && i < kMost; ++i)
    list += fmt::format("{}{} {}", i == 0 ? ": " : ", ", assisted[i].first, grouped(assisted[i].second));
  if (assisted.size() > kMost) list += fmt::format(", and {} others", assisted.size() - kMost);
  say("  the soft engine did {} instructions, {} of them because KVM could not{}", grouped(kvm.soft), grouped(kvm.assists), list);
}

void say_summary(const RunSummary& s, Machine& machine, const StateDigest& digest, const HostMemory& memory) {
  const uint64_t instructions = machine.position().value;
  const auto faults = faults_of(s.run.stop, machine.engine());
  const std::string cause = s.cause == StopCause::none ? "" : fmt::format(" ({})", to_string(s.cause));
  say("{} ended: {}{} at position {}", s.what, s.ended.empty() ? describe(s.run.stop, faults) : s.ended, cause, instructions);
  const bool by_events = machine.config().positions == PositionUnit::events;
  const uint64_t begin = s.run.begin.value;
  say("  {} {}{} in {}: {}; guest time {}, of it idle {}", grouped(instructions - begin), by_events ? "events" : "instructions",
      begin == 0 ? "" : fmt::format(" from position {} on", begin), duration_text(seconds_of(s.run.host_time)),
      by_events ? fmt::format("{:.1f} k/s", s.run.mips() * 1e3) : fmt::format("{:.0f} M/s", s.run.mips()),
      duration_text(static_cast<double>(machine.now().value) / 1e9),
      duration_text(static_cast<double>(machine.idle_ns()) / 1e9));
  if (s.trace) {
    say("  trace {}: {}, {} events, {} digests", s.trace->file, bytes_text(s.trace->bytes), grouped(s.trace->events),
        grouped(s.trace->digests));
  }
  say("  memory: guest touched {}, {} beside it", bytes_text(memory.guest_bytes), bytes_text(memory.overhead()));
  for (const auto& [bytes, count] : machine.engine().report().statistics.unknown_instructions) {
    if (bytes.starts_with(kNoMemory)) say("  code ran to where there is {}: raised #UD {} time{}", bytes, count, count == 1 ? "" : "s");
    else say("  unknown instruction {}: raised #UD {} time{}", bytes, count, count == 1 ? "" : "s");
  }
  if (const auto* kvm = kvm::kvm_statistics(machine.engine()); kvm != nullptr) say_kvm(*kvm);
  say("  state: cpu {:016x} memory {:016x} devices {:016x}", digest.cpu, digest.memory, digest.devices);
  for (const std::string& remark : s.remarks) say("  {}", remark);
}

std::string as_json(const RunSummary& s, Machine& machine, const StateDigest& digest, const HostMemory& memory) {
  Json out = {
      {"command", s.what},
      {"stop", to_string(s.run.stop.reason)},
      {"stop_detail", s.run.stop.detail},
      {"host_cause", to_string(s.cause)},
      {"engine", machine.engine().name()},
      {"instructions", machine.position().value},
      {"begin", s.run.begin.value},
      {"seconds", seconds_of(s.run.host_time)},
      {"million_instructions_per_second", s.run.mips()},
      {"guest_time_ns", machine.now().value},
      {"idle_ns", machine.idle_ns()},
      {"peak_memory_bytes", memory.peak_bytes},
      {"guest_memory_touched_bytes", memory.guest_bytes},
      {"memory_overhead_bytes", memory.overhead()},
      {"state", {{"cpu", json_hex(digest.cpu)}, {"memory", json_hex(digest.memory)}, {"devices", json_hex(digest.devices)}}},
      {"unknown_instructions", machine.engine().report().statistics.unknown_instructions},
  };
  if (const auto* kvm = kvm::kvm_statistics(machine.engine()); kvm != nullptr) {
    out["kvm"] = {
        {"entries", kvm->entries},
        {"kicks", kvm->kicks},
        {"instructions_counted", kvm->progress},
        {"soft_instructions", kvm->soft},
        {"sites_patched", kvm->patched},
        {"assists", kvm->assists},
        {"assisted", kvm->assisted},
    };
  }
  if (s.trace) {
    out["trace"] = {{"file", s.trace->file}, {"bytes", s.trace->bytes}, {"events", s.trace->events}, {"digests", s.trace->digests}};
  }
  for (const ChainedFault& f : faults_of(s.run.stop, machine.engine())) {
    out["faults"].push_back(
        {{"interrupt", f.interrupt}, {"vector", f.vector}, {"error", f.error}, {"rip", f.rip}, {"cr2", f.address}});
  }
  out["remarks"] = s.remarks;
  return json_text(out);
}

Result<void> write_json(const std::string& path, const std::string& text) {
  if (path != "-") return write_output(path, "--json-summary", text);
  if (std::fwrite(text.data(), 1, text.size(), stderr) == text.size() && std::fflush(stderr) == 0) return {};
  return Error{ErrorCode::io, fmt::format("cannot write to standard error: {}", std::strerror(errno)), "--json-summary"};
}

}  // namespace

Result<void> report(const RunSummary& summary, Machine& machine, const ReportOptions& options) {
  if (options.no_summary && options.json_summary.empty()) return {};
  const HostMemory memory = measure_host_memory(machine.memory());  // before the digest touches anything
  const StateDigest digest = machine.digest();
  if (!options.no_summary) say_summary(summary, machine, digest, memory);
  if (options.json_summary.empty()) return {};
  return write_json(options.json_summary, as_json(summary, machine, digest, memory));
}

int finish_live(RunSummary summary, Machine& machine, LiveHost& host, const ReportOptions& options) {
  Console& console = host.boundary->console();
  console.flush();
  summary.cause = host.stop->cause();
  if (summary.run.stop.reason != StopReason::host_request) summary.cause = StopCause::none;
  if (summary.cause == StopCause::idle)
    say("{} and the guest waits: it does nothing but look after its timers (--idle-limit)", console.input_state());
  if (const std::string remark = console.remark(); !remark.empty()) summary.remarks.push_back(remark);
  if (auto reported = report(summary, machine, options); !reported) return fail(reported.error());
  if (!console.output_error().empty()) return fail({ErrorCode::io, console.output_error(), "standard output"});
  return exit_code_of(summary, options);
}

int exit_code_of(const RunSummary& summary, const ReportOptions& options) {
  switch (summary.run.stop.reason) {
    case StopReason::guest_panic:
    case StopReason::triple_fault:
    case StopReason::stuck: return options.fail_on_crash ? kGuestCrash : kFine;
    case StopReason::debug_exit: return options.guest_exit_code ? static_cast<int>(summary.run.stop.detail & 0xff) : kFine;
    case StopReason::host_request: return summary.cause == StopCause::time_limit ? kTimeLimit : summary.cause == StopCause::idle ? kIdle : kFine;
    default: return kFine;
  }
}

}  // namespace retrovisor::cli
