// Keeps a client patient while the server is busy with its request, whatever it does: from a thread of its own.
//
// gdb gives up on an acknowledgement or an answer after `remotetimeout`, 2 seconds, and sends its packet again; but it waits
// that long for each *byte*, and passes over bytes that begin no packet (remote.c, readchar() in putpkt_binary() and
// getpkt_or_notif_sane_1(); LLDB's CheckForPacket() does the same). So one such byte now and then is enough, before the
// acknowledgement as well as behind it. A resume needs none: gdb waits for its stop reply for ever.
//
// To `monitor` commands gdb listens in another way: it looks for Ctrl-C between the packets of the answer only, and sends
// nothing then. There an empty piece of console output does both.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <thread>

#include "gdbstub/transport.h"

namespace retrovisor::gdb {

class KeepAlive {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Sign : uint8_t {
    none,    // nobody waits for us
    noise,   // a byte that is nothing
    output,  // "O", a packet that wants its acknowledgement
  };
  static constexpr std::chrono::milliseconds kNoisePeriod{500}, kOutputPeriod{80};

  // `connection` outlives it.
  explicit KeepAlive(Connection& connection);
  ~KeepAlive();
  KeepAlive(const KeepAlive&) = delete;
  KeepAlive& operator=(const KeepAlive&) = delete;

  // From now on the client waits, until none is said.
  void busy(Sign sign);
  // Writes to the connection, never in the middle of a sign.
  bool write(std::string_view text);
  // Packets of output sent since busy().
  unsigned outputs() const { return outputs_; }

 private:
  void run();

  Connection& connection_;
  std::mutex writing_;
  // Of the thread. Looked at every kOutputPeriod / 2: nobody has to wake it for short requests.
  std::mutex mutex_;
  std::condition_variable wake_;
  bool end_ = false;
  std::atomic<Sign> sign_{Sign::none};
  std::atomic<Clock::time_point> since_{};  // busy(), or the last sign
  std::atomic<unsigned> outputs_{0};
  std::thread thread_;
};

}  // namespace retrovisor::gdb
