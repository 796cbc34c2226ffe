// Interrupts a vCPU that runs without exits, so that what is due outside of the guest gets its turn.
//
// A thread looks from time to time whether the vCPU is still in the same run as before. It never touches the machine: all it
// does is make KVM_RUN return early. That is late by an eighth of the time asked for, and up to a millisecond.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "vmm/result.h"

struct kvm_run;

namespace retrovisor::kvm {

class Kicker {
 public:
  // For the vCPU that the calling thread runs; `run` is its shared page. Both outlive the object.
  static Result<std::unique_ptr<Kicker>> create(kvm_run& run);
  ~Kicker();
  Kicker(const Kicker&) = delete;
  Kicker& operator=(const Kicker&) = delete;

  // The vCPU is entered: kick it in `ns` from now, at the latest in kLongest.
  void entered(uint64_t ns) {
    patience_.store(ns, std::memory_order_relaxed);
    entries_.store(++count_, std::memory_order_release);
    if (ns < sleeping_.load(std::memory_order_relaxed)) hurry();
  }
  void left() { entries_.store(0, std::memory_order_release); }

  static constexpr std::chrono::milliseconds kTick{1};
  static constexpr std::chrono::milliseconds kLongest{50};  // so that the host's wishes are heard

 private:
  Kicker(kvm_run& run, pthread_t thread) : run_(run), thread_(thread) {}
  void watch();
  void hurry();  // the thread sleeps too long for what is now asked
  std::chrono::nanoseconds patience() const;

  kvm_run& run_;
  pthread_t thread_;
  std::atomic<uint64_t> entries_{0};  // number of the present entry; 0: the vCPU is not in a run
  std::atomic<uint64_t> patience_{0};
  std::atomic<uint64_t> sleeping_{0};  // length of the thread's sleep, in ns, if more than kTick; else 0
  uint64_t count_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false, hurry_ = false;
  std::thread watcher_;
};

}  // namespace retrovisor::kvm
