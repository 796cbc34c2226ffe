#include "vmm/host/terminal.h"

#include <termios.h>
#include <unistd.h>
#include <csignal>

#include <atomic>
#include <cerrno>
#include <cstring>

namespace retrovisor {
namespace {

// What the handlers of fatal signals need to give the terminal back: they have no argument of ours.
struct RawTerminal {
  std::atomic<bool> active{false};
  int fd = -1;
  termios before{};
  termios raw{};
  struct sigaction fatal_before[5]{};
  struct sigaction stop_before {};
};
RawTerminal terminal;

constexpr int kFatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

void on_fatal(int number) {
  Terminal::restore_from_signal();
  raise(number);  // SA_RESETHAND: this time it kills
}

void on_stop(int) {
  const int saved_errno = errno;
  if (terminal.active.load()) tcsetattr(terminal.fd, TCSANOW, &terminal.before);
  raise(SIGSTOP);
  if (terminal.active.load()) tcsetattr(terminal.fd, TCSANOW, &terminal.raw);
  errno = saved_errno;
}

}  // namespace

Result<std::unique_ptr<Terminal>> Terminal::make_raw(int fd) {
  RV_ASSERT(!terminal.active.load());
  if (tcgetattr(fd, &terminal.before) != 0)
    return Error{ErrorCode::io, std::string("standard input is no terminal: ") + std::strerror(errno), "console"};
  terminal.fd = fd;
  terminal.raw = terminal.before;
  cfmakeraw(&terminal.raw);
  terminal.raw.c_oflag = terminal.before.c_oflag;
  terminal.raw.c_cc[VMIN] = 1;
  terminal.raw.c_cc[VTIME] = 0;

  terminal.active.store(true);
  struct sigaction action {};
  sigemptyset(&action.sa_mask);
  action.sa_handler = on_fatal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (size_t i = 0; i < std::size(kFatal); ++i) sigaction(kFatal[i], &action, &terminal.fatal_before[i]);
  action.sa_handler = on_stop;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTSTP, &action, &terminal.stop_before);

  if (tcsetattr(fd, TCSANOW, &terminal.raw) != 0) {
    const int error = errno;
    const std::unique_ptr<Terminal> undo(new Terminal);
    return Error{ErrorCode::io, std::string("cannot set the terminal's mode: ") + std::strerror(error), "console"};
  }
  return std::unique_ptr<Terminal>(new Terminal);
}

Terminal::~Terminal() {
  // TCSAFLUSH: what the guest wrote is shown before the mode changes, and what was typed for it goes to nobody else.
  tcsetattr(terminal.fd, TCSAFLUSH, &terminal.before);
  terminal.active.store(false);
  for (size_t i = 0; i < std::size(kFatal); ++i) sigaction(kFatal[i], &terminal.fatal_before[i], nullptr);
  sigaction(SIGTSTP, &terminal.stop_before, nullptr);
}

void Terminal::discard_input(int fd) { tcflush(fd, TCIFLUSH); }

void Terminal::restore_from_signal() noexcept {
  if (terminal.active.load()) tcsetattr(terminal.fd, TCSANOW, &terminal.before);
}

}  // namespace retrovisor
