#include "vmm/observer.h"

#include <algorithm>
#include <utility>

#include "vmm/assert.h"

namespace retrovisor {

ObservationKinds Interest::kinds() const {
  using Kind = Observation::Kind;
  ObservationKinds kinds = events;
  if (!breakpoints.empty()) kinds |= mask_of(Kind::breakpoint);
  for (const Watch& w : watches) kinds |= (w.on_read ? mask_of(Kind::read) : 0) | (w.on_write ? mask_of(Kind::write) : 0);
  if (!physical.empty()) kinds |= mask_of(Kind::physical_write);
  return kinds;
}

Subscription::Subscription(Subscription&& other) noexcept { *this = std::move(other); }

Subscription& Subscription::operator=(Subscription&& other) noexcept {
  if (this == &other) return *this;
  if (hub_ != nullptr) hub_->leave(*this);
  hub_ = std::exchange(other.hub_, nullptr);
  interest_ = std::move(other.interest_);
  if (hub_ != nullptr) hub_->moved(other, *this);
  return *this;
}

Subscription::~Subscription() {
  if (hub_ != nullptr) hub_->leave(*this);
}

Observers::~Observers() {
  for (Subscription* s : subscriptions_) s->hub_ = nullptr;
}

Subscription Observers::subscribe(Interest interest) {
  RV_ASSERT(!telling_ && (interest.kinds() & ~offered_) == 0 && (interest.events & ~kObservedEvents) == 0);
  std::sort(interest.breakpoints.begin(), interest.breakpoints.end());
  Subscription s;
  s.hub_ = this;
  s.interest_ = std::move(interest);
  subscriptions_.push_back(&s);
  gather();
  return s;
}

void Observers::leave(Subscription& who) {
  RV_ASSERT(!telling_);
  who.hub_ = nullptr;
  std::erase(subscriptions_, &who);
  gather();
}

void Observers::moved(Subscription& from, Subscription& to) { std::replace(subscriptions_.begin(), subscriptions_.end(), &from, &to); }

void Observers::gather() {
  wanted_ = {};
  for (const Subscription* s : subscriptions_) {
    const Interest& i = s->interest_;
    wanted_.breakpoints.insert(wanted_.breakpoints.end(), i.breakpoints.begin(), i.breakpoints.end());
    wanted_.watches.insert(wanted_.watches.end(), i.watches.begin(), i.watches.end());
    wanted_.physical.insert(wanted_.physical.end(), i.physical.begin(), i.physical.end());
    wanted_.events |= i.events;
  }
  std::sort(wanted_.breakpoints.begin(), wanted_.breakpoints.end());
  wanted_.breakpoints.erase(std::unique(wanted_.breakpoints.begin(), wanted_.breakpoints.end()), wanted_.breakpoints.end());
  if (changed_) changed_();
}

namespace {

bool has(const std::vector<uint64_t>& ascending, uint64_t address) {
  return std::binary_search(ascending.begin(), ascending.end(), address);
}

bool wants_code_of(const Interest& i, uint64_t address, Position position) {
  if (position == i.resume_from) return false;
  return (i.events & mask_of(Observation::Kind::instruction)) != 0 || has(i.breakpoints, address);
}

}  // namespace

bool Observers::wants_code(uint64_t address, Position position) const {
  return std::any_of(subscriptions_.begin(), subscriptions_.end(),
                     [&](const Subscription* s) { return wants_code_of(s->interest_, address, position); });
}

bool Observers::tell(const Observation& o) {
  using Kind = Observation::Kind;
  telling_ = true;
  bool stop = false;
  const auto call = [&](const Interest& i, const Observation& seen) { stop = (i.hit && i.hit(seen)) || stop; };
  size_t first = 0;  // index of this observer's first watch
  for (const Subscription* s : subscriptions_) {
    const Interest& i = s->interest_;
    if (o.kind == Kind::breakpoint) {
      if (o.position != i.resume_from && has(i.breakpoints, o.address.value)) call(i, o);
    } else if (o.kind == Kind::instruction) {
      if (o.position != i.resume_from && (i.events & mask_of(o.kind)) != 0) call(i, o);
    } else if (o.kind == Kind::read || o.kind == Kind::write || o.kind == Kind::physical_write) {
      const size_t count = o.kind == Kind::physical_write ? i.physical.size() : i.watches.size();
      if (o.index - first < count) {
        Observation own = o;
        own.index = o.index - first;
        call(i, own);
      }
      first += count;
    } else if ((i.events & mask_of(o.kind)) != 0) {
      call(i, o);
    }
  }
  telling_ = false;
  return stop;
}

}  // namespace retrovisor
