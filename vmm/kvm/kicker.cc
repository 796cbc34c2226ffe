#include "vmm/kvm/kicker.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>

#include "vmm/kvm/kvm_api.h"

namespace retrovisor::kvm {
namespace {

// A real-time signal, since only those carry a value. Used for nothing else in this program.
int kick_signal() { return SIGRTMIN + 3; }

// Runs on the vCPU's thread, inside or outside of KVM_RUN. The flag makes the next KVM_RUN return at once, in case the signal
// comes just before it.
void on_kick(int, siginfo_t* info, void*) { static_cast<kvm_run*>(info->si_value.sival_ptr)->immediate_exit = 1; }

}  // namespace

Result<std::unique_ptr<Kicker>> Kicker::create(kvm_run& run) {
  struct sigaction action {};
  action.sa_sigaction = on_kick;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(kick_signal(), &action, nullptr) != 0)
    return Error{ErrorCode::io, "cannot install the signal that interrupts a vCPU: " + errno_text(errno), "engine"};
  std::unique_ptr<Kicker> kicker(new Kicker(run, pthread_self()));
  kicker->watcher_ = std::thread([k = kicker.get()] { k->watch(); });
  return kicker;
}

Kicker::~Kicker() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  watcher_.join();
}

std::chrono::nanoseconds Kicker::patience() const {
  const uint64_t ns = patience_.load(std::memory_order_relaxed);
  constexpr std::chrono::nanoseconds kMost = kLongest;
  return ns < static_cast<uint64_t>(kMost.count()) ? std::chrono::nanoseconds(static_cast<int64_t>(ns)) : kMost;
}

void Kicker::hurry() {
  sleeping_.store(0, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    hurry_ = true;
  }
  wake_.notify_one();
}

void Kicker::watch() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals are for the thread that owns the machine
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::nanoseconds kShortest = kTick;
  uint64_t seen = 0;
  auto since = Clock::now();
  std::unique_lock lock(mutex_);
  while (!ending_) {
    const auto sleep = std::max(patience() / 8, kShortest);
    sleeping_.store(sleep > kShortest ? static_cast<uint64_t>(sleep.count()) : 0, std::memory_order_relaxed);
    wake_.wait_for(lock, sleep, [this] { return ending_ || hurry_; });
    hurry_ = false;
    const uint64_t entry = entries_.load(std::memory_order_acquire);
    const auto now = Clock::now();
    if (entry != seen) {
      seen = entry;
      since = now;
    }
    if (entry == 0 || now - since < patience()) continue;
    sigval value{};
    value.sival_ptr = &run_;
    pthread_sigqueue(thread_, kick_signal(), value);
    since = now;
  }
}

}  // namespace retrovisor::kvm
