// The tool's JSON as its readers get it: whatever a name in a trace holds, every document and every line can be parsed.
#include "cli/json.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/commands.h"
#include "tests/unit/traces/trace_files.h"

namespace retrovisor::cli {
namespace {

const std::string kReplaced = "\xef\xbf\xbd";  // U+FFFD

TEST(Json, numbers_stay_whole_and_in_order) {
  const Json out = {{"z", UINT64_MAX}, {"a", INT64_MIN}, {"m", std::numeric_limits<double>::infinity()}, {"digest", json_hex(0x1f)}};
  EXPECT_EQ(json_text(out), "{\n  \"z\": 18446744073709551615,\n  \"a\": -9223372036854775808,\n  \"m\": null,\n"
                            "  \"digest\": \"0x000000000000001f\"\n}\n");
}

TEST(Json, a_line_stays_one_line) {
  EXPECT_EQ(json_line({{"text", "a\nb\r\x01"}, {"list", {1, 2}}}), "{\"text\":\"a\\nb\\r\\u0001\",\"list\":[1,2]}\n");
}

TEST(Json, hostile_bytes_become_valid_utf8) {
  for (const char* bytes : {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "ok\xe2\x82", "\xf0\x9f\x90"}) {
    for (const std::string& text : {json_text({{"value", bytes}}), json_line({{bytes, "in a key"}})}) {
      EXPECT_TRUE(Json::accept(text)) << text;
      EXPECT_NE(text.find(kReplaced), std::string::npos) << text;
    }
  }
  const std::string good = "gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\xa7 \"\\";
  EXPECT_EQ(Json::parse(json_text({{"value", good}}))["value"], good);
}

std::string run_trace(const std::string& command, const std::string& path) {
  CLI::App app;
  Action action;
  add_trace(app, action);
  app.parse("trace " + command + " --json " + path);
  testing::internal::CaptureStdout();
  EXPECT_EQ(action(), 0);
  return testing::internal::GetCapturedStdout();
}

std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

TEST(TraceReports, names_of_hostile_headers_cannot_break_them) {
  TempFile file;
  TraceHeader header = test_header();
  header.command_line = "\xff\"}\n";
  header.images[0].name = "/\xc3";
  header.options = {{"", "no name"}, {"twice", "first"}, {"twice", "\xed\xa0\x80"}, {"\xfe", "\t"}, {"__proto__", "{}"}};
  auto writer = TraceWriter::create(file.path(), header);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->end(Position(1), {StopReason::debug_exit, UINT64_MAX}, {1, 2, UINT64_MAX}, false, {}).ok());

  const Json info = Json::parse(run_trace("info", file.path()));
  EXPECT_EQ(info["header"]["command_line"], kReplaced + "\"}\n");
  EXPECT_EQ(info["header"]["images"][0]["name"], "/" + kReplaced);
  const Json& options = info["header"]["options"];
  EXPECT_EQ(options[""], "no name");
  EXPECT_EQ(options["twice"], kReplaced + kReplaced + kReplaced);
  EXPECT_EQ(options[kReplaced], "\t");
  EXPECT_EQ(options["__proto__"], "{}");
  EXPECT_EQ(info["end"]["detail"], UINT64_MAX);
  EXPECT_EQ(info["end"]["devices"], "0xffffffffffffffff");
}

TEST(TraceReports, say_of_a_trace_what_is_in_it_in_their_order) {
  TempFile file;
  const std::vector<TraceItem> items = write_sample(file.path());
  const Json info = Json::parse(run_trace("info", file.path()));
  EXPECT_EQ(keys_of(info), (std::vector<std::string>{"trace", "file_size", "complete", "state", "instructions",
                                                     "log_size", "bytes_per_million_instructions", "header", "chunks", "whole_size",
                                                     "torn_bytes", "digests", "key_frames", "events", "end"}));
  EXPECT_EQ(info["header"]["images"].size(), 2U);
  EXPECT_EQ(info["header"]["seed"], 7);
  EXPECT_FALSE(info["header"].contains("rtc"));
  EXPECT_EQ(info["key_frames"]["count"], 1);
  EXPECT_EQ(info["digests"], 3);
  EXPECT_EQ(info["complete"], true);
  EXPECT_EQ(keys_of(Json::parse(run_trace("verify", file.path()))),
            (std::vector<std::string>{"trace", "ok", "complete", "state", "instructions", "events", "digests", "file_size", "whole_size"}));

  std::istringstream dump(run_trace("dump", file.path()));
  size_t lines = 0;
  for (std::string text; std::getline(dump, text); ++lines) {
    const Json line = Json::parse(text);
    EXPECT_EQ(keys_of(line)[0], "position");
    ASSERT_LT(lines, items.size());
    if (const auto* event = std::get_if<TraceEvent>(&items[lines])) {
      EXPECT_EQ(line["kind"], to_string(event->event.kind));
      EXPECT_EQ(line["b"], json_hex(event->event.b));
      EXPECT_EQ(line.contains("data"), !event->data.empty());
    }
  }
  EXPECT_EQ(lines, items.size());
}

}  // namespace
}  // namespace retrovisor::cli
