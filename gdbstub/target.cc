#include "gdbstub/target.h"

#include <algorithm>

#include "gdbstub/registers.h"

namespace retrovisor::gdb {

Result<std::unique_ptr<TimelineTarget>> TimelineTarget::open(const std::string& trace, const BootImages& images,
                                                             TimelineOptions options) {
  std::unique_ptr<TimelineTarget> target(new TimelineTarget(trace));
  options.interrupted = [raw = target.get()] { return raw->interrupted(); };
  RV_TRY(target->timeline_, Timeline::open(trace, images, std::move(options)));
  return target;
}

// Stops the machine behind the instruction that caused an event asked for.
class LiveTarget::EventStop final : public JournalSink {
 public:
  explicit EventStop(Machine& machine) : machine_(machine) {}

  void arm(const StopConditions& conditions) {
    conditions_ = &conditions;
    seen_.reset();
  }
  const std::optional<JournalEvent>& seen() const { return seen_; }

  void event(const JournalEvent& e) override {
    if (seen_ || (conditions_->events & mask_of(e.kind)) == 0) return;
    if (conditions_->event_filter && !conditions_->event_filter(e)) return;
    seen_ = e;
    machine_.request_stop({StopReason::observed, 0});
  }

 private:
  Machine& machine_;
  const StopConditions* conditions_ = nullptr;
  std::optional<JournalEvent> seen_;
};

LiveTarget::LiveTarget(Machine& machine, Advance advance, Listen listen, bool may_change)
    : machine_(machine),
      advance_(std::move(advance)),
      listen_(std::move(listen)),
      may_change_(may_change),
      events_(std::make_unique<EventStop>(machine)) {}

LiveTarget::~LiveTarget() = default;

Result<TimelineStop> LiveTarget::forward(const StopConditions& conditions, Position limit) {
  using Reason = TimelineStop::Reason;
  TimelineStop out;
  if (ended_) {
    out.reason = Reason::end;
    out.machine_stop = ended_->stop;
    out.position = machine_.position();
    return out;
  }
  Interest interest;
  interest.breakpoints = conditions.breakpoints;
  interest.watches = conditions.watches;
  for (const ByteWatch& w : conditions.bytes) interest.physical.push_back({w.bytes.begin, w.bytes.size});
  interest.resume_from = machine_.position();
  std::optional<Observation> observation;
  interest.hit = [&](const Observation& o) {
    if (!is_hit(conditions, o, machine_)) return false;
    // A store through the address that is watched is told as such, though it wrote the bytes, too.
    const bool instead = observation && observation->kind == Observation::Kind::physical_write &&
                         o.kind == Observation::Kind::write && o.position == observation->position;
    if (!observation || instead) observation = o;
    return true;
  };
  std::optional<Subscription> subscription = machine_.observers().subscribe(std::move(interest));
  if (conditions.events != 0) {
    events_->arm(conditions);
    listen_(events_.get(), conditions.events);
  }
  stop_wanted_ = false;
  auto run = advance_(limit, [this] { return stop_wanted(); });
  subscription.reset();
  if (conditions.events != 0) listen_(nullptr, 0);
  if (!run) return std::move(run).error();

  out.position = machine_.position();
  if (observation) {
    out.reason = observation->kind == Observation::Kind::breakpoint ? Reason::breakpoint : Reason::watch;
    out.observation = observation;
  } else if (conditions.events != 0 && events_->seen()) {
    out.reason = Reason::event;
    out.event = events_->seen();
  } else if (stop_wanted_) {
    out.reason = Reason::interrupted;
  } else if (run->stop.reason == StopReason::position && !run->time_limit_reached && machine_.position() >= limit) {
    out.reason = Reason::position;
  } else {
    ended_ = *run;
    out.reason = Reason::end;
    out.machine_stop = run->stop;
  }
  return out;
}

bool LiveTarget::stop_wanted() {
  stop_wanted_ = stop_wanted_ || interrupted();
  return stop_wanted_;
}

Result<void> LiveTarget::before_change() {
  if (may_change_) return {};
  return Error{ErrorCode::unsupported, "a run that is being recorded cannot be changed: its replay would not know of it",
               ""};
}

}  // namespace retrovisor::gdb
