#include "vmm/host/stop_source.h"

#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>
#include <csignal>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "vmm/host/terminal.h"

namespace retrovisor {
namespace {

// Signal handlers have no argument of ours: the one place where the host side must have a global.
std::atomic<StopSource*> signalled{nullptr};

void on_stop_signal(int number) {
  const int saved_errno = errno;
  StopSource* stop = signalled.load();
  if (number == SIGALRM) {
    if (stop != nullptr) stop->request(StopCause::time_limit);
  } else if (stop == nullptr || stop->requested()) {
    Terminal::restore_from_signal();
    signal(number, SIG_DFL);
    raise(number);  // delivered when this handler returns
  } else {
    stop->request(StopCause::interrupted);
  }
  errno = saved_errno;
}

constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM};
constexpr size_t kCount = sizeof(kStopSignals) / sizeof(kStopSignals[0]);

}  // namespace

std::string_view to_string(StopCause cause) {
  switch (cause) {
    case StopCause::none: return "not asked to stop";
    case StopCause::interrupted: return "interrupted";
    case StopCause::time_limit: return "time limit reached";
    case StopCause::escape_key: return "escape key";
    case StopCause::output_closed: return "output closed";
    case StopCause::idle: return "idle";
  }
  return "unknown";
}

Result<std::unique_ptr<StopSource>> StopSource::create() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return Error{ErrorCode::io, std::string("cannot make an event descriptor: ") + std::strerror(errno), ""};
  return std::unique_ptr<StopSource>(new StopSource(fd));
}

StopSource::~StopSource() { close(wake_fd_); }

void StopSource::request(StopCause cause) noexcept {
  StopCause expected = StopCause::none;
  if (!cause_.compare_exchange_strong(expected, cause)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

struct StopSignals::Saved {
  struct sigaction actions[kCount];
  struct sigaction pipe;
};

StopSignals::StopSignals(std::unique_ptr<Saved> saved) : saved_(std::move(saved)) {}

Result<std::unique_ptr<StopSignals>> StopSignals::install(StopSource& stop, std::optional<double> time_limit) {
  if (time_limit && !(*time_limit > 0 && *time_limit < 1e9))
    return Error{ErrorCode::bad_argument, "a time limit is more than zero seconds", "time limit"};
  StopSource* expected = nullptr;
  RV_ASSERT(signalled.compare_exchange_strong(expected, &stop));

  auto saved = std::make_unique<Saved>();
  struct sigaction action {};
  sigemptyset(&action.sa_mask);
  action.sa_handler = on_stop_signal;  // no SA_RESTART: a blocking write or wait must return
  for (size_t i = 0; i < kCount; ++i) {
    sigaction(kStopSignals[i], &action, &saved->actions[i]);
    // A signal that was ignored at our start (nohup, a shell's background job) stays ignored.
    if (saved->actions[i].sa_handler == SIG_IGN && kStopSignals[i] != SIGALRM)
      sigaction(kStopSignals[i], &saved->actions[i], nullptr);
  }
  struct sigaction ignore {};
  sigemptyset(&ignore.sa_mask);
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &saved->pipe);
  if (time_limit) {
    itimerval timer{};
    timer.it_value.tv_sec = static_cast<time_t>(std::floor(*time_limit));
    timer.it_value.tv_usec = static_cast<suseconds_t>((*time_limit - std::floor(*time_limit)) * 1e6);
    if (timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0) timer.it_value.tv_usec = 1;
    setitimer(ITIMER_REAL, &timer, nullptr);
  }
  return std::unique_ptr<StopSignals>(new StopSignals(std::move(saved)));
}

StopSignals::~StopSignals() {
  const itimerval none{};
  setitimer(ITIMER_REAL, &none, nullptr);
  for (size_t i = 0; i < kCount; ++i) sigaction(kStopSignals[i], &saved_->actions[i], nullptr);
  sigaction(SIGPIPE, &saved_->pipe, nullptr);
  signalled.store(nullptr);
}

}  // namespace retrovisor
