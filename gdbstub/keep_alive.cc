#include "gdbstub/keep_alive.h"

#include "gdbstub/no_signals.h"
#include "gdbstub/packet.h"

namespace retrovisor::gdb {
namespace {

// Of no meaning between packets to any client.
constexpr std::string_view kNoise = "\n";

}  // namespace

KeepAlive::KeepAlive(Connection& connection) : connection_(connection) {
  const NoSignals blocked;
  thread_ = std::thread([this] { run(); });
}

KeepAlive::~KeepAlive() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void KeepAlive::busy(Sign sign) {
  if (sign == Sign::none) {
    sign_ = sign;
    return;
  }
  outputs_ = 0;
  since_ = Clock::now();
  sign_ = sign;
}

bool KeepAlive::write(std::string_view text) {
  const std::lock_guard lock(writing_);
  return connection_.write(text);
}

void KeepAlive::run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kOutputPeriod / 2, [this] { return end_; })) {
    const Sign sign = sign_;
    if (sign == Sign::none) continue;
    if (Clock::now() - since_.load() < (sign == Sign::noise ? kNoisePeriod : kOutputPeriod)) continue;
    const std::lock_guard writing(writing_);
    if (sign_ != sign) continue;  // answered meanwhile
    since_ = Clock::now();
    if (sign == Sign::output) ++outputs_;
    // Where it fails the session finds out by itself.
    static_cast<void>(connection_.write(sign == Sign::noise ? std::string(kNoise) : frame("O")));
  }
}

}  // namespace retrovisor::gdb
