#include "vmm/host/live_boundary.h"

#include <poll.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

namespace retrovisor {
namespace {

constexpr uint64_t kForever = UINT64_MAX;
// The host wakes us a little late each time; the next sleep is shorter by that, so that a guest that sleeps in many small
// pieces keeps pace. A longer delay (the host was suspended) is not made up for.
constexpr uint64_t kMostOversleep = 20'000'000;
// How often a sleep is interrupted to ask on_sleep().
constexpr uint64_t kBetweenAsking = 50'000'000;

uint64_t monotonic_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

// SplitMix64 (Steele, Lea, Flood 2014): turns any seed, also a small one, into well mixed words.
uint64_t split_mix(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

LiveBoundary::LiveBoundary(const LiveOptions& options, std::unique_ptr<Console> console, StopSource& stop)
    : options_(options), console_(std::move(console)), stop_(stop), seed_state_(options.seed.value_or(0)) {}

uint64_t LiveBoundary::wall_clock(Moment) {
  if (options_.wall_clock) return *options_.wall_clock;
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<uint64_t>(std::max<time_t>(t.tv_sec, 0));
}

void LiveBoundary::entropy(Moment, std::span<uint8_t> out) {
  if (options_.seed) {
    uint64_t word = 0;
    for (size_t i = 0; i < out.size(); ++i, word >>= 8) {
      if (i % 8 == 0) word = split_mix(seed_state_);
      out[i] = static_cast<uint8_t>(word);
    }
    return;
  }
  for (size_t done = 0; done < out.size();) {
    const ssize_t n = getrandom(out.data() + done, out.size() - done, 0);
    RV_ASSERT(n > 0 || errno == EINTR);  // getrandom(2): nothing else can fail with a valid buffer and no flags
    if (n > 0) done += static_cast<size_t>(n);
  }
}

bool LiveBoundary::check_stop() {
  if (!stop_.requested()) return false;
  if (on_stop_) on_stop_();
  return true;
}

size_t LiveBoundary::poll_input(Moment at, Channel, std::span<uint8_t> out) {
  console_->flush();
  if (check_stop() || out.empty()) return 0;
  const size_t n = console_->read(at, out);
  check_stop();  // the bytes may have held the escape key
  return n;
}

IdleWait LiveBoundary::idle_wait(Moment at, uint64_t ns, bool input_wanted) {
  console_->flush();
  const uint64_t waited = check_stop() ? 0 : wait(at, ns, input_wanted);
  check_stop();
  last_event_ns_ = last_event_ns_ == 0 ? 0 : monotonic_ns();
  return {waited};
}

// How much of `ns` passes.
uint64_t LiveBoundary::wait(Moment at, uint64_t ns, bool input_wanted) {
  const InputForecast input = input_wanted ? console_->forecast(at) : InputForecast{};

  if (input.kind == InputForecast::Kind::at_time) {
    const uint64_t until = input.when > at.time ? input.when - at.time : 0;
    if (until < ns) return options_.real_time ? sleep_ns(until, -1) : until;
  }
  const int fd = input.kind == InputForecast::Kind::host ? input.fd : -1;
  if (ns == kForever && fd < 0) return kForever;
  if (!options_.real_time) {
    if (ns != kForever) return ns;
    // Guest time stands still while the guest has nothing to do but to wait for the user.
    sleep_ns(kForever, fd);
    return 0;
  }
  return sleep_ns(ns, fd);
}

// Sleeps until `ns` of host time are over, `input_fd` (-1: none) is readable or a stop is requested. Returns how much of
// `ns` it was; exactly `ns` if nothing cut it short.
uint64_t LiveBoundary::sleep_ns(uint64_t ns, int input_fd) {
  const uint64_t begin = monotonic_ns() - overslept_ns_;
  for (;;) {
    const uint64_t elapsed = monotonic_ns() - begin;
    if (elapsed >= ns) {
      overslept_ns_ = std::min(elapsed - ns, kMostOversleep);
      return ns;
    }
    const bool woken = on_sleep_ && on_sleep_();
    const uint64_t left = woken ? 0 : on_sleep_ ? std::min(ns - elapsed, kBetweenAsking) : ns - elapsed;
    timespec timeout{static_cast<time_t>(left / 1'000'000'000), static_cast<long>(left % 1'000'000'000)};
    pollfd fds[2] = {{stop_.wake_fd(), POLLIN, 0}, {input_fd, POLLIN, 0}};
    const bool no_end = ns == kForever && !on_sleep_;
    if (!woken && ppoll(fds, 2, no_end ? nullptr : &timeout, nullptr) <= 0) continue;
    overslept_ns_ = 0;
    return std::min(ns == kForever ? kForever - 1 : ns, monotonic_ns() - begin);
  }
}

// Of guest time, from the last event to `now` on the host's clock.
uint64_t LiveBoundary::guest_ns(uint64_t now) const {
  return last_event_ns_ == 0 ? 0 : (now - last_event_ns_) / options_.slowdown;
}

uint64_t LiveBoundary::time_passed(Moment) {
  const uint64_t now = monotonic_ns();
  const uint64_t passed = guest_ns(now);
  last_event_ns_ = last_event_ns_ == 0 ? now : last_event_ns_ + passed * options_.slowdown;  // what is left over counts later
  return passed;
}

bool LiveBoundary::landing_wanted(Moment at, VirtualTime due) {
  if (stop_.requested()) return true;
  const uint64_t passed = guest_ns(monotonic_ns());
  if (due != kNever && at.time.value + passed >= due.value) return true;
  const InputForecast input = console_->forecast(at);
  if (input.kind == InputForecast::Kind::at_time) return input.when.value <= at.time.value + passed;
  if (input.kind != InputForecast::Kind::host) return false;
  pollfd fd{input.fd, POLLIN, 0};
  return poll(&fd, 1, 0) > 0;
}

void LiveBoundary::output(Moment, Channel, std::span<const uint8_t> bytes) { console_->output(bytes); }

}  // namespace retrovisor
