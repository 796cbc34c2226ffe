#include "vmm/machine/landings.h"

#include <xxhash.h>

#include <algorithm>

namespace retrovisor {

Landings::Landings(const Platform& platform, Boundary& boundary, Engine& engine, TimeKeeping& time, Sums sums)
    : platform_(platform),
      boundary_(boundary),
      engine_(engine),
      host_(engine.host()),
      stepper_(engine.stepper()),
      time_(time),
      sums_(std::move(sums)) {}

// Whether an interrupt that waits behind an event is delivered there. False: the instruction had another event, look again.
bool Landings::delivery_decided(Vcpu& vcpu) {
  vcpu.may_deliver = false;
  if (!undecided_) return true;
  if (interrupt_waits(vcpu)) {
    if (settle(vcpu)) return false;
    vcpu.may_deliver = boundary_.deliver(time_.moment(), can_deliver(vcpu));
  }
  undecided_ = false;
  return true;
}

bool Landings::may_run(Vcpu& vcpu, Position& limit) {
  if (!delivery_decided(vcpu)) return false;
  stepper_.yield_behind(0);
  auto landing = boundary_.next_landing(time_.moment());
  if (!landing) return true;
  const Position here = platform_.clock.position();
  if (landing->by_state) {
    if (settle(vcpu)) return false;
    if (landing->position == here + 1 && run_to(*landing, vcpu)) land(*landing);
    else if (!platform_.control.stop_requested()) boundary_.landing_missed(time_.moment(), *landing);
    return false;
  }
  if (landing->position != here) {
    limit = std::min(limit, landing->position);
    return true;
  }
  if (stepper_.deliveries() < landing->deliveries) {
    stepper_.yield_behind(landing->deliveries);
    return true;
  }
  land(*landing);
  return false;
}

void Landings::kicked(Vcpu& vcpu) {
  const bool wanted = boundary_.landing_wanted(time_.moment(), platform_.deadlines.next());
  if (wanted || (vcpu.intr && can_deliver(vcpu))) land(landing_here(vcpu));
}

Landing Landings::landing_here(const Vcpu& vcpu) {
  Landing landing;
  landing.position = platform_.clock.position() + 1;
  landing.by_state = true;
  landing.gpr = vcpu.state.gpr;
  landing.linear_rip = vcpu.state.linear_rip().value;
  landing.rflags = vcpu.state.rflags;
  const auto cpu = sums_.cpu();
  landing.state = {XXH3_64bits(cpu.data(), cpu.size()), sums_.memory(), 0};
  landing.progress = host_ != nullptr ? host_->progress() : 0;
  return landing;
}

bool Landings::stands_at(const Landing& landing, const Vcpu& vcpu) {
  const CpuState& s = vcpu.state;
  if (s.linear_rip().value != landing.linear_rip || s.gpr != landing.gpr || s.rflags != landing.rflags) return false;
  const auto cpu = sums_.cpu();
  return XXH3_64bits(cpu.data(), cpu.size()) == landing.state.cpu && sums_.memory() == landing.state.memory;
}

// Runs instruction by instruction where it has to, until the machine stands at `landing`. False: it does not come there, or the
// boundary wants no more. Whoever else observes the machine sees nothing of this way.
bool Landings::run_to(Landing& landing, Vcpu& vcpu) {
  if (host_ != nullptr) {
    host_->complete(vcpu);
    host_->find_dirty();
  }
  bool there = false;
  Observers own;
  Interest interest;
  interest.breakpoints = {landing.linear_rip};
  interest.hit = [&](const Observation&) {
    there = stands_at(landing, vcpu);
    return there;
  };
  const Subscription subscription = own.subscribe(std::move(interest));
  const uint64_t events = platform_.clock.events();
  stepper_.observe(own);
  EngineStop stop = EngineStop::limit;
  constexpr uint64_t kPiece = 4'000'000;
  uint64_t searched = 0;
  while (stop == EngineStop::limit && !platform_.control.stop_requested() && platform_.clock.events() == events &&
         !boundary_.search_ends(landing, searched)) {
    stop = stepper_.run_instructions(vcpu, kPiece);
    searched += kPiece;
  }
  stepper_.observe(platform_.observers);
  landing.deliveries = stepper_.deliveries();
  engine_.state_changed(vcpu);
  return there;
}

void Landings::land(const Landing& landing) {
  platform_.clock.count_event();
  boundary_.landed(time_.moment(), landing);
  platform_.clock.pass(boundary_.time_passed(time_.moment()));
  undecided_ = true;
}

}  // namespace retrovisor
