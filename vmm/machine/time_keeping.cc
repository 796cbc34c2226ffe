#include "vmm/machine/time_keeping.h"

#include <algorithm>
#include <array>

namespace retrovisor {
namespace {

// How often a running machine looks for input, in guest time. Part of the machine model.
constexpr uint64_t kInputPollNs = 1'000'000;
// What is taken of a stream at once, and how long a packet can be: more than any Ethernet frame with offloads.
constexpr size_t kMostPolled = 64, kLongestPacket = 65'562;
// HLT with interrupts off while timers go on ticking: only an NMI could end it. A guest that none has reached in this
// time counts as halted for ever.
constexpr uint64_t kDeadHaltNs = 10'000'000'000;
// A machine that sleeps waits for the clock's alarm, which is a day ahead at most.
constexpr uint64_t kLongestSleepNs = (86'400 + 10) * uint64_t{1'000'000'000};

}  // namespace

TimeKeeping::TimeKeeping(Clock& clock, Deadlines& deadlines, Boundary& boundary, Board& board, const Vcpus& vcpus)
    : clock_(clock), deadlines_(deadlines), boundary_(boundary), board_(board), vcpus_(vcpus), next_poll_(kInputPollNs) {}

void TimeKeeping::run_due() {
  deadlines_.run_due(clock_.now());
  if (clock_.now() >= next_poll_) poll_input();
}

Position TimeKeeping::next() const { return std::min(clock_.position_of(deadlines_.next()), clock_.position_of(next_poll_)); }

void TimeKeeping::pass_event() {
  clock_.count_event();
  clock_.pass(boundary_.time_passed(moment()));
}

void TimeKeeping::poll_input() {
  next_poll_ = clock_.now() + kInputPollNs;
  for (uint32_t i = 0; i < board_.endpoints().size(); ++i) {
    const EndpointId id(i);
    const bool packets = board_.endpoints()[i].kind == EndpointKind::packets;
    const size_t room = std::min(board_.room(id), packets ? kLongestPacket : kMostPolled);
    if (room == 0) continue;
    std::array<uint8_t, kLongestPacket> buffer;
    const size_t n = boundary_.receive(moment(), id, std::span(buffer).first(room));
    RV_ASSERT(n <= room);
    if (n != 0) board_.receive(id, std::span<const uint8_t>(buffer).first(n));
  }
}

bool TimeKeeping::input_wanted() const {
  for (uint32_t i = 0; i < board_.endpoints().size(); ++i)
    if (board_.room(EndpointId(i)) != 0) return true;
  return false;
}

// Can an interrupt wake any vCPU? A HLT with interrupts off, or a shutdown, ends only by NMI, INIT or reset.
bool TimeKeeping::wakeable() const {
  return std::any_of(vcpus_.begin(), vcpus_.end(), [](const auto& v) { return interrupts_wake(*v); });
}

// Only in sleep does the boot processor wait for a start-up IPI (devices/suspend.h).
bool TimeKeeping::asleep() const { return vcpus_[0]->state.activity == Activity::wait_for_sipi; }

std::optional<Stop> TimeKeeping::idle() {
  const VirtualTime now = clock_.now();
  if (idle_since_ == kNever) idle_since_ = now;
  const VirtualTime due = deadlines_.next();
  const uint64_t ns = due == kNever ? UINT64_MAX : due - now;
  const bool wanted = input_wanted() && wakeable();
  const Stop for_ever{StopReason::halted_forever, 0};
  if (due == kNever && !wanted) return for_ever;
  if (!wakeable() && now - idle_since_ > (asleep() ? kLongestSleepNs : kDeadHaltNs)) return for_ever;
  const IdleWait wait = boundary_.idle_wait(moment(), ns, wanted);
  if (wait.waited_ns == UINT64_MAX) return for_ever;
  RV_ASSERT(wait.waited_ns <= ns);
  clock_.pass(wait.waited_ns);
  idle_ns_ += wait.waited_ns;
  deadlines_.run_due(clock_.now());
  if (wait.waited_ns < ns) poll_input();
  if (wait.host_wants_control) return Stop{StopReason::host_request, 0};
  return std::nullopt;
}

void TimeKeeping::save(StateWriter& out) const { out.u64("next_poll_ns", next_poll_.value); }
void TimeKeeping::restore(StateReader& in) { in.u64("next_poll_ns", next_poll_.value); }

}  // namespace retrovisor
