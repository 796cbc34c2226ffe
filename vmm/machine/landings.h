// Time by events: what happens behind synchronous events and, where a run was interrupted, between them.
//
// Between two events a machine runs by itself: time stands still, no device acts, no interrupt is delivered. That is what
// makes two engines the same machine, one of which cannot count instructions.
#pragma once

#include <functional>
#include <vector>

#include "vmm/boundary.h"
#include "vmm/host_engine.h"
#include "vmm/machine/time_keeping.h"
#include "vmm/stepper.h"

namespace retrovisor {

class Landings {
 public:
  // What a landing is known by, of this machine as it stands: the sum of its memory, and its registers as all engines agree on them.
  struct Sums {
    std::function<uint64_t()> memory;
    std::function<std::vector<uint8_t>()> cpu;
  };
  Landings(const Platform& platform, Boundary& boundary, Engine& engine, TimeKeeping& time, Sums sums);

  // An event has happened, or time has passed: whether an interrupt that waits is delivered there is to be asked.
  void undecide() { undecided_ = true; }
  bool undecided() const { return undecided_; }
  // Before `vcpu` runs to at most `limit`, which comes nearer if there is a landing before it. False: something else has come of it,
  // look again.
  bool may_run(Vcpu& vcpu, Position& limit);
  // The engine was interrupted between two events: lands there, if there is a reason to.
  void kicked(Vcpu& vcpu);

  void save(StateWriter& out) const { out.boolean("undecided", undecided_); }
  void restore(StateReader& in) { in.boolean("undecided", undecided_); }

 private:
  bool settle(Vcpu& vcpu) { return host_ != nullptr && host_->settle(vcpu); }
  bool can_deliver(Vcpu& vcpu) { return host_ != nullptr ? host_->can_deliver(vcpu) : vcpu.state.interruptible(); }
  bool delivery_decided(Vcpu& vcpu);
  Landing landing_here(const Vcpu& vcpu);
  bool stands_at(const Landing& landing, const Vcpu& vcpu);
  bool run_to(Landing& landing, Vcpu& vcpu);
  void land(const Landing& landing);

  const Platform& platform_;
  Boundary& boundary_;
  Engine& engine_;
  HostEngine* host_;
  Stepper& stepper_;
  TimeKeeping& time_;
  Sums sums_;
  bool undecided_ = false;
};

}  // namespace retrovisor
