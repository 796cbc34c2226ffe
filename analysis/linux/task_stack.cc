// The parts of tasks.h that are about stacks.
#include <algorithm>

#include "analysis/linux/objects.h"
#include "analysis/linux/tasks.h"
#include "vmm/cpu/registers.h"

namespace retrovisor {
namespace {

// struct inactive_task_frame, which __switch_to_asm leaves at thread.sp.
constexpr std::array kInactive = {R15, R14, R13, R12, RBX, RBP};

FrameRegisters inactive(const LinuxKernel& kernel, const KernelMemory& memory, uint64_t sp) {
  FrameRegisters out;
  for (size_t i = 0; i < kInactive.size(); ++i) out.gpr[kInactive[i]] = memory.get<uint64_t>(sp + 8 * i);
  out.ip = memory.get<uint64_t>(sp + 8 * kInactive.size()).value_or(0);
  out.gpr[RSP] = sp + 8 * (kInactive.size() + 1);
  // A task that has never run is to begin with an instruction of ret_from_fork: nobody has called.
  const auto place = kernel.place_of(out.ip);
  out.exact = place && place->offset == 0;
  return out;
}

}  // namespace

std::optional<CpuAndTask> task_of(const LinuxKernel& kernel, const KernelMemory& memory, const CpuState& vcpu) {
  const auto objects = KernelObjects::of(kernel, memory);
  if (!objects) return std::nullopt;
  const auto offsets = objects->per_cpu_offsets();
  // GS leads to a CPU's own variables, or will after SWAPGS.
  const uint64_t active = vcpu.segment[GS].base, other = vcpu.kernel_gs_base;
  auto found = std::find(offsets.begin(), offsets.end(), active);
  if (found == offsets.end()) found = std::find(offsets.begin(), offsets.end(), other);
  if (found == offsets.end()) return std::nullopt;
  std::optional<uint64_t> at;
  // From 6.2 to 6.14 it is a member of pcpu_hot.
  if (const auto current = kernel.address_of("current_task")) {
    at = *current;
  } else if (const auto hot = kernel.address_of("pcpu_hot")) {
    if (const auto field = objects->any_field("pcpu_hot", {"current_task"})) at = *hot + field->offset;
  }
  const auto task = at ? memory.get<uint64_t>(*found + *at) : std::nullopt;
  if (!task) return std::nullopt;
  return CpuAndTask{static_cast<uint32_t>(found - offsets.begin()), *task};
}

Result<TaskStack> stack_of(const LinuxKernel& kernel, const KernelMemory& memory, const KernelTask& task, std::span<const CpuState> vcpus,
                           size_t most) {
  if (!kernel.has_orc()) return Error{ErrorCode::unsupported, kernel.orc_error(), ""};
  TaskStack out;
  FrameRegisters first;
  for (size_t v = 0; v < vcpus.size() && !out.vcpu; ++v) {
    const auto runs = task_of(kernel, memory, vcpus[v]);
    if (!runs || runs->task != task.at) continue;
    out.vcpu = static_cast<uint32_t>(v);
    first = FrameRegisters::of(vcpus[v]);
  }
  if (!out.vcpu) {
    if (task.stack == 0 || !memory.get<uint64_t>(task.sp)) {
      out.end = UnwindEnd::unreadable;
      return out;
    }
    first = inactive(kernel, memory, task.sp);
  }
  out.frames = kernel.unwinder(memory).frames(first, most, &out.end);
  return out;
}

}  // namespace retrovisor
