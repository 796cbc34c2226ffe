#include "cli/suggest.h"

#include <gtest/gtest.h>

namespace retrovisor::cli {
namespace {

const std::vector<std::string> kNames = {"run", "record", "replay", "trace", "gdb", "symbols", "doctor"};

TEST(Suggest, letters_left_out_added_changed_or_swapped) {
  for (const char* word : {"recrod", "recod", "reccord", "rekord", "rec"}) {
    const auto near = near_names(word, kNames);
    ASSERT_FALSE(near.empty()) << word;
    EXPECT_EQ(near[0], "record") << word;
  }
  EXPECT_EQ(near_names("gbd", kNames), std::vector<std::string>{"gdb"});
  EXPECT_EQ(did_you_mean("re", kNames), "; did you mean record or replay?");
}

TEST(Suggest, what_is_near_to_nothing_gets_no_proposal) {
  for (const std::string& word : {std::string(), std::string("fly"), std::string("boot"), std::string(10'000, 'r')})
    EXPECT_EQ(did_you_mean(word, kNames), "") << word.substr(0, 20);
}

}  // namespace
}  // namespace retrovisor::cli
