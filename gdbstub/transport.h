// How packets come and go: a TCP or Unix socket that clients connect to, or standard input and output.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "vmm/result.h"

namespace retrovisor::gdb {

// One client.
class Connection {
 public:
  enum class Read : uint8_t {
    bytes,    // `text` holds some
    nothing,  // none came in time
    closed,   // the client is gone, or can no longer be read
    stopped,  // the host wants the server to end (the stop descriptor)
  };
  virtual ~Connection() = default;
  // Waits for at most `wait` (negative: for ever) and appends what has come, at most 64 KiB, to `text`.
  virtual Read read(std::string& text, std::chrono::milliseconds wait) = 0;
  // All of it; false if the client is gone or takes nothing for ten seconds.
  virtual bool write(std::string_view text) = 0;
};

// A connection over two descriptors, which it closes if `own`. `stop_fd` (-1: none) becomes readable when the host wants
// the server to end.
std::unique_ptr<Connection> make_connection(int input_fd, int output_fd, int stop_fd, bool own);

// Where clients connect.
class Listener {
 public:
  // "PORT", "HOST:PORT", ":PORT" (all three TCP; without a host the loopback address; port 0: any free one) or
  // "unix:PATH". An address that is not of this host's loopback is listened at only because it was named: whoever reaches
  // it may read and change the guest.
  static Result<std::unique_ptr<Listener>> open(const std::string& where, int stop_fd);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  struct Client {
    std::unique_ptr<Connection> connection;
    int fd = -1;       // its descriptor
    std::string name;  // who it is: its address, or process
  };
  // The next client, without waiting: fd() is readable when there is one.
  Result<std::optional<Client>> accept();
  int fd() const { return fd_; }
  int stop_fd() const { return stop_fd_; }
  // What to tell gdb: "target remote " and this.
  const std::string& address() const { return address_; }

 private:
  Listener(int fd, int stop_fd) : fd_(fd), stop_fd_(stop_fd) {}

  int fd_;
  int stop_fd_;
  bool tcp_ = false;
  std::string path_;  // of a Unix socket, to be removed
  std::string address_;
};

}  // namespace retrovisor::gdb
