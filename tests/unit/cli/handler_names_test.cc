#include "cli/handler_names.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <regex>

namespace retrovisor::cli {
namespace {

TEST(HandlerNames, functions_are_short_and_enumerators_have_names) {
  EXPECT_EQ(short_function_name("_ZN10retrovisor4soft5op_rrILNS0_3AluE0EmEEvPNS0_7SoftCpuEPKNS0_2OpE"), "op_rr<add, unsigned long>");
  EXPECT_EQ(short_function_name("_ZN10retrovisor4soft5op_rrILNS0_3AluE7EhEEvPNS0_7SoftCpuEPKNS0_2OpE"), "op_rr<cmp, unsigned char>");
  EXPECT_EQ(short_function_name("_ZN10retrovisor4soft12_GLOBAL__N_15op_btILNS1_3BitE3EEEvPNS0_7SoftCpuEPKNS0_2OpE"), "op_bt<complement>");
  EXPECT_EQ(short_function_name("no_mangled_name"), "no_mangled_name");
}

// Of this program, which has all handlers in it.
TEST(HandlerNames, no_handler_has_an_enumerator_without_a_name) {
  const std::vector<std::string> all = HandlerNames().all();
  const auto handlers = std::count_if(all.begin(), all.end(), [](const std::string& n) { return n.starts_with("op_"); });
  if (all.empty()) GTEST_SKIP() << "stripped";
  EXPECT_GT(handlers, 1000);
  const std::regex cast("\\([A-Za-z0-9]+\\)[0-9]");
  for (const std::string& name : all)
    EXPECT_FALSE((name.starts_with("op_") || name.starts_with("exec_")) && std::regex_search(name, cast)) << name;
}

}  // namespace
}  // namespace retrovisor::cli
