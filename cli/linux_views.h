// What is known of the Linux kernel in a machine, as text and as JSON: for `monitor` commands and for `retrovisor linux`.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/linux/kernel.h"
#include "vmm/machine/machine.h"

namespace retrovisor::cli {

// What is read of a kernel, as long as that is the one in memory.
class KnownKernel {
 public:
  Result<LinuxKernel*> in(Machine& machine);

 private:
  std::unique_ptr<LinuxKernel> kernel_;
  // Where none was found, at that place none is: a debugger asks for each frame, and all of memory would be searched.
  std::optional<std::pair<Position, Error>> none_;
};

// The memory in which a kernel is: through the page tables of the first vCPU that have it, `preferred` before the others.
class KernelsMemory final : public KernelMemory {
 public:
  // ErrorCode::bad_image: no vCPU's tables have it.
  static Result<std::unique_ptr<KernelsMemory>> of(Machine& machine, const LinuxKernel& kernel, VcpuId preferred);
  size_t read(uint64_t at, std::span<uint8_t> out) const override { return memory_.read(at, out); }
  KernelsMemory(GuestMemory& memory, const CpuState& state) : state_(state), memory_(memory, state_) {}

 private:
  CpuState state_;
  MachineMemory memory_;
};

struct ViewRequest {
  Machine& machine;
  const LinuxKernel& kernel;
  const KernelMemory& memory;
  std::span<const std::string> words;  // behind the view's name
  std::optional<VcpuId> vcpu;          // that is asked about where a view is about one; nothing: all
  bool json = false;
};

struct LinuxViewCommand {
  const char* name;
  const char* usage;
  const char* help;
  Result<std::string> (*run)(const ViewRequest&);
};
std::span<const LinuxViewCommand> linux_views();

}  // namespace retrovisor::cli
