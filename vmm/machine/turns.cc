#include "vmm/machine/turns.h"

namespace retrovisor {

Runnable Turns::runnable() const {
  Runnable all;
  for (const auto& v : vcpus_)
    if (has_work(*v)) all.add(v->id);
  return all;
}

std::optional<VcpuId> Turns::next(Position now) const {
  // A turn ends at end_ exactly, or when the vCPU halts: never where a run happens to be cut.
  if (lasts(now)) return current_;
  const Runnable all = runnable();
  if (all.empty()) return std::nullopt;
  return vcpus_.size() == 1 ? VcpuId(0) : scheduler_->next(now, current_, all, static_cast<uint32_t>(vcpus_.size())).vcpu;
}

Vcpu* Turns::take(const Platform& platform) {
  const Position now = platform.clock.position();
  if (vcpus_.size() == 1) return has_work(*vcpus_[0]) ? vcpus_[0].get() : nullptr;
  if (lasts(now)) return vcpus_[current_.value].get();
  const Runnable all = runnable();
  if (all.empty()) return nullptr;
  const Turn turn = scheduler_->next(now, current_, all, static_cast<uint32_t>(vcpus_.size()));
  RV_ASSERT(all.has(turn.vcpu) && turn.instructions != 0);
  scheduler_->begin(turn);
  if (turn.vcpu != current_) {
    platform.journal.log(EventKind::vcpu_switch, turn.vcpu.value);
    if (platform.observers.wants(Observation::Kind::vcpu_switch)) {
      Observation o;
      o.kind = Observation::Kind::vcpu_switch;
      o.vcpu = turn.vcpu;
      o.position = now;
      if (platform.observers.tell(o)) platform.control.request_stop({StopReason::observed, 0});
    }
  }
  current_ = turn.vcpu;
  end_ = now + turn.instructions;
  return vcpus_[current_.value].get();
}

void Turns::save(StateWriter& out) const {
  out.u32("current_vcpu", current_.value);
  out.u64("slice_end", end_.value);
  scheduler_->save(out);
}

void Turns::restore(StateReader& in) {
  in.u32("current_vcpu", current_.value);
  in.u64("slice_end", end_.value);
  in.check("current_vcpu", current_.value < vcpus_.size());
  current_.value %= static_cast<uint32_t>(vcpus_.size());
  scheduler_->restore(in);
}

}  // namespace retrovisor
