// Why the host wants a running machine to stop: Ctrl-C, a time limit, the terminal's escape key. Signal handlers set it,
// the live boundary looks at it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "vmm/result.h"

namespace retrovisor {

enum class StopCause : uint8_t {
  none,
  interrupted,    // SIGINT, SIGTERM or SIGHUP
  time_limit,     // the time that the user allowed is over
  escape_key,     // Ctrl-A x on the terminal
  output_closed,  // nobody reads the guest's output any more
  idle,           // the guest waits, and no input can come
};
// "interrupted", "time limit reached", ...
std::string_view to_string(StopCause cause);

class StopSource {
 public:
  static Result<std::unique_ptr<StopSource>> create();
  ~StopSource();
  StopSource(const StopSource&) = delete;
  StopSource& operator=(const StopSource&) = delete;

  // The first cause stays. Safe in signal handlers.
  void request(StopCause cause) noexcept;
  StopCause cause() const noexcept { return cause_.load(std::memory_order_relaxed); }
  bool requested() const noexcept { return cause() != StopCause::none; }
  // Readable once a stop was requested: for poll().
  int wake_fd() const noexcept { return wake_fd_; }

 private:
  explicit StopSource(int wake_fd) : wake_fd_(wake_fd) {}
  std::atomic<StopCause> cause_{StopCause::none};
  int wake_fd_;
};

// While it lives, SIGINT, SIGTERM and SIGHUP ask `stop` for a clean stop; the second one kills the process as if nobody
// had caught it. SIGPIPE is ignored (writes report EPIPE). With a time limit, in seconds, SIGALRM asks too.
// At most one exists at a time.
class StopSignals {
 public:
  static Result<std::unique_ptr<StopSignals>> install(StopSource& stop, std::optional<double> time_limit);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  struct Saved;
  explicit StopSignals(std::unique_ptr<Saved> saved);
  std::unique_ptr<Saved> saved_;
};

}  // namespace retrovisor
