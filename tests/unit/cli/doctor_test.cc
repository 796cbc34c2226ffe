// `retrovisor doctor` as a user sees it, on whatever host the tests run.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json.h"
#include "cli/setup.h"
#include "vmm/kvm/probe.h"

namespace retrovisor::cli {
namespace {

struct Ran {
  int code = -1;
  std::string out;
};

Ran run_doctor(const std::string& options) {
  CLI::App app;
  Action action;
  add_doctor(app, action);
  app.parse("doctor " + options);
  if (!action) return {};
  testing::internal::CaptureStdout();
  const int code = action();
  return {code, testing::internal::GetCapturedStdout()};
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(Doctor, tells_of_the_host_the_engines_and_the_choice_in_time) {
  const auto start = std::chrono::steady_clock::now();
  const Ran ran = run_doctor("");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));  // 1 s on an idle host
  EXPECT_EQ(ran.code, 0);
  for (const char* line : {"retrovisor ", "host CPU", "/dev/kvm", "PMU", "engine soft", "engine kvm", "auto takes"})
    EXPECT_TRUE(has(ran.out, line)) << line << "\n" << ran.out;
}

TEST(Doctor, prints_every_question_with_what_it_means_where_kvm_can_be_used) {
  const kvm::KvmProbe probe = kvm::probe_kvm();
  const Ran ran = run_doctor("");
  if (!probe.usable()) {
    EXPECT_TRUE(has(ran.out, probe.problem)) << ran.out;
    return;
  }
  for (size_t i = 0; i < kvm::kQuestions; ++i) {
    const auto question = static_cast<kvm::Question>(i);
    EXPECT_TRUE(has(ran.out, subject(question)));
    EXPECT_TRUE(has(ran.out, meaning(question, probe[question].answer))) << key(question) << "\n" << ran.out;
  }
  for (const kvm::Hole& hole : determinism_holes(probe)) EXPECT_TRUE(has(ran.out, hole.what));
}

// Judged by what the report itself says of the host.
TEST(Doctor, auto_is_kvm_only_if_the_host_suits_it) {
  const Ran ran = run_doctor("--json");
  EXPECT_EQ(ran.code, 0);
  const Json report = Json::parse(ran.out);
  const Json& kvm = report["engines"]["kvm"];
  EXPECT_FALSE(kvm["reasons"].empty());
  EXPECT_EQ(report["auto"], kvm["recommended"] == true ? "kvm" : "soft");
  if (kvm["recommended"] == false) return;
  EXPECT_EQ(kvm["available"], true);
  for (const char* needed : {"ring0_native", "ring3_native", "dirty_log"})
    EXPECT_EQ(report["kvm"]["findings"][needed]["answer"], "yes") << needed;
  for (const Json& hole : report["kvm"]["holes"]) EXPECT_EQ(hole["acceptable"], true) << hole;
}

TEST(Doctor, json_holds_what_the_table_says) {
  const Json report = Json::parse(run_doctor("--json").out);
  EXPECT_TRUE(report["host"]["hardware_virtualization"].is_boolean());
  EXPECT_GT(report["engines"]["soft"]["million_instructions_per_second"], 0.0);
  EXPECT_TRUE(report["engines"]["kvm"]["reasons"].is_array());
  const kvm::KvmProbe probe = kvm::probe_kvm();
  EXPECT_EQ(report["kvm"]["usable"], probe.usable());
  if (!probe.usable()) return;
  EXPECT_EQ(report["kvm"]["findings"].size(), kvm::kQuestions);
  for (size_t i = 0; i < kvm::kQuestions; ++i)
    EXPECT_TRUE(report["kvm"]["findings"][std::string(key(static_cast<kvm::Question>(i)))].contains("seen"));
  EXPECT_EQ(report["kvm"]["capabilities"].size(), probe.capabilities.found.size());
}

}  // namespace
}  // namespace retrovisor::cli
