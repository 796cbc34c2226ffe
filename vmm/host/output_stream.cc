#include "vmm/host/output_stream.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace retrovisor {

namespace {
// Big enough that a chatty guest costs few system calls; the owner flushes whenever it polls for input.
constexpr size_t kBufferBytes = 8192;
}  // namespace

OutputStream::OutputStream(int fd, StopSource* stop, Answers answers) : fd_(fd), stop_(stop) {
  if (answers == Answers::reach_nobody && fd >= 0 && isatty(fd) != 0) queries_.emplace();
}

void OutputStream::write(std::span<const uint8_t> bytes) {
  if (fd_ < 0) return;
  if (queries_)
    queries_->filter(bytes, buffer_);
  else
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  if (buffer_.size() >= kBufferBytes) flush();
}

void OutputStream::flush() {
  size_t done = 0;
  while (done < buffer_.size() && fd_ >= 0) {
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n == 0 || errno == EINTR || errno == EAGAIN) {
      const bool stopping = stop_ != nullptr && stop_->requested();
      // Another process may have made the descriptor non-blocking: wait for room, or for a stop.
      pollfd fds[2] = {{fd_, POLLOUT, 0}, {stop_ != nullptr ? stop_->wake_fd() : -1, POLLIN, 0}};
      const int ready = poll(fds, stopping ? 1 : 2, stopping ? 0 : -1);
      if (stopping && ready <= 0) break;
    } else {
      give_up(errno);
    }
  }
  buffer_.clear();
}

void OutputStream::give_up(int error) {
  fd_ = -1;
  if (error == EPIPE) {
    if (stop_ != nullptr) stop_->request(StopCause::output_closed);
  } else {
    error_ = std::string("guest output was lost: ") + std::strerror(error);
  }
}

}  // namespace retrovisor
