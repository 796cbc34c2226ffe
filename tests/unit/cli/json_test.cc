#include "cli/json.h"

#include <gtest/gtest.h>

#include <limits>

namespace retrovisor::cli {
namespace {

TEST(Json, nests_objects_and_arrays) {
  Json out(false);
  out.object().put("a", 1).put("b", true).array("c").put("", "x").put("", 2.5).end().object("d").end().end();
  EXPECT_EQ(out.text(), "{\"a\": 1, \"b\": true, \"c\": [\"x\", 2.5], \"d\": {}}\n");
}

TEST(Json, indents_by_depth) {
  Json out;
  out.object().object("a").hex("b", 0x1f).end().end();
  EXPECT_EQ(out.text(), "{\n  \"a\": {\n    \"b\": \"0x000000000000001f\"\n  }\n}\n");
}

TEST(Json, keeps_numbers_whole) {
  Json out(false);
  out.object().put("big", UINT64_MAX).put("low", INT64_MIN).put("none", std::numeric_limits<double>::infinity()).end();
  EXPECT_EQ(out.text(), "{\"big\": 18446744073709551615, \"low\": -9223372036854775808, \"none\": null}\n");
}

std::string quoted(std::string_view text) {
  Json out(false);
  out.array().put("", text).end();
  return out.text().substr(1, out.text().size() - 3);
}

TEST(Json, escapes_what_json_cannot_hold) {
  EXPECT_EQ(quoted("a\"b\\c\n\x01"), "\"a\\\"b\\\\c\\u000a\\u0001\"");
  EXPECT_EQ(quoted("gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\xa7"), "\"gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\xa7\"");
}

TEST(Json, hostile_bytes_become_valid_utf8) {
  const std::string replacement = "\xef\xbf\xbd";
  EXPECT_EQ(quoted("\xff"), "\"" + replacement + "\"");
  EXPECT_EQ(quoted("\xc3"), "\"" + replacement + "\"");
  EXPECT_EQ(quoted("\xc0\x80"), "\"" + replacement + replacement + "\"");                    // overlong
  EXPECT_EQ(quoted("\xed\xa0\x80"), "\"" + replacement + replacement + replacement + "\"");  // surrogate
  EXPECT_EQ(quoted("\xf4\x90\x80\x80"), "\"" + replacement + replacement + replacement + replacement + "\"");
}

}  // namespace
}  // namespace retrovisor::cli
