// The byte 0x03, acknowledgements and retransmissions, at any moment: nothing is lost, and nobody gets out of step.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/unit/gdbstub/client.h"

namespace retrovisor::gdb {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kHere = "T05thread:1;", kInterrupted = "T02thread:1;", kInterrupt = "\x03";
const std::string kGdb = "qSupported:swbreak+;hwbreak+;vContSupported+";

std::string monitor(const std::string& command) { return "qRcmd," + hex_bytes(command); }
std::string monitor_packet(const std::string& command) { return frame(monitor(command)); }

TEST(Interrupt, stops_a_run) {
  for (const char* packet : {"c", "vCont;c", "bc", "vCont;r0,ffffffffffffffff:1"}) {
    Client client;
    ASSERT_TRUE(client.timeline().seek(Position(20)).ok());
    client.while_running = kInterrupt;
    EXPECT_THAT(client.say({packet}), ElementsAre(kInterrupted)) << packet;
  }
}

TEST(Interrupt, while_nothing_runs_gets_no_packet_and_ends_the_next_run_before_its_first_instruction) {
  for (const char* packet : {"c", "s", "vCont;c", "vCont;s:1", "vCont;r100000,100100:1", "bs", "bc"}) {
    Client client;
    ASSERT_TRUE(client.timeline().seek(Position(20)).ok());
    EXPECT_THAT(client.raw({kInterrupt, frame("?") + "+", kInterrupt + frame(packet) + "+", frame("?") + "+", frame("s")}),
                ElementsAre("+", kHere, "+", kInterrupted, "+", kInterrupted, "+", kHere))
        << packet;
    EXPECT_EQ(client.timeline().position(), Position(21)) << packet;
  }
}

TEST(Interrupt, is_kept_wherever_it_comes_between_packets_and_in_them) {
  const std::string packet = frame("qAttached");
  for (size_t at = 0; at <= packet.size(); ++at) {
    Client client;
    const std::string cut = packet.substr(0, at) + kInterrupt + packet.substr(at);
    EXPECT_THAT(client.raw({cut + "+", frame("s") + "+", frame("s") + "+"}), ElementsAre("+", "1", "+", kInterrupted, "+", kHere))
        << at;
  }
}

TEST(Interrupt, several_before_a_run_are_one) {
  Client client;
  EXPECT_THAT(client.raw({"\x03\x03", frame("s") + "+", "\x03\x03", frame("s") + "+", frame("s")}),
              ElementsAre("+", kInterrupted, "+", kInterrupted, "+", kHere));
}

TEST(Interrupt, is_seen_behind_a_packet_that_should_not_come_while_running) {
  Client client;
  client.while_running = frame("?") + kInterrupt;
  EXPECT_THAT(client.say({"c"}), ElementsAre(kInterrupted, kInterrupted));
}

TEST(Interrupt, client_that_floods_a_run_is_let_go) {
  struct Flood final : Connection {
    Read read(std::string& text, std::chrono::milliseconds wait) override {
      text += wait.count() == 0 ? std::string(kPacketSize, 'x') : std::exchange(first, {});
      return text.empty() ? Read::closed : Read::bytes;
    }
    bool write(std::string_view) override { return true; }
    std::string first = frame("QStartNoAckMode") + frame("c");
  } flood;
  struct Endless final : FakeTimeline {
    Result<TimelineStop> forward(const StopConditions& conditions, Position limit) override {
      for (int i = 0; i < 1'000'000; ++i)
        if (interrupted()) return TimelineStop{};
      return FakeTimeline::forward(conditions, limit);
    }
  };
  Client client(new Endless);
  EXPECT_EQ(serve(client.target(), flood, {}), SessionEnd::vanished);
  EXPECT_EQ(client.timeline().position(), Position(0));
}

TEST(Interrupt, of_before_does_not_end_a_monitor_command) {
  Client client;
  EXPECT_THAT(client.raw({kInterrupt, monitor_packet("seek 100"), frame("s")}),
              ElementsAre("+", HasSubstr("position 100 of"), "OK", "+", kInterrupted));
}

TEST(Interrupt, of_before_is_forgotten_when_the_program_is_run_again) {
  Client client;
  EXPECT_THAT(client.raw({kInterrupt, frame("vRun;") + "+", frame("s")}), ElementsAre("+", kHere, "+", kHere));
}

// The engine hits a breakpoint at the moment in which the interrupt is seen: the client is told of the breakpoint, and goes on
// by itself, since its condition is false.
TEST(Interrupt, at_a_hit_ends_the_run_that_follows_it) {
  struct Hitting final : FakeTimeline {
    Result<TimelineStop> forward(const StopConditions& conditions, Position limit) override {
      const auto asked = std::exchange(interrupted, {});
      asked();
      auto stop = FakeTimeline::forward(conditions, limit);
      interrupted = asked;
      return stop;
    }
  };
  Client client(new Hitting);
  const auto answers = client.raw({"+" + frame("Z0,10000e,1"), "+" + frame("c"), ScriptedConnection::later(3, kInterrupt),
                                   "+" + frame("c"), "+" + frame("c")});
  EXPECT_THAT(answers, ElementsAre("+", "OK", "+", kHere, "+", kInterrupted, "+", kHere));
}

// --- monitor commands -------------------------------------------------------------------------------------------------

// A timeline that takes for ever where it is asked.
struct EndlessTimeline final : FakeTimeline {
  Result<std::optional<Observation>> last_write(LinearAddr, uint64_t) override {
    while (!interrupted()) ++asked;
    FakeTimeline::seek(Position(7)).ok();  // somewhere
    return Error{ErrorCode::bad_argument, "the search was interrupted", {}};
  }
  Result<void> warm() override {
    while (!interrupted()) ++asked;
    FakeTimeline::seek(Position(7)).ok();
    return {};
  }
  uint64_t asked = 0;
};

TEST(Interrupt, ends_a_monitor_command_which_says_so_and_leaves_the_machine_where_it_was) {
  for (const char* command : {"last-write 0x180000", "checkpoints make"}) {
    Client client(new EndlessTimeline);
    ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
    client.while_running = kInterrupt;
    const auto answers = client.say({monitor(command)});
    ASSERT_EQ(answers.size(), 2u) << command;
    EXPECT_THAT(answers[0], HasSubstr("interrupted")) << command;
    EXPECT_THAT(answers[0], testing::Not(HasSubstr("usage"))) << command;
    EXPECT_EQ(answers[1], "OK") << command;
    EXPECT_EQ(client.timeline().position(), Position(100)) << command;
  }
}

TEST(Interrupt, that_ended_a_monitor_command_is_used_up) {
  Client client(new EndlessTimeline);
  // Behind the packet in one piece: it is there when the command first asks.
  const auto answers = client.raw({"+" + monitor_packet("last-write 0x180000") + kInterrupt, "+" + frame("s")});
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_THAT(answers[1], HasSubstr("interrupted"));
  EXPECT_EQ(answers.back(), kHere);
}

TEST(Interrupt, gdb_gets_the_answer_of_a_command_as_one_packet) {
  Client client;
  const auto answers = client.raw({"+", frame(kGdb) + "+", monitor_packet("position") + "+", monitor_packet("break-on off")});
  ASSERT_EQ(answers.size(), 6u);
  const auto text = bytes_of_hex(answers[3]);
  ASSERT_TRUE(text);
  EXPECT_THAT(std::string(text->begin(), text->end()), StartsWith("position 0 of"));
  EXPECT_THAT(bytes_of_hex(answers[5]), testing::Ne(std::nullopt));
}

// gdb has left the command and says the next packet: the command ends, and the answers fit the questions.
TEST(Interrupt, gdb_that_has_left_a_command_is_served_what_it_asks_next) {
  for (const bool acks : {true, false}) {
    Client client(new EndlessTimeline);
    client.while_running = frame("qAttached");
    std::vector<std::string> pieces{"+", frame(kGdb) + "+"};
    if (!acks) pieces.push_back(frame("QStartNoAckMode") + "+");
    pieces.push_back(monitor_packet("last-write 0x180000"));
    auto answers = client.raw(pieces);
    ASSERT_GT(answers.size(), 2u);
    EXPECT_EQ(answers.back(), "1");
    if (acks) {
      EXPECT_EQ(answers[answers.size() - 2], "+");  // before which gdb passes over what it finds
    } else {
      EXPECT_EQ(answers[answers.size() - 2], "OK") << "that of QStartNoAckMode: the command has no answer";
    }
  }
}

TEST(Interrupt, gdb_is_not_offered_to_leave_acknowledgements_away) {
  Client client;
  EXPECT_THAT(client.raw({frame(kGdb)})[1], testing::Not(HasSubstr("QStartNoAckMode")));
  EXPECT_THAT(client.raw({frame("qSupported")})[1], HasSubstr("QStartNoAckMode+"));
}

// --- acknowledgements -------------------------------------------------------------------------------------------------

TEST(Acknowledgement, copy_of_a_packet_is_not_answered_again) {
  Client client;
  const std::string step = frame("s");
  EXPECT_THAT(client.raw({"+" + step + step + step, "+" + frame("?")}), ElementsAre("+", kHere, "+", kHere));
  EXPECT_EQ(client.timeline().position(), Position(1));
}

TEST(Acknowledgement, late_copy_is_acknowledged_only) {
  Client client;
  EXPECT_THAT(client.raw({"+" + frame("?"), "+" + frame("s"), frame("s"), "+" + frame("s")}),
              ElementsAre("+", kHere, "+", kHere, "+", "+", kHere));
  EXPECT_EQ(client.timeline().position(), Position(2));
}

TEST(Acknowledgement, client_that_sends_none_may_repeat_itself) {
  Client client;
  EXPECT_THAT(client.raw({frame("s"), frame("s"), frame("s")}), ElementsAre("+", kHere, "+", kHere, "+", kHere));
  EXPECT_EQ(client.timeline().position(), Position(3));
}

TEST(Acknowledgement, nack_for_what_was_acknowledged_gets_nothing) {
  Client client;
  EXPECT_THAT(client.raw({"+-", "-", frame("?"), "+-", "-", frame("?"), "-", "+"}),
              ElementsAre("+", kHere, "+", kHere, kHere));
}

TEST(Acknowledgement, nack_without_acknowledgements_gets_nothing) {
  Client client;
  EXPECT_THAT(client.raw({"+", frame("QStartNoAckMode"), "-", "+", frame("?"), "-", "-", frame("?")}),
              ElementsAre("+", "OK", "OK", kHere, kHere));
}

TEST(Acknowledgement, nack_that_came_before_the_answer_gets_nothing) {
  Client client;
  client.while_running = "-";
  EXPECT_THAT(client.raw({"+", frame("c")}), ElementsAre("+", StartsWith("("), kHere + "replaylog:end;"));
}

TEST(Acknowledgement, repeated_wish_for_none_is_one) {
  Client client;
  const std::string wish = frame("QStartNoAckMode");
  EXPECT_THAT(client.raw({"+" + wish + wish, "+" + frame("?")}), ElementsAre("+", "OK", kHere));
}

TEST(Acknowledgement, of_the_last_answer_is_waited_for) {
  struct Leaving final : Connection {
    Read read(std::string& text, std::chrono::milliseconds wait) override {
      if (wait.count() == 0) return Read::nothing;
      if (at == pieces.size()) return Read::closed;
      text += pieces[at++];
      return Read::bytes;
    }
    bool write(std::string_view) override { return true; }
    std::vector<std::string> pieces{"+" + frame("?"), "+" + frame("D"), "+", "never"};
    size_t at = 0;
  } leaving;
  Client client;
  EXPECT_EQ(serve(client.target(), leaving, {}), SessionEnd::detached);
  EXPECT_EQ(leaving.at, 3u);
}

// --- patience ---------------------------------------------------------------------------------------------------------

// Keeps what is written, with the moments.
class SlowClient final : public Connection {
 public:
  explicit SlowClient(std::vector<std::string> pieces) : pieces_(pieces.begin(), pieces.end()) {}
  Read read(std::string& text, std::chrono::milliseconds wait) override {
    if (wait.count() == 0) return Read::nothing;
    if (pieces_.empty()) return Read::closed;
    text += pieces_.front();
    pieces_.pop_front();
    return Read::bytes;
  }
  bool write(std::string_view text) override {
    const std::lock_guard lock(mutex_);
    written_ += text;
    changed_.notify_all();
    return true;
  }
  std::string written() {
    const std::lock_guard lock(mutex_);
    return written_;
  }
  // Waits until `text` has been written so often.
  bool wait_for(const std::string& text, size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      size_t n = 0;
      for (size_t at = 0; (at = written_.find(text, at)) != std::string::npos; at += text.size()) ++n;
      return n >= count;
    });
  }

 private:
  std::deque<std::string> pieces_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string written_;
};

TEST(Patience, client_hears_something_while_the_way_to_the_beginning_is_long) {
  Client client;
  SlowClient connection({"+" + frame("?")});
  SessionOptions options;
  bool heard = false;
  options.begin = [&](Execution& e) {
    heard = connection.wait_for("\n", 2);
    return e.seek(Position(30)).ok();
  };
  serve(client.target(), connection, options);
  EXPECT_TRUE(heard);
  EXPECT_THAT(connection.written(), testing::EndsWith("+" + frame(kHere)));
  EXPECT_EQ(client.timeline().position(), Position(30));
}

TEST(Patience, gdb_hears_empty_output_while_a_command_takes_long_and_others_what_is_nothing) {
  for (const bool gdb : {true, false}) {
    Client client;
    SlowClient connection({"+" + frame(gdb ? kGdb : "qSupported") + "+", monitor_packet("wait")});
    SessionOptions options;
    bool heard = false;
    options.commands.push_back({"wait", "", "", [&](Execution&, MonitorCommand::Words) -> Result<std::string> {
                                  heard = connection.wait_for(gdb ? frame("O") : "\n", 2);
                                  return std::string("done\n");
                                }});
    serve(client.target(), connection, options);
    EXPECT_TRUE(heard);
    EXPECT_THAT(connection.written(), HasSubstr(hex_bytes("done\n")));
  }
}

TEST(Patience, way_to_the_beginning_that_fails_ends_the_session) {
  Client client;
  SessionOptions options;
  options.begin = [](Execution&) { return false; };
  EXPECT_THAT(client.raw({frame("?")}, options), ElementsAre());
  EXPECT_EQ(client.end, SessionEnd::stopped);
}

}  // namespace
}  // namespace retrovisor::gdb
