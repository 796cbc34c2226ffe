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

// Silence that makes a user wonder.
constexpr uint64_t kSilence = 5'000'000'000;
// A guest that is busy for less than this share of its time only looks after its timers. (Measured: Linux at a shell prompt
// 0.01 to 0.2 %, by its timer frequency.)
constexpr uint64_t kIdleShare = 100;

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

// The first that calls itself a console.
void LiveBoundary::connect(std::span<const Endpoint> endpoints) {
  for (uint32_t i = 0; i < endpoints.size(); ++i)
    if (endpoints[i].console) {
      typed_ = EndpointId(i);
      return;
    }
}

bool LiveBoundary::check_stop() {
  if (!stop_.requested()) return false;
  if (on_stop_) on_stop_();
  return true;
}

void LiveBoundary::notice(Notice what, bool& said) {
  if (!said && on_notice_) on_notice_(what);
  said = true;
}

void LiveBoundary::look_for_silence() {
  if (told_silent_) return;
  const uint64_t now = monotonic_ns();
  if (silent_since_ns_ == 0) silent_since_ns_ = now;
  if (now - silent_since_ns_ >= kSilence) notice(Notice::silent, told_silent_);
}

void LiveBoundary::begin_quiet(Moment at) {
  quiet_since_ = at.time;
  quiet_idle_ns_ = 0;
}

// Has it waited long enough, and only for what will never come? Then the host stops it.
bool LiveBoundary::waits_for_nothing(Moment at, bool input_wanted) {
  if (options_.real_time || options_.idle_limit_ns == 0 || paced_) return false;
  const uint64_t quiet = at.time - quiet_since_;
  if (quiet < options_.idle_limit_ns) return false;
  const uint64_t busy = quiet - std::min(quiet, quiet_idle_ns_);
  const InputForecast input = console_->forecast(at);
  const bool comes = (input.kind == InputForecast::Kind::at_time && (input_wanted || input.when > at.time)) ||
                     (input.kind == InputForecast::Kind::never && console_->comes_by_instructions());
  if (busy > quiet / kIdleShare || comes) {
    begin_quiet(at);
    return false;
  }
  if (input.kind == InputForecast::Kind::host) {
    paced_ = true;
    notice(Notice::paced, told_paced_);
    return false;
  }
  stop_.request(StopCause::idle);
  return check_stop();
}

size_t LiveBoundary::receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) {
  console_->flush();
  look_for_silence();
  if (check_stop() || out.empty() || endpoint != typed_) return 0;
  const size_t n = console_->read(at, out);
  if (n != 0) {
    begin_quiet(at);
    paced_ = false;
  }
  check_stop();  // the bytes may have held the escape key
  return n;
}

IdleWait LiveBoundary::idle_wait(Moment at, uint64_t ns, bool input_wanted) {
  console_->flush();
  console_->attend();
  look_for_silence();
  const uint64_t waited = check_stop() || waits_for_nothing(at, input_wanted) ? 0 : wait(at, ns, input_wanted);
  if (waited != kForever) quiet_idle_ns_ += waited;
  check_stop();
  last_event_ns_ = last_event_ns_ == 0 ? 0 : monotonic_ns();
  return {waited};
}

// How much of `ns` passes.
uint64_t LiveBoundary::wait(Moment at, uint64_t ns, bool input_wanted) {
  const InputForecast input = input_wanted ? console_->forecast(at) : InputForecast{};
  const bool real_time = options_.real_time || paced_;

  if (input.kind == InputForecast::Kind::at_time) {
    const uint64_t until = input.when > at.time ? input.when - at.time : 0;
    if (until < ns) return real_time ? sleep_ns(until, -1) : until;
  }
  const int fd = input.kind == InputForecast::Kind::host ? input.fd : -1;
  if (ns == kForever && fd < 0) return kForever;
  if (!real_time) {
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

void LiveBoundary::transmit(Moment at, EndpointId, std::span<const uint8_t> bytes) {
  begin_quiet(at);
  paced_ = false;
  told_silent_ = true;
  console_->output(bytes);
}

}  // namespace retrovisor
