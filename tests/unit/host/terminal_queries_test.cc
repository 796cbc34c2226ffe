#include "vmm/host/terminal_queries.h"

#include <gtest/gtest.h>

namespace retrovisor {
namespace {

std::string shown(std::string_view text, uint64_t* seen = nullptr, size_t piece = 1) {
  TerminalQueries queries;
  std::vector<uint8_t> out;
  for (; !text.empty(); text.remove_prefix(std::min(piece, text.size()))) {
    const std::string_view part = text.substr(0, piece);
    queries.filter({reinterpret_cast<const uint8_t*>(part.data()), part.size()}, out);
  }
  if (seen != nullptr) *seen = queries.seen();
  return {out.begin(), out.end()};
}

using namespace std::string_view_literals;

TEST(TerminalQueries, what_a_terminal_answers_is_taken_out) {
  for (const std::string_view query : {
           "\x1b[6n"sv, "\x1b[5n"sv, "\x1b[?6n"sv, "\x1b[?996n"sv, "\x1b[c"sv, "\x1b[0c"sv, "\x1b[>c"sv, "\x1b[=0c"sv, "\x1bZ"sv,
           "\x05"sv, "\x1b[x"sv, "\x1b[1x"sv, "\x1b[14t"sv, "\x1b[14;2t"sv, "\x1b[21t"sv, "\x1b[?2026$p"sv, "\x1b[4$p"sv,
           "\x1b[>q"sv, "\x1b[>0q"sv, "\x1b[?u"sv, "\x1b[>1u"sv, "\x1b[1$w"sv, "\x1b[2$u"sv, "\x1b[&u"sv,
           "\x1b[1;1;1;1;2;2*y"sv, "\x1b['|"sv, "\x1b[?1;1;0S"sv, "\x1b[?4m"sv, "\x1b[#R"sv, "\x1bP$qm\x1b\\"sv,
           "\x1bP+q544e\x1b\\"sv, "\x1bPtmux;\x1b\\"sv, "\x1b]10;?\x07"sv, "\x1b]4;1;?\x1b\\"sv, "\x1b]52;c;?\x07"sv,
           "\x1b]11;?\xc2\x9c"sv, "\x1b]60\x07"sv, "\x1b]1337;ReportCellSize\x07"sv, "\x1b_Gi=31,a=q;AAAA\x1b\\"sv,
           "\x9b"
           "6n"sv,
           "\xc2\x9b"
           "6n"sv,
           "\x9a"sv, "\xc2\x9a"sv}) {
    for (const size_t piece : {1u, 2u, 3u, 100u}) {
      const std::string text = "a" + std::string(query) + "b";
      EXPECT_EQ(shown(text, nullptr, piece), "ab") << testing::PrintToString(query) << " in pieces of " << piece;
    }
  }
}

TEST(TerminalQueries, everything_else_is_shown_as_it_is) {
  for (const std::string_view text : {
           "plain text\r\n\t\x07\b"sv, "\x1b[1;31mred\x1b[0m"sv, "\x1b[2J\x1b[H"sv, "\x1b[?25l\x1b[?1049h\x1b[?1h\x1b="sv,
           "\x1b[?1000l\x1b[?2004l"sv, "\x1b]0;what? a title; ?\x07"sv, "\x1b]8;;http://x?y\x1b\\link\x1b]8;;\x1b\\"sv,
           "\x1b]4;1;rgb:00/00/00\x07"sv, "\x1b(B\x1b)0\x1b#8\x1b%G"sv, "\x1b""7\x1b""8\x1bM\x1b""c"sv, "\x1b[22;0t\x1b[8;24;80t"sv,
           "\x1b[u\x1b[s"sv, "\x1b[!p"sv, "\x1b[2 q"sv, "\x1b[?1c"sv, "\x1b[1;2;3;4;5$x"sv,
           "\xc3\xa9 \xe2\x9b\x84 \xe2\x82\xac \xf0\x9f\x9b\x91 \xc2\xa0\xc2\xa9"sv, "\xff\xfe\xc2z"sv})
    for (const size_t piece : {1u, 2u, 100u}) EXPECT_EQ(shown(text, nullptr, piece), text);
}

TEST(TerminalQueries, modes_in_which_a_terminal_talks_are_not_entered) {
  EXPECT_EQ(shown("\x1b[?1000h\x1b[?1006;1004hx"), "x");
  EXPECT_EQ(shown("\x1b[?1049;1002;25h"), "\x1b[?1049;25h");
}

TEST(TerminalQueries, controls_within_a_sequence_are_obeyed_and_do_not_hide_it) {
  EXPECT_EQ(shown("a\x1b[\r\n6\x05nb"), "a\r\nb");
  EXPECT_EQ(shown("a\x1b[6\x18nb"), "anb");        // cancelled
  EXPECT_EQ(shown("a\x1b[1\x1b[6nb"), "ab");       // begun again
  EXPECT_EQ(shown("a\x1b]0;t\x1b[6nb"), "ab");      // a string that a sequence ends
  EXPECT_EQ(shown("a\x1bPx\x1b[6nb"), "ab");
  EXPECT_EQ(shown("a\x1bPtmux;\x1b\x1b[6n\x1b\\b"), "a\x1b\\b");
}

TEST(TerminalQueries, unfinished_and_endless_sequences_are_not_shown) {
  uint64_t seen = 0;
  EXPECT_EQ(shown("end\x1b[6", &seen), "end");
  EXPECT_EQ(seen, 0u);
  EXPECT_EQ(shown("a\x1b[" + std::string(100'000, '1') + "nb", &seen), "ab");
  EXPECT_EQ(seen, 1u);
  EXPECT_EQ(shown("a\x1b]11;" + std::string(100'000, 'x') + ";?\x07" "b"), "ab");
}

}  // namespace
}  // namespace retrovisor
