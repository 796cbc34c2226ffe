// `retrovisor doctor` as a user sees it, on whatever host the tests run.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/doctor.h"
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

// This build's engine has not been tried on hardware: whatever the host is.
TEST(Doctor, auto_is_soft_with_this_build) {
  const Ran ran = run_doctor("--json");
  EXPECT_EQ(ran.code, 0);
  EXPECT_TRUE(has(ran.out, "\"auto\": \"soft\"")) << ran.out;
  EXPECT_TRUE(has(run_doctor("").out, "auto takes   soft: "));
}

// A host on which everything is as an engine wants it, but for what `change` says.
EngineAdvice advice(const std::function<void(kvm::KvmProbe&, kvm::EngineAbilities&)>& change = {}) {
  kvm::KvmProbe probe;
  probe.hardware = true;
  for (kvm::Finding& finding : probe.findings) finding = {kvm::Answer::yes, ""};
  EngineAdvice out;
  out.abilities = {.patches_kernel_code = true, .traps_user_rdtsc = true, .tried_on_hardware = true};
  if (change) change(probe, out.abilities);
  out.probe = [probe] { return probe; };
  return out;
}

struct Host {
  const char* what;
  EngineAdvice advice;
  bool kvm;
};

std::vector<Host> hosts() {
  using kvm::Answer;
  using kvm::EngineAbilities;
  using kvm::KvmProbe;
  using kvm::Question;
  return {
      {"all there", advice(), true},
      {"no KVM", advice([](KvmProbe& p, EngineAbilities&) { p.problem = "there is no /dev/kvm"; }), false},
      {"emulated kernels", advice([](KvmProbe& p, EngineAbilities&) { p[Question::ring0_native].answer = Answer::no; }), false},
      {"not known to trap", advice([](KvmProbe& p, EngineAbilities&) { p[Question::user_rdtsc_traps].answer = Answer::unknown; }), false},
      {"steps are missing", advice([](KvmProbe& p, EngineAbilities&) { p[Question::step_ring0].answer = Answer::no; }), true},
      {"kernel code not patched", advice([](KvmProbe&, EngineAbilities& a) { a.patches_kernel_code = false; }), false},
      {"never tried", advice([](KvmProbe&, EngineAbilities& a) { a.tried_on_hardware = false; }), false},
  };
}

TEST(AutoEngine, is_what_doctor_says_on_every_host) {
  for (const Host& host : hosts()) {
    const std::string expected = host.kvm ? "kvm" : "soft";
    EXPECT_EQ(engine_named({}, {}, false, host.advice), expected) << host.what;
    testing::internal::CaptureStdout();
    EXPECT_EQ(doctor(true, host.advice), 0) << host.what;
    const std::string told = testing::internal::GetCapturedStdout();
    EXPECT_TRUE(has(told, "\"auto\": \"" + expected + "\"")) << host.what << "\n" << told;
  }
}

TEST(AutoEngine, is_soft_for_what_only_the_soft_engine_does) {
  GuestOptions guest, model, two;
  model.processor_model = "amd";
  two.vcpus = 2;
  LiveRunOptions live, deterministic, gdb;
  deterministic.deterministic = true;
  gdb.gdb = ":1234";
  EXPECT_EQ(engine_named(guest, live, false, advice()), "kvm");
  EXPECT_EQ(engine_named(model, live, false, advice()), "soft");
  EXPECT_EQ(engine_named(two, live, false, advice()), "soft");
  EXPECT_EQ(engine_named(guest, deterministic, false, advice()), "soft");
  EXPECT_EQ(engine_named(guest, gdb, false, advice()), "soft");
  EXPECT_EQ(engine_named(guest, live, true, advice()), "soft");
}

TEST(AutoEngine, leaves_other_names_and_asks_no_host_in_vain) {
  EngineAdvice nobody = advice([](kvm::KvmProbe&, kvm::EngineAbilities& a) { a.tried_on_hardware = false; });
  nobody.probe = []() -> kvm::KvmProbe {
    ADD_FAILURE() << "the host was asked";
    return {};
  };
  for (const std::string& name : kEngineNames) {
    GuestOptions guest;
    guest.engine = name;
    EXPECT_EQ(engine_named(guest, {}, false, nobody), name == "auto" ? "soft" : name);
  }
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
