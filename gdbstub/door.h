// Where clients come in, one at a time. A thread of its own keeps the door: clients that come before the server is ready are
// kept waiting in a way that they stand; one that comes while another is served waits for a moment (that one may just be
// leaving), and is then told who is served, and let go.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "gdbstub/keep_alive.h"
#include "gdbstub/transport.h"

namespace retrovisor::gdb {

class Door {
 public:
  using Clock = std::chrono::steady_clock;

  // `listener` outlives it.
  explicit Door(Listener& listener);
  ~Door();
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;

  // Waits for a client, which is served from now on; null when the host wants the server to end.
  Result<std::unique_ptr<Connection>> next();
  // It is served no longer.
  void left();

 private:
  struct Guest {
    int fd = -1;
    std::string name;
    std::unique_ptr<Connection> connection;
    std::unique_ptr<KeepAlive> patience;  // speaks to it; while it waits
    Clock::time_point since;
    bool refused = false;  // and told
  };

  void run();
  void come_in(std::deque<Guest>& going);
  void send_away(std::deque<Guest>& going);
  static void see_off(std::deque<Guest>& going);

  Listener& listener_;
  int wake_ = -1;  // ends the thread
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Guest> waiting_;
  std::optional<std::string> served_;
  Clock::time_point served_since_{};
  bool ended_ = false;  // no more will come
  std::optional<Error> error_;
  std::thread thread_;
};

}  // namespace retrovisor::gdb
