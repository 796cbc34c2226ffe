#include "vmm/host/live_boundary.h"
#include "vmm/devices/pc.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

namespace retrovisor {
namespace {

constexpr uint64_t kForever = UINT64_MAX;

Moment moment(uint64_t position, uint64_t time) { return {Position(position), VirtualTime(time)}; }

struct Pipe {
  Pipe() { EXPECT_EQ(pipe(ends), 0); }
  ~Pipe() {
    close_read();
    close_write();
  }
  void close_read() { close_end(0); }
  void close_write() { close_end(1); }
  void put(std::string_view text) { EXPECT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size())); }
  std::string get() {
    pollfd readable{ends[0], POLLIN, 0};
    char buffer[4096];
    if (poll(&readable, 1, 0) <= 0) return {};
    const ssize_t n = read(ends[0], buffer, sizeof(buffer));
    return {buffer, static_cast<size_t>(std::max<ssize_t>(n, 0))};
  }
  void close_end(int i) {
    if (ends[i] >= 0) close(ends[i]);
    ends[i] = -1;
  }
  int ends[2]{-1, -1};
};

// A live boundary between two pipes.
struct Live {
  explicit Live(LiveOptions options = {}, ConsoleKind kind = ConsoleKind::stdio, int input_fd = -2,
                std::string script = {}) {
    stop = std::move(StopSource::create()).value();
    ConsoleOptions console;
    console.kind = kind;
    console.input_fd = input_fd == -2 ? in.ends[0] : input_fd;
    console.output_fd = out.ends[1];
    console.script_file = std::move(script);
    console.greeting = false;
    auto made = make_console(console, stop.get());
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().text());
    boundary = std::make_unique<LiveBoundary>(options, std::move(made).value(), *stop);
    boundary->on_stop([this] { ++stops; });
  }
  std::string input(Moment at = {}) {
    uint8_t bytes[64];
    const size_t n = boundary->receive(at, kPcConsole, bytes);
    return {bytes, bytes + n};
  }
  void print(std::string_view text) {
    boundary->transmit({}, kPcConsole, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }
  uint64_t idle(uint64_t ns, Moment at = {}, bool wanted = true) { return boundary->idle_wait(at, ns, wanted).waited_ns; }

  Pipe in, out;
  std::unique_ptr<StopSource> stop;
  std::unique_ptr<LiveBoundary> boundary;
  int stops = 0;
};

std::string temporary_script(const std::string& text) {
  char name[] = "/tmp/retrovisor-script-XXXXXX";
  const int fd = mkstemp(name);
  close(fd);
  std::ofstream(name) << text;
  return name;
}

TEST(LiveBoundary, fixed_clock_and_seed_repeat) {
  LiveOptions options;
  options.wall_clock = 1'700'000'000;
  options.seed = 7;
  std::array<uint8_t, 37> a{}, b{}, c{};
  Live(options).boundary->entropy({}, a);
  Live(options).boundary->entropy({}, b);
  options.seed = 8;
  Live other(options);
  other.boundary->entropy({}, c);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  EXPECT_EQ(other.boundary->wall_clock({}), 1'700'000'000u);
}

TEST(LiveBoundary, without_options_clock_and_entropy_are_the_hosts) {
  Live live;
  std::array<uint8_t, 32> a{}, b{};
  live.boundary->entropy({}, a);
  live.boundary->entropy({}, b);
  EXPECT_NE(a, b);
  EXPECT_NEAR(static_cast<double>(live.boundary->wall_clock({})), static_cast<double>(time(nullptr)), 2.0);
}

TEST(LiveBoundary, input_comes_from_the_pipe_and_output_goes_to_it) {
  Live live;
  EXPECT_EQ(live.input(), "");
  live.in.put("hello");
  EXPECT_EQ(live.input(), "hello");
  live.print("answer");
  live.input();  // flushes
  EXPECT_EQ(live.out.get(), "answer");
}

TEST(LiveBoundary, input_is_handed_out_as_there_is_room) {
  Live live;
  live.in.put("abc");
  uint8_t one = 0;
  ASSERT_EQ(live.boundary->receive({}, kPcConsole, {&one, 1}), 1u);
  EXPECT_EQ(one, 'a');
  EXPECT_EQ(live.input(), "bc");
}

TEST(LiveBoundary, virtual_time_skips_idle_waits) {
  Live live;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(live.idle(3'600'000'000'000), 3'600'000'000'000u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST(LiveBoundary, real_time_sleeps_as_long_as_asked) {
  LiveOptions options;
  options.real_time = true;
  Live live(options);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(live.idle(30'000'000), 30'000'000u);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(29));
}

TEST(LiveBoundary, real_time_wakes_early_for_input_unless_there_is_no_room) {
  LiveOptions options;
  options.real_time = true;
  Live live(options);
  live.in.put("x");
  EXPECT_LT(live.idle(60'000'000'000), 30'000'000'000u);
  EXPECT_EQ(live.idle(1'000'000, {}, false), 1'000'000u);
}

TEST(LiveBoundary, waits_for_input_when_nothing_is_due) {
  Live live;
  std::thread typist([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    live.in.put("x");
  });
  EXPECT_EQ(live.idle(kForever), 0u);  // guest time stands still meanwhile
  typist.join();
  EXPECT_EQ(live.input(), "x");
}

TEST(LiveBoundary, nothing_due_and_no_input_left_is_forever) {
  Live live;
  live.in.put("last");
  live.in.close_write();
  EXPECT_EQ(live.idle(kForever), 0u);
  EXPECT_EQ(live.input(), "last");
  EXPECT_EQ(live.idle(kForever), kForever);
  EXPECT_EQ(Live({}, ConsoleKind::none).idle(kForever), kForever);
}

TEST(LiveBoundary, nothing_due_and_no_room_for_input_is_forever) {
  Live live;
  live.in.put("x");
  EXPECT_EQ(live.idle(kForever, {}, false), kForever);
}

TEST(LiveBoundary, closed_and_null_input_are_no_input) {
  Live closed({}, ConsoleKind::stdio, 999);
  EXPECT_EQ(closed.input(), "");
  EXPECT_EQ(closed.idle(kForever), kForever);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  Live empty({}, ConsoleKind::stdio, null);
  EXPECT_EQ(empty.input(), "");
  EXPECT_EQ(empty.idle(kForever), kForever);
  close(null);
}

TEST(LiveBoundary, a_script_ends_idle_waits_at_its_times) {
  const std::string file = temporary_script("at 500ns send \"a\" after \"go\" wait 50ns send \"b\"");
  Live live({}, ConsoleKind::script, -1, file);
  EXPECT_EQ(live.idle(10'000, moment(10, 100)), 400u);
  EXPECT_EQ(live.input(moment(10, 500)), "a");
  EXPECT_EQ(live.idle(10'000, moment(11, 600)), 10'000u);
  EXPECT_EQ(live.idle(kForever, moment(11, 600)), kForever);
  live.print("go");
  EXPECT_EQ(live.idle(kForever, moment(12, 700)), 50u);
  EXPECT_EQ(live.idle(20, moment(12, 700), false), 20u);
  EXPECT_EQ(live.input(moment(12, 750)), "b");
  EXPECT_EQ(live.boundary->console().remark(), "");
  unlink(file.c_str());
}

TEST(LiveBoundary, a_script_not_played_to_its_end_is_remarked) {
  const std::string file = temporary_script("\nafter \"never\" send \"b\"");
  Live live({}, ConsoleKind::script, -1, file);
  EXPECT_NE(live.boundary->console().remark().find("line 2"), std::string::npos);
  unlink(file.c_str());
}

TEST(LiveBoundary, a_stop_reaches_the_machine_at_the_next_question) {
  Live live;
  live.input();
  EXPECT_EQ(live.stops, 0);
  live.stop->request(StopCause::interrupted);
  live.stop->request(StopCause::time_limit);  // the first one stays
  live.in.put("late");
  EXPECT_EQ(live.input(), "");
  EXPECT_EQ(live.stops, 1);
  EXPECT_EQ(live.stop->cause(), StopCause::interrupted);
  EXPECT_EQ(live.idle(1'000), 0u);
}

TEST(LiveBoundary, a_stop_ends_a_wait_without_end) {
  Live live;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    live.stop->request(StopCause::interrupted);
  });
  EXPECT_EQ(live.idle(kForever), 0u);
  other.join();
  EXPECT_GE(live.stops, 1);
}

TEST(LiveBoundary, a_reader_that_went_away_asks_for_a_stop) {
  signal(SIGPIPE, SIG_IGN);
  Live live;
  live.out.close_read();
  live.print("x");
  live.input();
  EXPECT_EQ(live.stop->cause(), StopCause::output_closed);
  live.print("more");
  live.input();
  EXPECT_EQ(live.boundary->console().output_error(), "");
}

TEST(LiveBoundary, a_full_disk_behind_the_output_is_told) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  OutputStream stream(full, nullptr, Answers::reach_nobody);
  const uint8_t byte = 'x';
  stream.write({&byte, 1});
  stream.flush();
  EXPECT_NE(stream.error().find("No space"), std::string::npos);
  close(full);
}

TEST(LiveBoundary, a_slow_reader_gets_everything_in_order) {
  Live live;
  fcntl(live.out.ends[1], F_SETFL, O_NONBLOCK);
  std::string got;
  std::thread reader([&] {
    char buffer[1000];
    for (ssize_t n = 0; got.size() < 300'000 && (n = read(live.out.ends[0], buffer, sizeof(buffer))) > 0;)
      got.append(buffer, static_cast<size_t>(n));
  });
  std::string all;
  for (int i = 0; all.size() < 300'000; ++i) {
    const std::string line = std::to_string(i) + "\n";
    all += line;
    live.print(line);
  }
  live.input();
  reader.join();
  EXPECT_EQ(got.substr(0, all.size()), all);
}

struct Pty {
  Pty() : there(openpty(&master, &slave, nullptr, nullptr, nullptr) == 0) {}
  ~Pty() {
    if (!there) return;
    close(master);
    close(slave);
  }
  tcflag_t local_flags() const {
    termios t{};
    tcgetattr(slave, &t);
    return t.c_lflag;
  }
  int master = -1;
  int slave = -1;
  bool there;
};
constexpr char kNoPty[] = "SKIPPED: this host gives no pseudo terminals";

TEST(TerminalConsole, is_raw_while_it_lives_and_given_back_after) {
  Pty pty;
  if (!pty.there) GTEST_SKIP() << kNoPty;
  const tcflag_t before = pty.local_flags();
  ASSERT_NE(before & ICANON, 0u);
  {
    Live live({}, ConsoleKind::stdio, pty.slave);
    EXPECT_TRUE(live.boundary->console().interactive());
    EXPECT_EQ(pty.local_flags() & (ICANON | ECHO | ISIG), 0u);
  }
  EXPECT_EQ(pty.local_flags(), before);
}

TEST(TerminalConsole, control_keys_reach_the_guest_except_the_escape_key) {
  Pty pty;
  if (!pty.there) GTEST_SKIP() << kNoPty;
  Live live({}, ConsoleKind::terminal, pty.slave);
  ASSERT_EQ(write(pty.master, "a\x03\x01\x01z", 5), 5);
  std::string got;
  for (int i = 0; i < 100 && got.size() < 4; ++i) got += live.input(), usleep(1000);
  EXPECT_EQ(got, "a\x03\x01z");
  EXPECT_EQ(live.stops, 0);
}

TEST(TerminalConsole, escape_x_ends_the_run) {
  Pty pty;
  if (!pty.there) GTEST_SKIP() << kNoPty;
  Live live({}, ConsoleKind::terminal, pty.slave);
  ASSERT_EQ(write(pty.master, "\x01", 1), 1);
  for (int i = 0; i < 10; ++i) live.input(), usleep(1000);
  EXPECT_EQ(live.stops, 0);
  ASSERT_EQ(write(pty.master, "x", 1), 1);
  for (int i = 0; i < 100 && live.stops == 0; ++i) live.input(), usleep(1000);
  EXPECT_EQ(live.stop->cause(), StopCause::escape_key);
  EXPECT_GT(live.stops, 0);
}

TEST(TerminalConsole, the_escape_key_is_heard_while_the_guest_takes_no_input) {
  Pty pty;
  if (!pty.there) GTEST_SKIP() << kNoPty;
  Live live({}, ConsoleKind::terminal, pty.slave);
  const auto attend = [&] {
    for (int i = 0; i < 10; ++i) live.boundary->console().attend(), usleep(1000);
  };
  std::string typed;
  for (int i = 0; i < 100; ++i) typed += static_cast<char>('a' + i % 26);
  for (int i = 0; i < 60; ++i) {  // more than is kept for a guest that never reads
    ASSERT_EQ(write(pty.master, typed.data(), typed.size()), static_cast<ssize_t>(typed.size()));
    live.boundary->console().attend();
    usleep(200);
  }
  attend();
  EXPECT_EQ(live.stop->cause(), StopCause::none);
  EXPECT_EQ(live.input(), typed.substr(0, 64)) << "the first is what it reads first";
  ASSERT_EQ(write(pty.master, "\x01x", 2), 2);
  attend();
  EXPECT_EQ(live.stop->cause(), StopCause::escape_key);
}

TEST(TerminalConsole, a_pipe_is_no_terminal) {
  Pipe in;
  const auto stop = std::move(StopSource::create()).value();
  ConsoleOptions options;
  options.kind = ConsoleKind::terminal;
  options.input_fd = in.ends[0];
  EXPECT_FALSE(make_console(options, stop.get()).ok());
}

// What a signal does to a raw terminal, seen from outside.
void expect_given_back_after(int number, bool twice) {
  Pty pty;
  if (!pty.there) GTEST_SKIP() << kNoPty;
  const tcflag_t before = pty.local_flags();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto stop = std::move(StopSource::create()).value();
    const auto signals = std::move(StopSignals::install(*stop, std::nullopt)).value();
    ConsoleOptions options;
    options.input_fd = pty.slave;
    options.output_fd = -1;
    options.greeting = false;
    const auto console = std::move(make_console(options, stop.get())).value();
    raise(number);
    if (twice) raise(number);
    _exit(7);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), number);
  EXPECT_EQ(pty.local_flags(), before);
}

TEST(TerminalConsole, is_given_back_when_the_process_dies_of_a_signal) {
  expect_given_back_after(SIGABRT, false);
  expect_given_back_after(SIGSEGV, false);
}

TEST(TerminalConsole, is_given_back_by_the_second_interrupt) {
  expect_given_back_after(SIGINT, true);
  expect_given_back_after(SIGTERM, true);
}

TEST(StopSignals, the_first_interrupt_asks_for_a_stop) {
  const auto stop = std::move(StopSource::create()).value();
  const auto signals = std::move(StopSignals::install(*stop, std::nullopt)).value();
  raise(SIGINT);
  EXPECT_EQ(stop->cause(), StopCause::interrupted);
}

TEST(StopSignals, a_time_limit_asks_for_a_stop) {
  const auto stop = std::move(StopSource::create()).value();
  const auto signals = std::move(StopSignals::install(*stop, 0.02)).value();
  pollfd wake{stop->wake_fd(), POLLIN, 0};
  while (poll(&wake, 1, 10'000) < 0) {
  }
  EXPECT_EQ(stop->cause(), StopCause::time_limit);
}

TEST(StopSignals, rejects_a_time_limit_of_nothing) {
  const auto stop = std::move(StopSource::create()).value();
  EXPECT_FALSE(StopSignals::install(*stop, 0.0).ok());
  EXPECT_FALSE(StopSignals::install(*stop, -1.0).ok());
}

}  // namespace
}  // namespace retrovisor
