// What the engine tells observers, and the account it keeps of touched pages.
#include <algorithm>

#include "vmm/soft/memory.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {

// Every page has to pass through the slow path once more before accesses to it are fast again. What the translations say
// stays good.
void SoftEngine::hold_back_translations() {
  for (auto& c : contexts_) {
    for (Tlb& tlb : c->translations.tlb) {
      for (TlbEntry& e : tlb.entry) {
        if (e.read_tag != kNoTag) e.read_tag |= kHeldBack;
        e.write_tag = kNoTag;
      }
    }
  }
}

void SoftEngine::observe(const Observers* observers) {
  observers_ = observers != nullptr && !observers->empty() ? observers : nullptr;
  breakpoints_on_ = observers_ != nullptr && !observers_->breakpoints.empty();
  breakpoint_offsets_.reset();
  if (breakpoints_on_) {
    for (const uint64_t address : observers_->breakpoints) breakpoint_offsets_.set(address & ~kPageMask);
    cache_.cut_at(breakpoint_offsets_);
    forget_jumps();
  }
  const Observers* watching = observers_ != nullptr && !observers_->watches.empty() ? observers_ : nullptr;
  for (auto& c : contexts_) {
    c->cpu.observers = watching;
    c->cpu.observed_stop = false;
  }
  if (watching != nullptr) hold_back_translations();
}

// The instruction at CS:RIP is about to run. True: an observer asked to stop before it.
bool SoftEngine::at_breakpoint(SoftCpu& cpu, uint64_t position, bool on_arrival) {
  CpuState& s = cpu.s;
  const uint64_t linear = s.linear_rip().value;
  if (!breakpoint_offset(linear) || position == observers_->resume_from.value) return false;
  const auto& all = observers_->breakpoints;
  if (!std::binary_search(all.begin(), all.end(), linear) || !observers_->hit) return false;
  platform_.clock.set_retired(Position(position));
  s.rflags = get_rflags(cpu);
  settle_shadow(cpu, position);
  Observation o;
  o.kind = Observation::Kind::breakpoint;
  o.vcpu = cpu.vcpu->id;
  o.position = Position(position);
  o.address = LinearAddr(linear);
  o.rip = s.rip;
  o.on_arrival = on_arrival;
  const bool stop = observers_->hit(o);
  set_rflags(cpu, s.rflags);
  return stop;
}

void SoftEngine::track_touched(bool on) {
  if (on == (touched_ != nullptr)) return;
  touched_ = on ? std::make_unique<TouchedLog>() : nullptr;
  for (auto& c : contexts_) c->cpu.touched = touched_.get();
  if (on) take_touched();
}

TouchedPages SoftEngine::take_touched() {
  if (touched_ == nullptr) return {};
  // From here each page has to be looked at once more: data before it is found in the TLB, code before it is found in the
  // jump cache. (Direct links between blocks stay within a page.)
  hold_back_translations();
  forget_jumps();
  return {touched_->executed.take(), touched_->written.take(), touched_->accessed.take()};
}

}  // namespace retrovisor::soft
