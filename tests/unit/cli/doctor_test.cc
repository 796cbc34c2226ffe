// `retrovisor doctor` as a user sees it, on whatever host the tests run.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "cli/commands.h"
#include "cli/exit_codes.h"
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

TEST(Doctor, auto_is_kvm_only_if_the_host_suits_it) {
  const bool kvm = choose_engine(kvm::probe_kvm()).kvm;
  const Ran ran = run_doctor("--json");
  EXPECT_EQ(ran.code, 0);
  EXPECT_TRUE(has(ran.out, kvm ? "\"auto\": \"kvm\"" : "\"auto\": \"soft\"")) << ran.out;
}

TEST(Doctor, json_holds_what_the_table_says) {
  const Ran ran = run_doctor("--json");
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '{'), std::count(ran.out.begin(), ran.out.end(), '}'));
  for (const char* field :
       {"\"hardware_virtualization\":", "\"usable\":", "\"million_instructions_per_second\":", "\"reasons\":"})
    EXPECT_TRUE(has(ran.out, field)) << field << "\n" << ran.out;
  if (!kvm::probe_kvm().usable()) return;
  for (size_t i = 0; i < kvm::kQuestions; ++i)
    EXPECT_TRUE(has(ran.out, "\"" + std::string(key(static_cast<kvm::Question>(i))) + "\": {"));
}

}  // namespace
}  // namespace retrovisor::cli
