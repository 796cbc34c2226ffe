#include "vmm/machine/scheduler.h"

#include "vmm/assert.h"

namespace retrovisor {
namespace {

class RoundRobin final : public Scheduler {
 public:
  explicit RoundRobin(uint64_t instructions) : instructions_(instructions) { RV_ASSERT(instructions != 0); }
  Turn next(Position, VcpuId last, Runnable runnable, uint32_t vcpus) const override {
    VcpuId next = last;
    do next = VcpuId((next.value + 1) % vcpus);
    while (!runnable.has(next) && next != last);
    return {next, instructions_};
  }

 private:
  uint64_t instructions_;
};

}  // namespace

std::unique_ptr<Scheduler> make_round_robin(uint64_t instructions) { return std::make_unique<RoundRobin>(instructions); }

}  // namespace retrovisor
