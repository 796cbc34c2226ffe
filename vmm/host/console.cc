#include "vmm/host/console.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/host/console_script.h"
#include "vmm/host/terminal.h"

namespace retrovisor {
namespace {

class SilentConsole final : public Console {
 public:
  SilentConsole(int output_fd, StopSource* stop) : Console(output_fd, stop, Answers::reach_nobody) {}
  size_t read(Moment, std::span<uint8_t>) override { return 0; }
  InputForecast forecast(Moment) override { return {}; }
  std::string input_state() const override { return "there is no input"; }
};

class ScriptConsole final : public Console {
 public:
  ScriptConsole(std::vector<ScriptStep> steps, std::string file, int output_fd, StopSource* stop)
      : Console(output_fd, stop, Answers::reach_nobody), player_(std::move(steps)), file_(std::move(file)) {}

  size_t read(Moment at, std::span<uint8_t> out) override { return player_.read(at, out); }
  InputForecast forecast(Moment at) override {
    const std::optional<VirtualTime> when = player_.next_time(at);
    if (!when) return {};
    return {InputForecast::Kind::at_time, *when, -1};
  }
  void output(std::span<const uint8_t> bytes) override {
    player_.output(bytes);
    Console::output(bytes);
  }
  bool comes_by_instructions() const override {
    using Kind = ScriptStep::Kind;
    const ScriptStep* step = player_.current();
    return step != nullptr && (step->kind == Kind::at_position || step->kind == Kind::wait_position);
  }
  std::string input_state() const override {
    if (player_.finished()) return "the script " + file_ + " is over";
    return "the script " + file_ + " waits in line " + std::to_string(player_.current()->line);
  }
  std::string remark() const override {
    if (player_.finished()) return {};
    return "the script " + file_ + " was played up to line " + std::to_string(player_.current()->line) + " only";
  }

 private:
  ScriptPlayer player_;
  std::string file_;
};

// Input from a file descriptor that is read only when poll() says that it would not block: the descriptor may be shared
// with other processes, so it is never made non-blocking.
class StreamConsole : public Console {
 public:
  StreamConsole(int input_fd, int output_fd, StopSource* stop, Answers answers)
      : Console(output_fd, stop, answers), fd_(input_fd) {}

  size_t read(Moment, std::span<uint8_t> out) override {
    if (begin_ == end_) fill();
    const size_t n = std::min(out.size(), end_ - begin_);
    std::copy_n(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_), n, out.begin());
    begin_ += n;
    return n;
  }

  InputForecast forecast(Moment at) override {
    if (begin_ == end_) fill();
    if (begin_ != end_) return {InputForecast::Kind::at_time, at.time, -1};
    if (fd_ < 0) return {};
    return {InputForecast::Kind::host, {}, fd_};
  }
  std::string input_state() const override { return "standard input is at its end"; }

 protected:
  // Takes the bytes that the guest shall not see out of `bytes`; returns how many remain.
  virtual size_t filter(std::span<uint8_t> bytes) { return bytes.size(); }

  // Takes what has arrived although there is more that the guest has not read. What it leaves unread beyond the buffer is lost.
  void read_ahead() {
    if (end_ == buffer_.size()) {
      std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_), buffer_.end(), buffer_.begin());
      end_ -= begin_;
      begin_ = 0;
    }
    if (end_ == buffer_.size()) end_ -= kDropped;
    take();
  }

 private:
  static constexpr size_t kDropped = 1024;

  void fill() {
    begin_ = end_ = 0;
    take();
  }

  void take() {
    pollfd readable{fd_, POLLIN, 0};
    if (fd_ < 0 || poll(&readable, 1, 0) <= 0) return;
    const std::span<uint8_t> free = std::span(buffer_).subspan(end_);
    const ssize_t n = ::read(fd_, free.data(), free.size());
    if (n > 0) {
      end_ += filter(free.first(static_cast<size_t>(n)));
    } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
      fd_ = -1;  // end of input: a closed pipe, the end of a file, a terminal that went away
    }
  }

  int fd_;
  std::array<uint8_t, 4096> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

constexpr uint8_t kEscapeKey = 0x01;  // Ctrl-A

class TerminalConsole final : public StreamConsole {
 public:
  TerminalConsole(std::unique_ptr<Terminal> terminal, int input_fd, int output_fd, StopSource* stop)
      : StreamConsole(input_fd, output_fd, stop, Answers::reach_guest),
        terminal_(std::move(terminal)),
        input_fd_(input_fd),
        stop_(stop) {}
  ~TerminalConsole() override {
    flush();  // before the terminal's mode changes
    drop_answers();
  }
  void output(std::span<const uint8_t> bytes) override {
    const uint64_t before = queries_.seen();
    shown_.clear();
    queries_.filter(bytes, shown_);
    asked_ = asked_ || queries_.seen() != before;
    Console::output(bytes);
  }
  bool interactive() const override { return true; }
  void attend() override { read_ahead(); }

 private:
  // What the guest asked the terminal last, and has not lived to hear, is on its way to us; behind us, the shell would read it.
  void drop_answers() {
    constexpr int kAnswerMs = 500, kQuietMs = 50;
    std::array<uint8_t, 256> answer;
    pollfd readable{input_fd_, POLLIN, 0};
    for (int ms = kAnswerMs; asked_ && poll(&readable, 1, ms) > 0; ms = kQuietMs)
      if (::read(input_fd_, answer.data(), answer.size()) <= 0) return;
  }

  size_t filter(std::span<uint8_t> bytes) override {
    size_t kept = 0;
    // Answers begin with it; keys that do cannot be told from them.
    if (std::find(bytes.begin(), bytes.end(), uint8_t{0x1b}) != bytes.end()) asked_ = false;
    for (const uint8_t byte : bytes) {
      if (!escaped_) {
        if (byte == kEscapeKey)
          escaped_ = true;
        else
          bytes[kept++] = byte;
        continue;
      }
      escaped_ = false;
      switch (byte) {
        case kEscapeKey: bytes[kept++] = kEscapeKey; break;
        case 'x':
        case 'X':
          say("\nretrovisor: ended from the terminal\n");
          stop_->request(StopCause::escape_key);
          break;
        case 'h':
        case 'H':
        case '?':
          say("\nCtrl-A x       end the run\n"
              "Ctrl-A Ctrl-A  send Ctrl-A to the guest\n"
              "Ctrl-A h       this help\n");
          break;
        default: break;  // an unknown command is dropped, as the escape key is
      }
    }
    return kept;
  }

  void say(const char* text) {
    flush();
    [[maybe_unused]] const ssize_t written = ::write(2, text, std::strlen(text));
  }

  std::unique_ptr<Terminal> terminal_;
  int input_fd_;
  StopSource* stop_;
  bool escaped_ = false;
  TerminalQueries queries_;
  std::vector<uint8_t> shown_;
  bool asked_ = false;  // a query has no answer yet
};

Result<std::string> read_script(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return Error{ErrorCode::io, "cannot open the script " + path + ": " + std::strerror(errno), "console"};
  std::string text;
  std::array<char, 65536> buffer;
  ssize_t n = 0;
  while (text.size() <= kMaxScriptBytes && (n = ::read(fd, buffer.data(), buffer.size())) > 0)
    text.append(buffer.data(), static_cast<size_t>(n));
  const int error = errno;
  close(fd);
  if (n < 0) return Error{ErrorCode::io, "cannot read the script " + path + ": " + std::strerror(error), "console"};
  return text;
}

}  // namespace

Result<std::unique_ptr<Console>> make_console(const ConsoleOptions& options, StopSource* stop) {
  RV_ASSERT(stop != nullptr);
  switch (options.kind) {
    case ConsoleKind::none: return std::unique_ptr<Console>(new SilentConsole(options.output_fd, stop));
    case ConsoleKind::script: {
      RV_TRY(auto text, read_script(options.script_file));
      RV_TRY(auto steps, parse_script(text, options.script_file));
      return std::unique_ptr<Console>(
          new ScriptConsole(std::move(steps), options.script_file, options.output_fd, stop));
    }
    case ConsoleKind::stdio:
    case ConsoleKind::terminal: break;
  }
  if (options.kind == ConsoleKind::stdio && isatty(options.input_fd) == 0)
    return std::unique_ptr<Console>(new StreamConsole(options.input_fd, options.output_fd, stop, Answers::reach_nobody));
  RV_TRY(auto terminal, Terminal::make_raw(options.input_fd));
  if (options.greeting) {
    constexpr char kGreeting[] = "retrovisor: the guest has the terminal; Ctrl-A x ends the run, Ctrl-A h helps\n";
    [[maybe_unused]] const ssize_t written = ::write(2, kGreeting, sizeof(kGreeting) - 1);
  }
  return std::unique_ptr<Console>(
      new TerminalConsole(std::move(terminal), options.input_fd, options.output_fd, stop));
}

}  // namespace retrovisor
