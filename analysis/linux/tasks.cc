#include "analysis/linux/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <set>
#include <tuple>

#include "analysis/linux/objects.h"

namespace retrovisor {
namespace {

constexpr size_t kMostTasks = 100'000;
// PF_WQ_WORKER, PF_KTHREAD.
constexpr uint64_t kWorker = 0x20, kKernelThread = 0x200000;

// task_index_to_char() of __task_state_index().
char state_letter(uint64_t state, uint64_t exit_state) {
  constexpr uint64_t kReport = 0x7f, kReportIdle = kReport + 1;
  constexpr uint64_t kIdle = 0x402;              // TASK_UNINTERRUPTIBLE | TASK_NOLOAD
  constexpr uint64_t kUninterruptible = 2, kLockOrFrozen = 0x1000 | 0x8000;  // TASK_RTLOCK_WAIT, TASK_FROZEN
  uint64_t reported = (state | exit_state) & kReport;
  if ((state & kIdle) == kIdle) reported = kReportIdle;
  if ((state & kLockOrFrozen) != 0) reported = kUninterruptible;
  return "RSDTtXZPI"[std::bit_width(reported)];
}

class Reader {
 public:
  explicit Reader(KernelObjects objects) : o_(objects) {}

  Result<void> find() {
    RV_TRY(pid_, o_.field("task_struct", "pid"));
    RV_TRY(tgid_, o_.field("task_struct", "tgid"));
    RV_TRY(comm_, o_.field("task_struct", "comm"));
    RV_TRY(flags_, o_.field("task_struct", "flags"));
    RV_TRY(exit_state_, o_.field("task_struct", "exit_state"));
    RV_TRY(parent_, o_.field("task_struct", "real_parent"));
    RV_TRY(mm_, o_.field("task_struct", "mm"));
    RV_TRY(stack_, o_.field("task_struct", "stack"));
    RV_TRY(sp_, o_.field("task_struct", "thread.sp"));
    RV_TRY(tasks_, o_.field("task_struct", "tasks"));
    state_ = o_.any_field("task_struct", {"__state", "state"});
    if (!state_) return Error{ErrorCode::unsupported, "the kernel's types do not say where a task's state is", ""};
    // Without CONFIG_SMP there is neither.
    on_cpu_ = o_.any_field("task_struct", {"on_cpu"});
    cpu_ = o_.any_field("task_struct", {"thread_info.cpu", "cpu"});
    signal_ = o_.any_field("task_struct", {"signal"});
    thread_head_ = o_.any_field("signal_struct", {"thread_head"});
    thread_node_ = o_.any_field("task_struct", {"thread_node"});
    // Up to 5.16, what a kernel thread has lay elsewhere.
    worker_private_ = o_.any_field("task_struct", {"worker_private", "set_child_tid"});
    data_ = o_.any_field("kthread", {"data"});
    pool_ = o_.any_field("worker", {"pool"});
    current_work_ = o_.any_field("worker", {"current_work"});
    description_ = o_.any_field("worker", {"desc"});
    return {};
  }

  Result<TaskList> read() {
    RV_TRY(find());
    RV_TRY(const uint64_t init, o_.symbol("init_task"));
    TaskList out;
    ListWalk leaders = walk_list(o_.memory(), init + tasks_.offset, kMostTasks);
    out.trouble = std::move(leaders.trouble);
    std::set<uint64_t> seen;
    size_t threads_left = kMostTasks;  // of all lists together: a guest may let each process have the same long one
    for (const uint64_t node : leaders.nodes) {
      const uint64_t leader = node - tasks_.offset;
      add(out, seen, leader);
      const auto signal = o_.read(leader, signal_);
      if (!signal || *signal == 0 || !thread_head_ || !thread_node_) continue;
      ListWalk threads = walk_list(o_.memory(), *signal + thread_head_->offset, threads_left);
      threads_left -= threads.nodes.size();
      if (!threads.trouble.empty()) out.trouble = std::move(threads.trouble);
      for (const uint64_t thread : threads.nodes) add(out, seen, thread - thread_node_->offset);
    }
    std::sort(out.tasks.begin(), out.tasks.end(),
              [](const KernelTask& a, const KernelTask& b) { return std::tie(a.tgid, a.pid, a.at) < std::tie(b.tgid, b.pid, b.at); });
    const auto queues = o_.kernel().address_of("runqueues");
    const auto idle = o_.any_field("rq", {"idle"});
    for (const uint64_t offset : o_.per_cpu_offsets()) {
      const auto at = queues && idle ? o_.read(offset + *queues, *idle) : std::nullopt;
      if (!at || *at == 0) continue;
      if (auto task = one(*at)) out.idle.push_back(std::move(*task));
    }
    if (out.idle.empty())
      if (auto task = one(init)) out.idle.push_back(std::move(*task));
    return out;
  }

 private:
  void add(TaskList& out, std::set<uint64_t>& seen, uint64_t at) {
    if (seen.size() >= kMostTasks || !seen.insert(at).second) return;
    if (auto task = one(at)) out.tasks.push_back(std::move(*task));
    else out.trouble = fmt::format("a task at {:#x} is not in memory", at);
  }

  std::optional<KernelTask> one(uint64_t at) const {
    const auto pid = o_.read(at, pid_), tgid = o_.read(at, tgid_), flags = o_.read(at, flags_), state = o_.read(at, state_),
               exit_state = o_.read(at, exit_state_);
    if (!pid || !tgid || !flags || !state || !exit_state) return std::nullopt;
    KernelTask t;
    t.at = at;
    t.pid = static_cast<int64_t>(*pid);
    t.tgid = static_cast<int64_t>(*tgid);
    if (const auto parent = o_.read(at, parent_))
      if (const auto number = o_.read(*parent, tgid_)) t.parent = static_cast<int64_t>(*number);
    t.flags = *flags;
    t.kernel_thread = (*flags & kKernelThread) != 0;
    t.state = state_letter(*state, *exit_state);
    t.name = printable(o_.text(at, comm_) + work_of(at, *flags));
    t.running = o_.read(at, on_cpu_).value_or(0) != 0;
    t.cpu = static_cast<uint32_t>(o_.read(at, cpu_).value_or(0));
    t.mm = o_.read(at, mm_).value_or(0);
    t.stack = o_.read(at, stack_).value_or(0);
    t.sp = o_.read(at, sp_).value_or(0);
    return t;
  }

  // wq_worker_comm(): the name of the work queue that a worker works for, with + while it does.
  std::string work_of(uint64_t task, uint64_t flags) const {
    if ((flags & kWorker) == 0 || !data_ || !pool_ || !current_work_ || !description_) return "";
    const auto thread = o_.read(task, worker_private_);
    const auto worker = thread ? o_.read(*thread, *data_) : std::nullopt;
    if (!worker || o_.read(*worker, *pool_).value_or(0) == 0) return "";
    const std::string words = o_.text(*worker, *description_);
    if (words.empty()) return "";
    return (o_.read(*worker, *current_work_).value_or(0) != 0 ? "+" : "-") + words;
  }

  KernelObjects o_;
  Btf::Field pid_, tgid_, comm_, flags_, exit_state_, parent_, mm_, stack_, sp_, tasks_;
  std::optional<Btf::Field> state_, on_cpu_, cpu_, signal_, thread_head_, thread_node_, worker_private_, data_, pool_, current_work_,
      description_;
};

}  // namespace

Result<TaskList> read_tasks(const LinuxKernel& kernel, const KernelMemory& memory) {
  RV_TRY(const auto objects, KernelObjects::of(kernel, memory));
  return Reader(objects).read();
}

std::string tasks_text(const TaskList& list) {
  std::string out = "    PID    TGID    PPID CPU S COMMAND\n";
  for (const KernelTask& t : list.tasks) {
    const std::string name = t.kernel_thread ? fmt::format("[{}]", t.name) : t.name;
    out += fmt::format("{:7} {:7} {:7} {:3} {} {}\n", t.pid, t.tgid, t.parent, t.cpu, t.state, name);
  }
  return out;
}

}  // namespace retrovisor
