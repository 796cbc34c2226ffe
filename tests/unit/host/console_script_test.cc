#include "vmm/host/console_script.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace retrovisor {
namespace {

using Kind = ScriptStep::Kind;

std::vector<ScriptStep> parsed(std::string_view text) {
  auto steps = parse_script(text, "t.script");
  EXPECT_TRUE(steps.ok()) << (steps.ok() ? "" : steps.error().text());
  return steps.ok() ? *steps : std::vector<ScriptStep>{};
}

std::string error_of(std::string_view text) {
  auto steps = parse_script(text, "t.script");
  return steps.ok() ? "" : steps.error().text();
}

Moment moment(uint64_t position, uint64_t time) { return {Position(position), VirtualTime(time)}; }

void print(ScriptPlayer& player, std::string_view text) {
  player.output({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

std::string typed(ScriptPlayer& player, Moment at, size_t room = 100) {
  std::vector<uint8_t> bytes(room);
  bytes.resize(player.read(at, bytes));
  return {bytes.begin(), bytes.end()};
}

TEST(ConsoleScript, reads_every_kind_of_step) {
  const auto steps = parsed(
      "# a comment\n"
      "after \"login: \" send \"root\\n\"\n"
      "\n"
      "at 120'000_000 send \"x\"   # at a position\n"
      "wait 100ms wait 7 at 2.5s\n");
  const std::vector<ScriptStep> expected{{Kind::after, "login: ", 0, 2},          {Kind::send, "root\n", 0, 2},
                                         {Kind::at_position, "", 120'000'000, 4}, {Kind::send, "x", 0, 4},
                                         {Kind::wait_time, "", 100'000'000, 5},   {Kind::wait_position, "", 7, 5},
                                         {Kind::at_time, "", 2'500'000'000, 5}};
  EXPECT_EQ(steps, expected);
}

TEST(ConsoleScript, reads_escapes) {
  EXPECT_EQ(parsed(R"(send "\n\r\t\b\e\"\\\x41\xfF\cC\c[#")")[0].text, "\n\r\t\b\x1b\"\\A\xff\x03\x1b#");
  EXPECT_EQ(parsed(R"(send "a\0b")")[0].text, std::string("a\0b", 3));
}

TEST(ConsoleScript, an_empty_script_has_no_steps) {
  EXPECT_TRUE(parsed("").empty());
  EXPECT_TRUE(parsed("# only words").empty());
  EXPECT_TRUE(parsed("\r\n\t \n").empty());
}

TEST(ConsoleScript, errors_name_the_line) {
  EXPECT_NE(error_of("send \"a\"\n\nsned \"b\"\n").find("t.script line 3"), std::string::npos);
  EXPECT_NE(error_of("send \"a").find("closing quote is missing (t.script line 1)"), std::string::npos);
  EXPECT_NE(error_of("send \"a\nb\"").find("line 1"), std::string::npos);
  EXPECT_NE(error_of("\nafter\nsend \"x\"").find("nothing follows 'after' on its line (t.script line 2)"),
            std::string::npos);
}

TEST(ConsoleScript, rejects_malformed_steps) {
  for (const char* text : {"send",
                           "send x",
                           "send \"\"",
                           "after \"\"",
                           "at",
                           "at x",
                           "at -1",
                           "at 1.5",
                           "at 1.5h",
                           "at ms",
                           "at .",
                           "wait 5 ms",
                           "at 99999999999999999999",
                           "at 99999999999s",
                           "send \"\\q\"",
                           "send \"\\x4\"",
                           "send \"\\xg0\"",
                           "send \"\\c\"",
                           "send \"\\",
                           "\"x\"",
                           "\xff\xfe",
                           "at '5"}) {
    EXPECT_NE(error_of(text), "") << text;
  }
  EXPECT_NE(error_of("after \"" + std::string(kMaxScriptPattern + 1, 'x') + "\""), "");
  EXPECT_NE(error_of(std::string(kMaxScriptBytes + 1, ' ')), "");
}

// Whatever the text: an error that names a line of it, or steps that come from its lines in order and hold no more than it does.
TEST(ConsoleScript, answers_random_text_with_steps_or_a_line) {
  std::mt19937 random(1);
  static constexpr const char* kParts[] = {"send ", "after ", "at ", "wait ", "\"", "\"", "\\", "\n", "\t", "#", "7", "12", "ms ", "s ", ".", "'", "x", "\xff"};
  unsigned good = 0, bad = 0;
  for (int i = 0; i < 50000; ++i) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) text += kParts[random() % std::size(kParts)];
    const auto lines = static_cast<unsigned>(std::count(text.begin(), text.end(), '\n')) + 1;
    const auto steps = parse_script(text, "random");
    if (!steps.ok()) {
      ++bad;
      EXPECT_EQ(steps.error().code, ErrorCode::bad_argument) << text;
      bool named = false;
      for (unsigned line = 1; line <= lines; ++line) named = named || steps.error().where == "random line " + std::to_string(line);
      EXPECT_TRUE(named) << steps.error().text() << "\n" << text;
      continue;
    }
    size_t held = 0;
    unsigned line = 1;
    for (const ScriptStep& step : *steps) {
      EXPECT_GE(step.line, line) << text;
      EXPECT_LE(step.line, lines) << text;
      line = step.line;
      held += step.text.size() + 1;
    }
    EXPECT_LE(held, text.size()) << text;
    good += steps->empty() ? 0 : 1;
  }
  EXPECT_GT(good, 100u);
  EXPECT_GT(bad, 100u);
}

TEST(ScriptPlayer, types_after_the_guest_printed_the_text) {
  ScriptPlayer player(parsed("after \"login: \" send \"root\\n\""));
  EXPECT_EQ(typed(player, moment(1, 1)), "");
  print(player, "welcome\nlog");
  EXPECT_EQ(typed(player, moment(2, 2)), "");
  print(player, "in: ");
  EXPECT_EQ(typed(player, moment(3, 3)), "root\n");
  EXPECT_TRUE(player.finished());
  EXPECT_EQ(typed(player, moment(4, 4)), "");
}

TEST(ScriptPlayer, finds_a_text_that_overlaps_itself) {
  ScriptPlayer player(parsed("after \"aabaaa\" send \"y\""));
  print(player, "aabaabaaa");
  EXPECT_EQ(typed(player, moment(1, 1)), "y");
}

TEST(ScriptPlayer, a_text_must_come_again_for_the_next_after) {
  ScriptPlayer player(parsed("after \"$ \" send \"a\" after \"$ \" send \"b\""));
  print(player, "$ ");
  EXPECT_EQ(typed(player, moment(1, 1)), "a");
  EXPECT_EQ(typed(player, moment(2, 2)), "");
  print(player, "$ ");
  EXPECT_EQ(typed(player, moment(3, 3)), "b");
}

TEST(ScriptPlayer, output_during_a_wait_counts_for_the_next_after) {
  ScriptPlayer player(parsed("after \"A\" wait 10ns send \"1\" after \"B\" send \"2\""));
  print(player, "A");
  EXPECT_EQ(typed(player, moment(1, 100)), "");
  print(player, "B");
  EXPECT_EQ(typed(player, moment(2, 110)), "12");
}

TEST(ScriptPlayer, types_at_positions_and_times) {
  ScriptPlayer player(parsed("at 100 send \"a\" at 500ns send \"b\" wait 10 send \"c\" wait 20ns send \"d\""));
  EXPECT_EQ(typed(player, moment(99, 400)), "");
  EXPECT_EQ(typed(player, moment(100, 401)), "a");
  EXPECT_EQ(player.next_time(moment(100, 401)), VirtualTime(500));
  EXPECT_EQ(typed(player, moment(120, 499)), "");
  EXPECT_EQ(typed(player, moment(130, 500)), "b");
  EXPECT_EQ(player.next_time(moment(130, 500)), std::nullopt);
  EXPECT_EQ(typed(player, moment(139, 509)), "");
  EXPECT_EQ(typed(player, moment(140, 510)), "c");
  EXPECT_EQ(player.next_time(moment(141, 511)), VirtualTime(530));
  EXPECT_EQ(typed(player, moment(141, 530)), "d");
}

TEST(ScriptPlayer, types_no_faster_than_there_is_room) {
  ScriptPlayer player(parsed("send \"abcdef\" send \"gh\""));
  EXPECT_EQ(typed(player, moment(1, 1), 4), "abcd");
  EXPECT_EQ(player.next_time(moment(1, 5)), VirtualTime(5));
  EXPECT_EQ(typed(player, moment(2, 2), 3), "efg");
  EXPECT_EQ(typed(player, moment(3, 3), 3), "h");
}

}  // namespace
}  // namespace retrovisor
