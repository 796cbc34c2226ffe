// The boundary of a machine that really runs: the host's clock, its random source, its console. The only place in vmm that
// may look at the host.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>

#include "vmm/boundary.h"
#include "vmm/host/console.h"
#include "vmm/host/stop_source.h"

namespace retrovisor {

struct LiveOptions {
  std::optional<uint64_t> wall_clock;  // seconds since 1970 that the RTC starts at; none: the host's clock
  std::optional<uint64_t> seed;        // entropy is made of it; none: the host's random source
  bool real_time = false;              // idle waits last as long as they say; else they are skipped
  // Where the host's clock is the guest's (time_passed()): how many times slower the guest's goes while the guest runs. Not 0.
  uint64_t slowdown = 1;
  // Where idle waits are skipped: guest time for which a guest may have nothing to do but to wait for its timers; 0: any.
  // Such a guest would keep the host busy for ever. If no input can come any more it is stopped (StopCause::idle); else its
  // idle waits take the time they say until it prints or is typed to. That is decided by guest time, output and input alone.
  uint64_t idle_limit_ns = 0;
};

// What the boundary wants its owner to tell the user.
enum class Notice : uint8_t {
  silent,  // the guest has printed nothing for kSilence of host time
  paced,   // idle waits take their time from now on (LiveOptions::idle_limit_ns)
};

class LiveBoundary final : public Boundary {
 public:
  // `stop` outlives the boundary.
  LiveBoundary(const LiveOptions& options, std::unique_ptr<Console> console, StopSource& stop);

  // Called from inside the machine's run when `stop` was requested (typically: Machine::request_stop).
  void on_stop(std::function<void()> handler) { on_stop_ = std::move(handler); }
  // Asked a few times a second while the guest sleeps; true ends the sleep. For a debugger that wants the machine to stop.
  void on_sleep(std::function<bool()> handler) { on_sleep_ = std::move(handler); }
  // Called at most once for each notice.
  void on_notice(std::function<void(Notice)> handler) { on_notice_ = std::move(handler); }
  Console& console() { return *console_; }

  void connect(std::span<const Endpoint> endpoints) override;
  uint64_t wall_clock(Moment at) override;
  void entropy(Moment at, std::span<uint8_t> out) override;
  size_t receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) override;
  // For nothing due at all (UINT64_MAX): waits for input if any can come, else returns UINT64_MAX: nothing will ever happen.
  IdleWait idle_wait(Moment at, uint64_t ns, bool input_wanted) override;
  void transmit(Moment at, EndpointId endpoint, std::span<const uint8_t> bytes) override;
  // Host time since the last of these calls, without idle waits, slowed down.
  uint64_t time_passed(Moment at) override;
  bool lands() const override { return true; }
  bool landing_wanted(Moment at, VirtualTime due) override;

 private:
  uint64_t wait(Moment at, uint64_t ns, bool input_wanted);
  uint64_t sleep_ns(uint64_t ns, int input_fd);
  bool check_stop();
  bool waits_for_nothing(Moment at, bool input_wanted);
  void begin_quiet(Moment at);
  void look_for_silence();
  void notice(Notice what, bool& said);
  uint64_t guest_ns(uint64_t now) const;

  LiveOptions options_;
  std::unique_ptr<Console> console_;
  EndpointId typed_{0};  // where the console's input goes
  StopSource& stop_;
  std::function<void()> on_stop_;
  std::function<bool()> on_sleep_;
  std::function<void(Notice)> on_notice_;
  uint64_t seed_state_ = 0;
  uint64_t overslept_ns_ = 0;
  uint64_t last_event_ns_ = 0;  // on the host's clock; 0: none yet
  // Since when the guest has printed nothing and got no input, and how much of that it was idle.
  VirtualTime quiet_since_;
  uint64_t quiet_idle_ns_ = 0;
  bool paced_ = false;
  uint64_t silent_since_ns_ = 0;  // on the host's clock; 0: not asked yet
  bool told_silent_ = false, told_paced_ = false;
};

}  // namespace retrovisor
