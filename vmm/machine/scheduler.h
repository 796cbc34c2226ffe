// A scheduler: whose turn it is, and for how long. vCPUs run one at a time.
#pragma once

#include <bit>
#include <functional>
#include <memory>

#include "vmm/state_io.h"
#include "vmm/types.h"

namespace retrovisor {

struct Turn {
  VcpuId vcpu;
  uint64_t instructions = 0;  // at least 1
};

// vCPUs that have instructions to execute. At most kMaxVcpus.
class Runnable {
 public:
  void add(VcpuId id) { mask_ |= uint32_t{1} << id.value; }
  bool has(VcpuId id) const { return (mask_ >> id.value & 1) != 0; }
  bool empty() const { return mask_ == 0; }
  unsigned count() const { return static_cast<unsigned>(std::popcount(mask_)); }

 private:
  uint32_t mask_ = 0;
};

// What it answers depends on what it is asked and on its own state, which is machine state, and on nothing else.
class Scheduler {
 public:
  virtual ~Scheduler() = default;
  // The turn that begins at `now`, of one of `runnable` (never empty). `last`: whose turn it was; of a machine of `vcpus`. A turn lasts
  // for its instructions exactly, or until its vCPU halts: it never depends on where a run happens to be cut. Asked as often as anybody
  // wants to know.
  virtual Turn next(Position now, VcpuId last, Runnable runnable, uint32_t vcpus) const = 0;
  // The turn that next() gave begins.
  virtual void begin(const Turn&) {}
  virtual void save(StateWriter&) const {}
  virtual void restore(StateReader&) {}
};

using SchedulerFactory = std::function<std::unique_ptr<Scheduler>()>;

// One vCPU after the other, each for as long. Which is part of the machine model, for this number of instructions.
inline constexpr uint64_t kRoundRobinTurn = 100'000;
std::unique_ptr<Scheduler> make_round_robin(uint64_t instructions = kRoundRobinTurn);

}  // namespace retrovisor
