// What this host's KVM can do, each found out by running a guest of a few instructions (tiny_guest.h) under a time limit;
// for `retrovisor doctor` and for the choice of an engine. Asks the host and nothing else: no machine's state depends on it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/kvm/kvm_api.h"
#include "vmm/kvm/progress_counter.h"

namespace retrovisor::kvm {

// Asked so that "yes" is what an engine and a recording want.
enum class Question : uint8_t {
  ring0_native,          // guest kernels run on the CPU, not in KVM's emulator
  ring3_native,          // the same of guest user space
  syscall_enters_ring0,  // SYSCALL in user space does what it should
  int_n_ring3,           // so do INT n, and INT3 in 32-bit code
  ldt_code,              // IRETQ goes to a code segment of the LDT
  iret_nulls_selectors,  // IRETQ to ring 3 empties DS, ES, FS, GS if they are the kernel's
  ring3_sees_itself,     // DS and RFLAGS.IF read in ring 3 are what they are
  compat_instructions,   // what only 32-bit code has runs in compatibility mode: AAA, DAA, BOUND, ARPL and so on
  x87_pointers,          // FIP, FDP, FOP are what the soft engine has for this host's processor, at any time
  rep_single_step,          // single steps stop behind each iteration of REP, with RF as this host's processor has it
  wrmsr_checked,         // WRMSR of values that no processor takes comes to user space or is #GP
  cpuid_holds_ring0,     // CPUID in ring 0 shows the table of KVM_SET_CPUID2
  cpuid_holds_ring3,
  user_rdtsc_traps,  // RDTSC in ring 3 raises #GP with CR4.TSD set behind the guest's back
  rdrand_hidden,     // RDRAND raises #UD when CPUID does not show it
  tsc_msr_traps,     // RDMSR of IA32_TSC comes to user space
  breakpoint_ring0,  // hardware execution breakpoint, KVM_GUESTDBG_USE_HW_BP
  breakpoint_ring3,
  step_ring0,  // KVM_GUESTDBG_SINGLESTEP
  step_ring3,
  int3_exits_ring0,  // a breakpoint instruction comes to user space, as KVM_EXIT_DEBUG or as an emulation failure
  int3_exits_ring3,
  progress_exact,  // some ProgressCounter counts a known stretch of code exactly, each time
  dirty_log,       // KVM_GET_DIRTY_LOG names exactly the pages written
  dirty_ring,      // KVM_CAP_DIRTY_LOG_RING is there
};
inline constexpr size_t kQuestions = 25;

enum class Answer : uint8_t { unknown, no, yes };
std::string_view to_string(Answer answer);

std::string_view key(Question question);      // "ring0_native"
std::string_view subject(Question question);  // "ring 0 runs natively"
// What the answer means for `--engine=kvm`.
std::string_view meaning(Question question, Answer answer);

struct Finding {
  Answer answer = Answer::unknown;
  std::string seen;  // what was measured or happened
};

struct KvmProbe {
  // Why KVM cannot be used at all, and what to do about it; empty: it can.
  std::string problem;
  bool hardware = false;  // the CPU shows vmx or svm: KVM runs on it, and not nested in software
  HostCapabilities capabilities;
  std::array<Finding, kQuestions> findings;
  double ring0_per_second = 0, ring3_per_second = 0;  // instructions of a small loop
  ProgressKind progress = ProgressKind::none;
  bool x87_pointers_differ = false;   // FXSAVE shows others than the processor model has
  bool x87_pointers_dropped = false;  // HostQuirks::drops_fpu_pointers

  bool usable() const { return problem.empty(); }
  const Finding& operator[](Question question) const { return findings[static_cast<size_t>(question)]; }
  Finding& operator[](Question question) { return findings[static_cast<size_t>(question)]; }
  bool yes(Question question) const { return (*this)[question].answer == Answer::yes; }
};

// Takes about 0.2 s; at most about 2 s on a host where nothing works.
KvmProbe probe_kvm(const char* path = Kvm::kPath);

// The CPU's flags show vmx or svm (/proc/cpuinfo).
bool host_has_virtualization();

// --- What follows from it --------------------------------------------------------------------------------------------

// Something that a guest can see under kvm on this host and that a recording cannot hold, because it is nondeterministic or
// because KVM does it otherwise than a processor: the soft engine's replay then differs.
struct Hole {
  std::string what;  // "RDTSC in programs"
  std::string detail;
  bool in_programs = false;  // and nowhere else: none where the soft engine runs them (Share::kernel_only)
  bool acceptable = false;  // a well-behaved guest never comes there, or the digests of a replay show it at once
};
// What the engine makes of what the host offers. A trap that it does not use leaves its hole open.
struct EngineAbilities {
  bool patches_kernel_code = true;   // CodePatches over the guest's kernel
  bool traps_user_rdtsc = true;      // CR4.TSD behind the guest's back, and the #GP that comes of it (UserTsc)
  bool tried_on_hardware = false;    // on VT-x or AMD-V, by us
};
inline constexpr EngineAbilities kEngineAbilities{};  // those of this build

std::vector<Hole> determinism_holes(const KvmProbe& probe, EngineAbilities engine = kEngineAbilities);

struct EngineChoice {
  bool kvm = false;                  // otherwise soft
  std::vector<std::string> reasons;  // why not kvm, each a clause; or the one reason for it
};
// What --engine=auto takes: kvm where ring 0 runs natively and whatever is nondeterministic is trapped or acceptable.
EngineChoice choose_engine(const KvmProbe& probe, EngineAbilities engine = kEngineAbilities);

}  // namespace retrovisor::kvm
