#include "cli/linux_views.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "analysis/linux/dmesg.h"
#include "analysis/linux/modules.h"
#include "analysis/linux/tasks.h"
#include "cli/json.h"
#include "gdbstub/monitor.h"

namespace retrovisor::cli {
namespace {

constexpr size_t kMostFrames = 256;

Error not_understood() { return Error{ErrorCode::bad_argument, "not understood", ""}; }

// In text, what could not be read is a last line of its own.
std::string with_trouble(std::string text, const std::string& trouble) {
  if (!trouble.empty()) text += fmt::format("({})\n", trouble);
  return text;
}
Json trouble_json(const std::string& trouble) { return trouble.empty() ? Json(nullptr) : Json(trouble); }

// ---- dmesg ----

Result<std::string> dmesg(const ViewRequest& r) {
  if (r.words.size() > 1) return not_understood();
  uint64_t most = UINT64_MAX;
  if (r.words.size() == 1) {
    RV_TRY(most, gdb::parse_number(r.words[0], UINT32_MAX));
  }
  RV_TRY(const auto log, read_log(r.kernel, r.memory));
  const size_t first = log.records.size() > most ? log.records.size() - most : 0;
  if (!r.json) {
    std::string out;
    for (size_t i = first; i < log.records.size(); ++i) out += log_text(log.records[i]);
    return with_trouble(std::move(out), log.trouble);
  }
  Json records = Json::array();
  for (size_t i = first; i < log.records.size(); ++i) {
    const LogRecord& l = log.records[i];
    records.push_back({{"sequence", l.sequence},
                       {"nanoseconds", l.nanoseconds},
                       {"facility", l.facility},
                       {"level", l.level},
                       {"caller", l.caller >> 31 != 0 ? fmt::format("CPU {}", l.caller & INT32_MAX) : fmt::format("task {}", l.caller)},
                       {"finished", l.finished},
                       {"text", l.text}});
  }
  return json_text({{"records", records}, {"trouble", trouble_json(log.trouble)}});
}

// ---- ps, bt ----

Json task_json(const KernelTask& t) {
  return {{"pid", t.pid},         {"tgid", t.tgid},           {"ppid", t.parent},           {"name", t.name},
          {"state", std::string(1, t.state)}, {"kernel_thread", t.kernel_thread}, {"running", t.running}, {"cpu", t.cpu},
          {"flags", t.flags},     {"task_struct", json_hex(t.at)}, {"mm", json_hex(t.mm)}, {"stack", json_hex(t.stack)}, {"sp", json_hex(t.sp)}};
}

Result<std::string> ps(const ViewRequest& r) {
  if (!r.words.empty()) return not_understood();
  RV_TRY(const auto list, read_tasks(r.kernel, r.memory));
  if (!r.json) return with_trouble(tasks_text(list), list.trouble);
  Json tasks = Json::array();
  for (const KernelTask& t : list.tasks) tasks.push_back(task_json(t));
  return json_text({{"tasks", tasks}, {"trouble", trouble_json(list.trouble)}});
}

std::string why(UnwindEnd end) {
  switch (end) {
    case UnwindEnd::user: case UnwindEnd::outermost: case UnwindEnd::none: return "";
    case UnwindEnd::unknown: return "nothing tells of this code's caller";
    case UnwindEnd::unreadable: return "the stack leads to where no memory is";
  }
  return "";
}

std::string frames_text(const LinuxKernel& kernel, const TaskStack& stack) {
  std::string out;
  for (size_t i = 0; i < stack.frames.size(); ++i) {
    const FrameRegisters& f = stack.frames[i];
    const std::string place = f.user ? "(user mode)" : kernel.text_of(f.ip);
    out += fmt::format("#{:<3} {:#018x} {}{}\n", i, f.ip, place, i != 0 && f.exact && !f.user ? " (interrupted)" : "");
  }
  // A program's own stack is none of the kernel's.
  const bool user = !stack.frames.empty() && stack.frames.back().user;
  return with_trouble(std::move(out), user ? "" : why(stack.end));
}

Json frames_json(const LinuxKernel& kernel, const TaskStack& stack) {
  Json out = Json::array();
  for (size_t i = 0; i < stack.frames.size(); ++i) {
    const FrameRegisters& f = stack.frames[i];
    out.push_back({{"ip", json_hex(f.ip)},
                   {"sp", json_hex(f.sp())},
                   {"place", f.user ? Json(nullptr) : Json(kernel.text_of(f.ip))},
                   {"user", f.user},
                   {"interrupted", i != 0 && f.exact && !f.user}});
  }
  return out;
}

std::string task_line(const KernelTask& t, const TaskStack& stack) {
  const std::string where = stack.vcpu ? fmt::format("on vCPU {}", *stack.vcpu) : fmt::format("state {}", t.state);
  return fmt::format("{} {} ({}), {:#x}\n", t.kernel_thread ? "kernel thread" : t.pid == t.tgid ? "process" : "thread", t.pid, t.name, t.at) +
         fmt::format("  {}\n", where);
}

// Of vCPUs, whatever they run.
Result<std::string> backtrace_of_vcpus(const ViewRequest& r, std::span<const CpuState> vcpus) {
  if (!r.kernel.has_orc()) return Error{ErrorCode::unsupported, r.kernel.orc_error(), ""};
  std::string out;
  Json all = Json::array();
  for (uint32_t v = 0; v < vcpus.size(); ++v) {
    if (r.vcpu && r.vcpu->value != v) continue;
    TaskStack stack;
    stack.vcpu = v;
    stack.frames = r.kernel.unwinder(r.memory).frames(FrameRegisters::of(vcpus[v]), kMostFrames, &stack.end);
    if (!r.vcpu) out += fmt::format("vCPU {}\n", v);
    out += frames_text(r.kernel, stack);
    all.push_back({{"task", nullptr}, {"vcpu", v}, {"frames", frames_json(r.kernel, stack)}, {"trouble", trouble_json(why(stack.end))}});
  }
  return r.json ? json_text({{"stacks", all}, {"trouble", nullptr}}) : out;
}

Result<std::string> backtrace(const ViewRequest& r) {
  if (r.words.size() > 1) return not_understood();
  std::vector<CpuState> vcpus;
  for (uint32_t v = 0; v < r.machine.config().vcpus; ++v) vcpus.push_back(r.machine.vcpu(VcpuId(v)).state);
  if (r.words.empty()) return backtrace_of_vcpus(r, vcpus);
  const bool every = r.words[0] == "all";
  uint64_t pid = 0;
  if (!every) {
    RV_TRY(pid, gdb::parse_number(r.words[0], INT32_MAX));
  }
  RV_TRY(const auto list, read_tasks(r.kernel, r.memory));
  std::vector<KernelTask> wanted;
  for (const auto* tasks : {&list.tasks, &list.idle})
    for (const KernelTask& t : *tasks)
      if (every || t.pid == static_cast<int64_t>(pid)) wanted.push_back(t);
  if (wanted.empty()) return Error{ErrorCode::bad_argument, fmt::format("there is no task {}", pid), ""};
  std::string out;
  Json all = Json::array();
  for (const KernelTask& t : wanted) {
    RV_TRY(const auto stack, stack_of(r.kernel, r.memory, t, vcpus, kMostFrames));
    if (r.json) {
      all.push_back({{"task", task_json(t)},
                     {"vcpu", stack.vcpu ? Json(*stack.vcpu) : Json(nullptr)},
                     {"frames", frames_json(r.kernel, stack)},
                     {"trouble", trouble_json(why(stack.end))}});
    } else {
      out += (out.empty() ? "" : "\n") + task_line(t, stack) + frames_text(r.kernel, stack);
    }
  }
  return r.json ? json_text({{"stacks", all}, {"trouble", trouble_json(list.trouble)}}) : with_trouble(std::move(out), list.trouble);
}

// ---- lsmod ----

Result<std::string> lsmod(const ViewRequest& r) {
  if (!r.words.empty()) return not_understood();
  RV_TRY(const auto list, read_modules(r.kernel, r.memory));
  if (!r.json) return with_trouble(modules_text(list), list.trouble);
  constexpr const char* kStates[] = {"live", "coming", "going"};
  Json modules = Json::array();
  for (const LoadedModule& m : list.modules) {
    modules.push_back({{"name", m.name},
                       {"size", m.size},
                       {"references", m.references},
                       {"used_by", m.users},
                       {"permanent", m.permanent},
                       {"state", kStates[static_cast<size_t>(m.state)]},
                       {"base", json_hex(m.base)},
                       {"module", json_hex(m.at)}});
  }
  return json_text({{"modules", modules}, {"trouble", trouble_json(list.trouble)}});
}

constexpr LinuxViewCommand kViews[] = {
    {"dmesg", "[N]", "the kernel's log, or its last N records", dmesg},
    {"ps", "", "all tasks", ps},
    {"bt", "[PID|all]", "who called whom in the kernel, by its own unwind tables (ORC): here, or in a task or all of them", backtrace},
    {"lsmod", "", "the loaded modules", lsmod},
};

}  // namespace

Result<LinuxKernel*> KnownKernel::in(Machine& machine) {
  for (uint32_t v = 0; v < machine.config().vcpus && kernel_ != nullptr; ++v)
    if (kernel_->is_in(MachineMemory(machine.memory(), machine.vcpu(VcpuId(v)).state))) return kernel_.get();
  if (none_ && none_->first == machine.position()) return none_->second;
  auto found = LinuxKernel::find(machine);
  if (!found) {
    none_.emplace(machine.position(), found.error());
    return found.error();
  }
  kernel_ = std::move(*found);
  return kernel_.get();
}

Result<std::unique_ptr<KernelsMemory>> KernelsMemory::of(Machine& machine, const LinuxKernel& kernel, VcpuId preferred) {
  // With page table isolation, a program's tables have next to nothing of the kernel; those beside them have all of it (pti.c:
  // PTI_USER_PGTABLE_BIT).
  constexpr uint64_t kUserTables = kPageSize;
  const uint32_t count = machine.config().vcpus;
  for (uint32_t i = 0; i < count; ++i) {
    const CpuState& vcpu = machine.vcpu(VcpuId((preferred.value + i) % count)).state;
    auto out = std::make_unique<KernelsMemory>(machine.memory(), vcpu);
    if (kernel.is_in(*out)) return out;
    if ((vcpu.cr3 & kUserTables) == 0) continue;
    CpuState kernels = vcpu;
    kernels.cr3 &= ~kUserTables;
    out = std::make_unique<KernelsMemory>(machine.memory(), kernels);
    if (kernel.is_in(*out)) return out;
  }
  return Error{ErrorCode::bad_image, "no vCPU's page tables have the kernel's memory here", ""};
}

std::span<const LinuxViewCommand> linux_views() { return kViews; }

}  // namespace retrovisor::cli
