#include "gdbstub/transport.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace retrovisor::gdb {
namespace {

constexpr int kWriteTimeoutMs = 10'000;
constexpr size_t kReadSize = 0x10000;

class DescriptorConnection final : public Connection {
 public:
  DescriptorConnection(int input_fd, int output_fd, int stop_fd, bool own)
      : in_(input_fd), out_(output_fd), stop_(stop_fd), own_(own) {}
  ~DescriptorConnection() override {
    if (!own_) return;
    close(in_);
    if (out_ != in_) close(out_);
  }
  DescriptorConnection(const DescriptorConnection&) = delete;
  DescriptorConnection& operator=(const DescriptorConnection&) = delete;

  Read read(std::string& text, std::chrono::milliseconds wait) override {
    pollfd fds[2] = {{in_, POLLIN, 0}, {stop_, POLLIN, 0}};
    const int timeout = wait.count() < 0 ? -1 : static_cast<int>(std::min<int64_t>(wait.count(), 1'000'000));
    const int n = poll(fds, 2, timeout);
    if (n < 0) return errno == EINTR ? Read::nothing : Read::closed;
    if (stop_ >= 0 && fds[1].revents != 0) return Read::stopped;
    if (fds[0].revents == 0) return Read::nothing;
    char buffer[kReadSize];
    const ssize_t got = ::read(in_, buffer, sizeof buffer);
    if (got < 0) return errno == EINTR || errno == EAGAIN ? Read::nothing : Read::closed;
    if (got == 0) return Read::closed;
    text.append(buffer, static_cast<size_t>(got));
    return Read::bytes;
  }

  bool write(std::string_view text) override {
    while (!text.empty()) {
      pollfd fds[2] = {{out_, POLLOUT, 0}, {stop_, POLLIN, 0}};
      const int n = poll(fds, 2, kWriteTimeoutMs);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0 || (fds[0].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) return false;
      if ((fds[0].revents & POLLOUT) == 0) return false;  // the host wants to stop, and the client does not read
      // Sockets: without waiting, and without SIGPIPE. Pipes know no send().
      ssize_t sent = send(out_, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno == ENOTSOCK) sent = ::write(out_, text.data(), std::min<size_t>(text.size(), kPipeRoom));
      if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

 private:
  // poll() promises room for this much in a pipe (POSIX PIPE_BUF on Linux).
  static constexpr size_t kPipeRoom = 4096;

  int in_, out_, stop_;
  bool own_;
};

Error io(const std::string& what) { return {ErrorCode::io, fmt::format("{}: {}", what, std::strerror(errno)), "gdb"}; }

Result<int> listen_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return Error{ErrorCode::bad_argument, fmt::format("'{}' is no path that a socket can have", path), "gdb"};
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat status {};
  // What a server that was killed has left; anything else stays.
  if (lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) unlink(path.c_str());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return io("cannot make a socket");
  const mode_t mask = umask(0177);  // for its owner alone
  const int bound = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  umask(mask);
  errno = error;
  if (bound == 0 && listen(fd, 4) == 0) return fd;
  Error e = io("cannot listen at " + path);
  close(fd);
  return e;
}

Result<int> listen_tcp(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_family = host.empty() ? AF_INET : AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host.empty() ? "127.0.0.1" : host.c_str(), port.c_str(), &hints, &found);
  if (status != 0)
    return Error{ErrorCode::bad_argument, fmt::format("no address {}:{}: {}", host, port, gai_strerror(status)), "gdb"};
  struct Free {
    addrinfo* list;
    ~Free() { freeaddrinfo(list); }
  } const free_list{found};
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return io("cannot make a socket");
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 4) == 0) return fd;
  Error e = io(fmt::format("cannot listen at {}:{}", host.empty() ? "127.0.0.1" : host, port));
  close(fd);
  return e;
}

// "127.0.0.1:1234" as the socket was really bound (getsockname), or of the other side (getpeername).
std::string address_of(int fd, int (*side)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char host[NI_MAXHOST] = {}, port[NI_MAXSERV] = {};
  if (side(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "?";
  return address.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

bool all_digits(std::string_view text) {
  return !text.empty() && text.size() <= 5 && text.find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace

std::unique_ptr<Connection> make_connection(int input_fd, int output_fd, int stop_fd, bool own) {
  return std::make_unique<DescriptorConnection>(input_fd, output_fd, stop_fd, own);
}

Result<std::unique_ptr<Listener>> Listener::open(const std::string& where, int stop_fd) {
  constexpr std::string_view kUnix = "unix:";
  const bool local = where.starts_with(kUnix);
  std::string path, host, port = where;
  if (local) {
    path = where.substr(kUnix.size());
  } else if (const size_t colon = where.rfind(':'); colon != std::string::npos) {
    host = where.substr(0, colon);
    port = where.substr(colon + 1);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  }
  if (!local && (!all_digits(port) || std::stoul(port) > 0xffff))
    return Error{ErrorCode::bad_argument, fmt::format("'{}' is none of PORT, HOST:PORT, unix:PATH", where), "gdb"};
  RV_TRY(auto fd, local ? listen_unix(path) : listen_tcp(host, port));
  std::unique_ptr<Listener> listener(new Listener(fd, stop_fd));
  listener->tcp_ = !local;
  listener->path_ = path;
  listener->address_ = local ? path : address_of(fd, getsockname);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return listener;
}

Listener::~Listener() {
  close(fd_);
  if (!path_.empty()) unlink(path_.c_str());
}

Result<std::optional<Listener::Client>> Listener::accept() {
  const int client = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) {
    // The client may have gone again, or descriptors may be short for a moment: neither ends the server.
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) poll(nullptr, 0, 100);
    if (errno == EBADF || errno == EINVAL) return io("cannot accept a client");
    return std::optional<Client>();
  }
  Client out;
  out.fd = client;
  if (tcp_) {
    const int on = 1;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    out.name = "at " + address_of(client, getpeername);
  } else {
    ucred peer{};
    socklen_t size = sizeof peer;
    out.name = getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? fmt::format("process {}", peer.pid) : "local";
  }
  out.connection = make_connection(client, client, stop_fd_, true);
  return std::optional<Client>(std::move(out));
}

}  // namespace retrovisor::gdb
