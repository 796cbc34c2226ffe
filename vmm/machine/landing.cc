// Time by events: what happens behind synchronous events and, where a run was interrupted, between them.
//
// Between two events a machine runs by itself: time stands still, no device acts, no interrupt is delivered. That is what
// makes two engines the same machine, one of which cannot count instructions.
#include <xxhash.h>

#include "vmm/cpu/x87_pointers.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/page_hashes.h"

namespace retrovisor {

void Machine::synchronous_event() {
  if (undecided_) {
    // An engine that makes several accesses at once, the elements of a string, say: what happens behind each of them, but
    // for interrupts, happens here.
    deadlines_.run_due(now());
    if (now() >= next_poll_) poll_input();
  }
  clock_.count_event();
  clock_.pass(boundary_.time_passed({position(), now()}));
  undecided_ = true;
}

// Whether an interrupt that waits behind an event is delivered there. False: the instruction had another event, look again.
bool Machine::delivery_decided(Vcpu& vcpu) {
  vcpu.may_deliver = false;
  if (!undecided_) return true;
  if (interrupt_waits(vcpu)) {
    if (engine_->settle(vcpu)) return false;
    vcpu.may_deliver = boundary_.deliver({position(), now()}, engine_->can_deliver(vcpu));
  }
  undecided_ = false;
  return true;
}

// The vCPU's registers as all engines agree on them: without what only one of them counts.
std::vector<uint8_t> Machine::common_cpu_state() const {
  StateWriter out;
  clock_.save_common(out);
  for (const auto& v : vcpus_) {
    engine_->complete(*v);
    CpuState state = v->state;
    // In real mode, and until CS is loaded again after it, its type means nothing; processors disagree about it.
    if ((state.segment[CS].attributes & seg::type_mask) == 3) state.segment[CS].attributes |= seg::code;
    // Nothing is defined of a vCPU that has shut down; RF is what differs.
    if (state.activity == Activity::shutdown) state.rflags &= ~flag::RF;
    x87_pointers_through_memory(vendor_of(config_.processor_model), state.x87);  // KVM shows them so (kvm/vcpu_state.h)
    state.save(out, v->id);
  }
  return out.take();
}

Landing Machine::landing_here(const Vcpu& vcpu) {
  Landing landing;
  landing.position = position() + 1;
  landing.by_state = true;
  landing.gpr = vcpu.state.gpr;
  landing.linear_rip = vcpu.state.linear_rip().value;
  landing.rflags = vcpu.state.rflags;
  const auto cpu = common_cpu_state();
  hash_written_pages();
  landing.state = {XXH3_64bits(cpu.data(), cpu.size()), hashes_->sum(), 0};
  landing.progress = engine_->progress();
  return landing;
}

bool Machine::stands_at(const Landing& landing, const Vcpu& vcpu) {
  const CpuState& s = vcpu.state;
  if (s.linear_rip().value != landing.linear_rip || s.gpr != landing.gpr || s.rflags != landing.rflags) return false;
  const auto cpu = common_cpu_state();
  if (XXH3_64bits(cpu.data(), cpu.size()) != landing.state.cpu) return false;
  hash_written_pages();
  return hashes_->sum() == landing.state.memory;
}

// Runs instruction by instruction where it has to, until the machine stands at `landing`. False: it does not come there, or the
// boundary wants no more.
bool Machine::run_to(Landing& landing, Vcpu& vcpu) {
  engine_->complete(vcpu);
  Engine& stepper = engine_->stepper();
  bool there = false;
  Observers observers;
  observers.breakpoints = {landing.linear_rip};
  observers.hit = [&](const Observation&) {
    there = stands_at(landing, vcpu);
    return there;
  };
  const uint64_t events = clock_.events();
  stepper.observe(&observers);
  EngineStop stop = EngineStop::limit;
  constexpr uint64_t kPiece = 4'000'000;
  uint64_t searched = 0;
  while (stop == EngineStop::limit && !stop_request_ && clock_.events() == events && !boundary_.search_ends(landing, searched)) {
    stop = stepper.run_instructions(vcpu, kPiece);
    searched += kPiece;
  }
  stepper.observe(nullptr);
  landing.deliveries = stepper.deliveries();
  engine_->state_changed(vcpu);
  return there;
}

void Machine::land(const Landing& landing) {
  clock_.count_event();
  boundary_.landed({position(), now()}, landing);
  clock_.pass(boundary_.time_passed({position(), now()}));
  undecided_ = true;
}

}  // namespace retrovisor
