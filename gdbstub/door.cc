#include "gdbstub/door.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gdbstub/no_signals.h"
#include "gdbstub/packet.h"

namespace retrovisor::gdb {
namespace {

// Shorter than gdb waits for an acknowledgement; longer than it takes to notice that a client has gone.
constexpr std::chrono::milliseconds kMoment{1'200};
// How long a client that was sent away may take to read why.
constexpr std::chrono::milliseconds kFarewell{3'000};
constexpr int kLookMs = 100;
constexpr size_t kMostWaiting = 16;

}  // namespace

Door::Door(Listener& listener) : listener_(listener), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  const NoSignals blocked;
  thread_ = std::thread([this] { run(); });
}

Door::~Door() {
  const uint64_t one = 1;
  static_cast<void>(!write(wake_, &one, sizeof one));
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  thread_.join();
  close(wake_);
}

Result<std::unique_ptr<Connection>> Door::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !waiting_.empty() || ended_ || error_; });
  if (error_) return *error_;
  if (ended_) return std::unique_ptr<Connection>();
  Guest guest = std::move(waiting_.front());
  waiting_.pop_front();
  served_ = guest.name;
  served_since_ = Clock::now();
  guest.patience.reset();
  return std::move(guest.connection);
}

void Door::left() {
  const std::lock_guard lock(mutex_);
  served_.reset();
}

void Door::run() {
  std::deque<Guest> going;
  for (;;) {
    pollfd fds[3] = {{listener_.fd(), POLLIN, 0}, {listener_.stop_fd(), POLLIN, 0}, {wake_, POLLIN, 0}};
    bool idle = going.empty();
    {
      const std::lock_guard lock(mutex_);
      idle = idle && waiting_.empty();
    }
    poll(fds, 3, idle ? -1 : kLookMs);
    const bool ends = (listener_.stop_fd() >= 0 && fds[1].revents != 0) || fds[2].revents != 0;
    {
      const std::lock_guard lock(mutex_);
      ended_ = ended_ || ends;
      if (!ended_ && fds[0].revents != 0) come_in(going);
      send_away(going);
    }
    changed_.notify_all();
    if (ends) return;
    see_off(going);
  }
}

void Door::come_in(std::deque<Guest>& going) {
  auto client = listener_.accept();
  if (!client) {
    error_ = client.error();
    return;
  }
  if (!client->has_value()) return;
  Guest guest;
  guest.fd = (*client)->fd;
  guest.name = std::move((*client)->name);
  guest.connection = std::move((*client)->connection);
  guest.since = Clock::now();
  if (waiting_.size() >= kMostWaiting || going.size() >= kMostWaiting) return;  // hung up on
  if (!served_) {
    guest.patience = std::make_unique<KeepAlive>(*guest.connection);
    guest.patience->busy(KeepAlive::Sign::noise);
  }
  waiting_.push_back(std::move(guest));
}

// Those who have waited for as long as they may while another is served.
void Door::send_away(std::deque<Guest>& going) {
  if (!served_) return;
  const auto now = Clock::now();
  for (auto guest = waiting_.begin(); guest != waiting_.end();) {
    if (now - std::max(guest->since, served_since_) < kMoment) {
      ++guest;
      continue;
    }
    guest->patience.reset();
    guest->since = now;
    going.push_back(std::move(*guest));
    guest = waiting_.erase(guest);
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now - served_since_).count();
    // An acknowledgement, and an error for whatever it has asked: gdb shows its text.
    static_cast<void>(going.back().connection->write(
        "+" + frame(escape(fmt::format("E.another debugger is served here, {}, for {} s; detach it first", *served_, seconds)))));
    shutdown(going.back().fd, SHUT_WR);
  }
}

// Closing at once would take away what has not been read yet (RFC 1122, 4.2.2.13).
void Door::see_off(std::deque<Guest>& going) {
  for (auto guest = going.begin(); guest != going.end();) {
    std::string text;
    const auto read = guest->connection->read(text, std::chrono::milliseconds(0));
    const bool over = read == Connection::Read::closed || Clock::now() - guest->since > kFarewell;
    guest = over ? going.erase(guest) : guest + 1;
  }
}

}  // namespace retrovisor::gdb
