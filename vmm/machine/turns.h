// The turn that is under way: asks the scheduler for the next when it ends.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "vmm/machine/scheduler.h"
#include "vmm/platform.h"
#include "vmm/vcpu.h"

namespace retrovisor {

using Vcpus = std::vector<std::unique_ptr<Vcpu>>;

class Turns {
 public:
  Turns(std::unique_ptr<Scheduler> scheduler, const Vcpus& vcpus) : scheduler_(std::move(scheduler)), vcpus_(vcpus) {}

  // Whose instruction comes at `now`, if anybody's can.
  std::optional<VcpuId> next(Position now) const;
  // The same, and its turn begins, unless it has begun already. Journal and observers are told of changes.
  Vcpu* take(const Platform& platform);
  // Whose turn it is, or was.
  VcpuId current() const { return current_; }
  // Where it ends at the latest.
  Position end() const { return vcpus_.size() == 1 ? kNoPosition : end_; }
  bool anybody() const { return !runnable().empty(); }

  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  Runnable runnable() const;
  bool lasts(Position now) const { return now < end_ && has_work(*vcpus_[current_.value]); }

  std::unique_ptr<Scheduler> scheduler_;
  const Vcpus& vcpus_;
  VcpuId current_;
  Position end_;
};

}  // namespace retrovisor
