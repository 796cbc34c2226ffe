// A kernel's tasks, and their stacks.
//
// Sources, of Linux 5.0 to 6.12: include/linux/sched.h (states and flags of tasks), fs/proc/array.c and kernel/workqueue.c (how ps
// names them), arch/x86/include/asm/switch_to.h and arch/x86/kernel/unwind_orc.c (where a task that does not run has its registers).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/linux/kernel.h"

namespace retrovisor {

struct KernelTask {
  uint64_t at = 0;         // struct task_struct
  int64_t pid = 0, tgid = 0, parent = 0;  // a thread's own number; its process's; its parent process's
  std::string name;        // as ps has it: workers with what they do
  char state = '?';        // as ps has it
  bool kernel_thread = false;
  bool running = false;    // on a CPU, whatever its state says
  uint32_t cpu = 0;        // where it runs, or has last run
  uint64_t flags = 0;      // PF_*
  uint64_t mm = 0;         // struct mm_struct; 0: a kernel thread, or it is gone
  uint64_t stack = 0;      // its lowest address
  uint64_t sp = 0;         // of a task that does not run
};

struct TaskList {
  std::vector<KernelTask> tasks;  // all threads of all processes, by process and number
  std::vector<KernelTask> idle;   // of each CPU that was started: pid 0
  std::string trouble;            // what could not be read; empty: nothing
};

Result<TaskList> read_tasks(const LinuxKernel& kernel, const KernelMemory& memory);

// All threads, one a line.
std::string tasks_text(const TaskList& list);

// Which of the kernel's CPUs a vCPU is, and what runs there (a struct task_struct); nothing: it is not a CPU of this kernel yet.
struct CpuAndTask {
  uint32_t cpu = 0;
  uint64_t task = 0;
};
std::optional<CpuAndTask> task_of(const LinuxKernel& kernel, const KernelMemory& memory, const CpuState& vcpu);

struct TaskStack {
  std::vector<FrameRegisters> frames;
  UnwindEnd end{};
  std::optional<uint32_t> vcpu;  // whose registers these are; nothing: the task does not run
};
// The stack of a task: where it does not run from its own memory, else from the registers of the vCPU that runs it, which is one of
// `vcpus`. ErrorCode::unsupported: the kernel has no tables to unwind by.
Result<TaskStack> stack_of(const LinuxKernel& kernel, const KernelMemory& memory, const KernelTask& task, std::span<const CpuState> vcpus,
                           size_t most);

}  // namespace retrovisor
