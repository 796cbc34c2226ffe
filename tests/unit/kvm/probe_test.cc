#include "vmm/kvm/probe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <set>

#include "vmm/cpu/msr.h"
#include "vmm/kvm/host_quirks.h"
#include "vmm/kvm/tiny_guest.h"

namespace retrovisor::kvm {
namespace {

// A host on which everything is as an engine wants it.
KvmProbe good_host() {
  KvmProbe probe;
  probe.hardware = true;
  for (Finding& finding : probe.findings) finding = {Answer::yes, ""};
  return probe;
}

constexpr EngineAbilities kAll{.patches_kernel_code = true, .traps_user_rdtsc = true, .tried_on_hardware = true};  // an engine that uses every trap

TEST(Words, every_question_has_its_own_key_and_something_to_say) {
  std::set<std::string_view> keys;
  for (size_t i = 0; i < kQuestions; ++i) {
    const auto question = static_cast<Question>(i);
    EXPECT_TRUE(keys.insert(key(question)).second) << key(question);
    EXPECT_FALSE(subject(question).empty());
    for (const Answer answer : {Answer::yes, Answer::no, Answer::unknown}) EXPECT_FALSE(meaning(question, answer).empty());
  }
}

TEST(Choice, is_kvm_where_everything_is_there) {
  const EngineChoice choice = choose_engine(good_host(), kAll);
  EXPECT_TRUE(choice.kvm);
  EXPECT_EQ(choice.reasons.size(), 1U);
}

TEST(Choice, is_soft_without_kvm_and_says_why) {
  KvmProbe probe;
  probe.problem = "there is no /dev/kvm";
  const EngineChoice choice = choose_engine(probe, kAll);
  EXPECT_FALSE(choice.kvm);
  EXPECT_EQ(choice.reasons, (std::vector<std::string>{"there is no /dev/kvm"}));
  EXPECT_TRUE(determinism_holes(probe, kAll).empty());
}

TEST(Choice, is_soft_if_one_thing_is_missing_that_a_guest_or_a_recording_needs) {
  for (const Question question : {Question::ring0_native, Question::ring3_native, Question::syscall_enters_ring0,
                                  Question::cpuid_holds_ring0, Question::cpuid_holds_ring3, Question::user_rdtsc_traps,
                                  Question::tsc_msr_traps, Question::int3_exits_ring0, Question::dirty_log, Question::int_n_ring3,
                                  Question::ldt_code, Question::iret_nulls_selectors, Question::ring3_sees_itself,
                                  Question::compat_instructions, Question::x87_pointers, Question::rep_single_step}) {
    for (const Answer answer : {Answer::no, Answer::unknown}) {
      KvmProbe probe = good_host();
      probe[question].answer = answer;
      const EngineChoice choice = choose_engine(probe, kAll);
      EXPECT_FALSE(choice.kvm) << key(question);
      EXPECT_EQ(choice.reasons.size(), 1U) << key(question);
    }
  }
}

TEST(Choice, is_still_kvm_where_the_soft_engine_can_help_out) {
  for (const Question question :
       {Question::breakpoint_ring0, Question::breakpoint_ring3, Question::step_ring0, Question::step_ring3,
        Question::int3_exits_ring3, Question::progress_exact, Question::dirty_ring, Question::rdrand_hidden,
        Question::wrmsr_checked}) {
    KvmProbe probe = good_host();
    probe[question].answer = Answer::no;
    EXPECT_TRUE(choose_engine(probe, kAll).kvm) << key(question);
  }
}

TEST(Choice, is_soft_if_a_required_capability_is_missing) {
  KvmProbe probe = good_host();
  static constexpr Capability kNeeded{1, "KVM_CAP_NEEDED", true, 1, false, ""},
      kNice{2, "KVM_CAP_NICE", false, 1, false, ""};
  probe.capabilities.found = {{&kNeeded, 1}, {&kNice, 0}};
  EXPECT_TRUE(choose_engine(probe, kAll).kvm);
  probe.capabilities.found[0].value = 0;
  EXPECT_FALSE(choose_engine(probe, kAll).kvm);
}

TEST(Holes, name_what_can_be_seen_of_the_host) {
  const auto has = [](const KvmProbe& probe, std::string_view what) {
    const auto holes = determinism_holes(probe, kAll);
    return std::any_of(holes.begin(), holes.end(), [&](const Hole& h) { return h.what == what; });
  };
  KvmProbe probe = good_host();
  EXPECT_FALSE(has(probe, "RDMSR of the TSC"));
  probe[Question::tsc_msr_traps].answer = Answer::no;
  EXPECT_TRUE(has(probe, "RDMSR of the TSC"));
  probe[Question::rdrand_hidden].answer = Answer::unknown;
  EXPECT_TRUE(has(probe, "RDRAND and RDSEED"));
}

// What KVM does otherwise than the soft engine, which would replay it, is told beforehand.
TEST(Holes, name_what_is_not_done_as_a_processor_does_it) {
  EXPECT_EQ(determinism_holes(good_host(), kAll).size(), 2U) << "RDTSC in code that is not known";
  for (const Question question : {Question::syscall_enters_ring0, Question::int_n_ring3, Question::ldt_code, Question::iret_nulls_selectors,
                                  Question::ring3_sees_itself, Question::compat_instructions}) {
    KvmProbe probe = good_host();
    probe[question].answer = Answer::no;
    const auto holes = determinism_holes(probe, kAll);
    EXPECT_EQ(std::count_if(holes.begin(), holes.end(), [](const Hole& h) { return h.in_programs && !h.acceptable; }), 1) << key(question);
  }
}

TEST(Holes, x87_pointers_that_thread_switches_drop_are_told_and_no_reason_against_kvm) {
  KvmProbe probe = good_host();
  probe[Question::x87_pointers].answer = Answer::no;
  probe.x87_pointers_dropped = true;
  EXPECT_TRUE(choose_engine(probe, kAll).kvm);
  EXPECT_EQ(determinism_holes(probe, kAll).size(), determinism_holes(good_host(), kAll).size() + 1);
  probe.x87_pointers_differ = true;
  EXPECT_FALSE(choose_engine(probe, kAll).kvm);
}

TEST(Holes, rf_inside_rep_is_one_of_kernels_too) {
  KvmProbe probe = good_host();
  probe[Question::rep_single_step].answer = Answer::no;
  const auto holes = determinism_holes(probe, kAll);
  ASSERT_EQ(holes.size(), determinism_holes(good_host(), kAll).size() + 1);
  EXPECT_TRUE(std::any_of(holes.begin(), holes.end(), [](const Hole& h) { return h.what == "single steps through REP" && !h.in_programs; }));
}

TEST(Holes, stay_open_where_the_engine_does_not_use_the_trap) {
  EngineAbilities less = kAll;
  less.patches_kernel_code = false;
  EXPECT_FALSE(choose_engine(good_host(), less).kvm);
  less = kAll;
  less.traps_user_rdtsc = false;
  EXPECT_FALSE(choose_engine(good_host(), less).kvm);
}

TEST(Choice, is_soft_while_nobody_has_tried_hardware) {
  EngineAbilities untried = kAll;
  untried.tried_on_hardware = false;
  EXPECT_FALSE(choose_engine(good_host(), untried).kvm);
}

TEST(Probe, says_what_to_do_without_the_device) {
  const KvmProbe probe = probe_kvm("/nonexistent/kvm");
  EXPECT_FALSE(probe.usable());
  EXPECT_NE(probe.problem.find("/nonexistent/kvm"), std::string::npos) << probe.problem;
  EXPECT_FALSE(choose_engine(probe, kAll).kvm);
}

TEST(Probe, refuses_a_device_that_is_no_kvm) {
  const KvmProbe probe = probe_kvm("/dev/null");
  EXPECT_FALSE(probe.usable());
}

class OnKvm : public testing::Test {
 protected:
  void SetUp() override {
    auto kvm = Kvm::open();
    if (!kvm) GTEST_SKIP() << kvm.error().text();
    kvm_.emplace(std::move(*kvm));
  }
  std::unique_ptr<TinyGuest> guest() {
    auto made = TinyGuest::create(*kvm_, tiny_cpuid());
    EXPECT_TRUE(made.ok()) << made.error().text();
    return made.ok() ? std::move(*made) : nullptr;
  }
  TinyGuest::End run(TinyGuest::Ring ring, const std::vector<uint8_t>& code, int ms = 100) {
    const auto g = guest();
    if (!g) return {};
    EXPECT_TRUE(g->load(ring, code).ok());
    const auto end = g->run(std::chrono::milliseconds(ms));
    EXPECT_TRUE(end.ok());
    return end.ok() ? *end : TinyGuest::End{};
  }
  std::optional<Kvm> kvm_;
};

using Kind = TinyGuest::End::Kind;
using Ring = TinyGuest::Ring;

TEST_F(OnKvm, tiny_guest_ends_as_its_code_says) {
  EXPECT_EQ(run(Ring::kernel, {0x90}).kind, Kind::halted);
  const auto undefined = run(Ring::kernel, {0x0f, 0x0b});
  EXPECT_EQ(undefined.kind, Kind::exception);
  EXPECT_EQ(undefined.vector, 6);
  const auto privileged = run(Ring::user, {0xf4});
  EXPECT_EQ(privileged.kind, Kind::exception) << "HLT in ring 3 is #GP";
  EXPECT_EQ(privileged.vector, 13);
  const auto divide = run(Ring::user, {0x31, 0xc9, 0xf7, 0xf1});  // xor ecx, ecx; div ecx
  EXPECT_EQ(divide.kind, Kind::exception);
  EXPECT_EQ(divide.vector, 0);
}

TEST_F(OnKvm, endless_loops_end_in_both_rings_and_leave_no_signal_behind) {
  for (const Ring ring : {Ring::kernel, Ring::user}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(run(ring, {0xeb, 0xfe}, 5).kind, Kind::time_limit);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  }
  sigset_t pending;
  sigpending(&pending);
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) EXPECT_FALSE(sigismember(&pending, signal));
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_FALSE(sigismember(&blocked, SIGRTMIN + 5));
}

TEST_F(OnKvm, probe_answers_every_question_in_time_and_twice_alike) {
  const auto start = std::chrono::steady_clock::now();
  const KvmProbe first = probe_kvm();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  ASSERT_TRUE(first.usable()) << first.problem;
  const KvmProbe second = probe_kvm();
  for (size_t i = 0; i < kQuestions; ++i) {
    const auto question = static_cast<Question>(i);
    EXPECT_NE(first[question].answer, Answer::unknown) << key(question) << ": " << first[question].seen;
    EXPECT_FALSE(first[question].seen.empty()) << key(question);
    EXPECT_EQ(first[question].answer, second[question].answer) << key(question);
  }
  EXPECT_EQ(first.yes(Question::progress_exact), first.progress != ProgressKind::none);
  EXPECT_GT(first.ring0_per_second, 1e4);
  EXPECT_GT(first.ring3_per_second, 1e4);
  EXPECT_EQ(first.hardware, host_has_virtualization());
  if (first.hardware) {  // a processor does it
    for (const Question question : {Question::int_n_ring3, Question::ldt_code, Question::iret_nulls_selectors, Question::ring3_sees_itself,
                                    Question::compat_instructions})
      EXPECT_TRUE(first.yes(question)) << key(question) << ": " << first[question].seen;
  }
}

TEST_F(OnKvm, tiny_guest_has_what_the_probes_of_programs_use) {
  // One program of each kind that runs everywhere, to its HLT.
  for (const Ring ring : {Ring::user, Ring::compatibility}) {
    const auto g = guest();
    ASSERT_TRUE(g && g->load(ring, std::vector<uint8_t>{0xb8, 0x78, 0x56, 0x34, 0x12, 0xa3, 0x00, 0x00, 0x02, 0x00, 0, 0, 0, 0}).ok());
    const auto end = g->run(std::chrono::milliseconds(100));  // mov eax, 12345678h; mov [20000h], eax
    ASSERT_TRUE(end.ok());
    EXPECT_EQ(end->kind, Kind::exception);
    EXPECT_EQ(g->peek(TinyGuest::kData), 0x12345678u);
    EXPECT_GT(g->fault_rip(), TinyGuest::kCode + 5);
  }
}

TEST_F(OnKvm, probed_msr_values_are_those_that_our_own_check_refuses) {
  // The same values by the CPU model: SYSENTER_EIP non-canonical and so on. What this host's KVM takes is among them.
  const auto unchecked = unchecked_msrs(*kvm_, msrs_kept_by_cpu());
  ASSERT_TRUE(unchecked.ok()) << unchecked.error().text();
  for (const uint32_t index : *unchecked) EXPECT_TRUE(msr_kept_by_cpu(index)) << std::hex << index;
  EXPECT_TRUE(unchecked_msrs(*kvm_, {}).value().empty());
}

}  // namespace
}  // namespace retrovisor::kvm
