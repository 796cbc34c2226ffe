// What the answers of probe.cc mean: names and meanings for reports, the holes of a recording, the choice of an engine.
#include <fmt/format.h>

#include "vmm/kvm/probe.h"

namespace retrovisor::kvm {
namespace {

struct Words {
  Question question;
  std::string_view key, subject, yes, no;
};

constexpr Words kWords[] = {
    {Question::ring0_native, "ring0_native", "ring 0 runs natively", "guest kernels run at the CPU's speed",
     "guest kernels are emulated by KVM, slower than by the soft engine"},
    {Question::ring3_native, "ring3_native", "ring 3 runs natively", "guest programs run at the CPU's speed",
     "guest programs are emulated by KVM"},
    {Question::syscall_enters_ring0, "syscall_enters_ring0", "SYSCALL enters ring 0", "64-bit system calls work",
     "no 64-bit Linux user space; guests enter their kernel by exceptions only"},
    {Question::int_n_ring3, "int_n_ring3", "INT n enters ring 0", "32-bit system calls and breakpoints work",
     "programs that use INT 80h, or INT3 in 32-bit code, get #UD or the like instead"},
    {Question::ldt_code, "ldt_code", "IRETQ to code of the LDT", "programs may have code segments of their own",
     "programs with code segments of their own do not run"},
    {Question::iret_nulls_selectors, "iret_nulls_selectors", "IRETQ empties selectors", "programs do not see the kernel's selectors",
     "programs see selectors that a processor would have emptied"},
    {Question::ring3_sees_itself, "ring3_sees_itself", "ring 3 sees its own state", "selectors and flags read as they are",
     "programs that read DS or RFLAGS.IF see this KVM's own, and store them"},
    {Question::compat_instructions, "compat_instructions", "32-bit ring 3 is complete", "BCD arithmetic, BOUND, ARPL, INTO run",
     "32-bit programs get #UD at instructions that are there"},
    {Question::x87_pointers, "x87_pointers", "x87 pointers can be told", "FIP, FDP and FOP are replayed by every engine",
     "programs that store FIP, FDP or FOP are not always replayed exactly"},
    {Question::rep_single_step, "rep_single_step", "single steps through REP", "each iteration is one, with the processor's RF",
     "traps inside string instructions come elsewhere than in the replay, or push another RF"},
    {Question::wrmsr_checked, "wrmsr_checked", "WRMSR checks values", "KVM refuses what a processor refuses",
     "such writes come to the engine, which checks them"},
    {Question::cpuid_holds_ring0, "cpuid_holds_ring0", "CPUID holds in ring 0", "the kernel sees the CPU model",
     "the kernel sees features of the host: it may use what the soft engine does not know"},
    {Question::cpuid_holds_ring3, "cpuid_holds_ring3", "CPUID holds in ring 3", "programs see the CPU model",
     "programs see the host's features, and take other paths on another host"},
    {Question::user_rdtsc_traps, "user_rdtsc_traps", "user RDTSC can be trapped", "its value can come from the recording",
     "programs that read the TSC are not recorded exactly"},
    {Question::rdrand_hidden, "rdrand_hidden", "RDRAND can be hidden", "no program gets numbers that are not recorded",
     "programs that use RDRAND without asking CPUID are not recorded exactly"},
    {Question::tsc_msr_traps, "tsc_msr_traps", "the TSC's MSR can be trapped", "its value comes from the recording",
     "a kernel that reads it is not recorded exactly"},
    {Question::breakpoint_ring0, "breakpoint_ring0", "hardware breakpoints, ring 0",
     "an interrupt's point in the kernel is found at full speed", "such a point is found by the soft engine"},
    {Question::breakpoint_ring3, "breakpoint_ring3", "hardware breakpoints, ring 3",
     "an interrupt's point in a program is found at full speed", "such a point is found by the soft engine"},
    {Question::step_ring0, "step_ring0", "single steps, ring 0", "the last stretch to a point can be stepped",
     "the last stretch is the soft engine's"},
    {Question::step_ring3, "step_ring3", "single steps, ring 3", "the last stretch to a point can be stepped",
     "the last stretch is the soft engine's"},
    {Question::int3_exits_ring0, "int3_exits_ring0", "INT3 exits from ring 0", "RDTSC in the kernel can be patched",
     "RDTSC in the kernel cannot be patched"},
    {Question::int3_exits_ring3, "int3_exits_ring3", "INT3 exits from ring 3", "code of programs can be patched",
     "code of programs is not patched"},
    {Question::progress_exact, "progress_exact", "an exact progress counter", "an interrupt's point is known by number",
     "an interrupt's point is known by registers and stack only"},
    {Question::dirty_log, "dirty_log", "an exact dirty log", "digests cost what was written",
     "digests cannot tell which pages were written"},
    {Question::dirty_ring, "dirty_ring", "a dirty ring", "not used; the log suffices", "not used; the log suffices"},
};
static_assert(std::size(kWords) == kQuestions);

const Words& words(Question question) {
  const Words& w = kWords[static_cast<size_t>(question)];
  RV_ASSERT(w.question == question);
  return w;
}

}  // namespace

std::string_view to_string(Answer answer) {
  switch (answer) {
    case Answer::unknown: return "unknown";
    case Answer::no: return "no";
    case Answer::yes: return "yes";
  }
  return "?";
}

std::string_view key(Question question) { return words(question).key; }
std::string_view subject(Question question) { return words(question).subject; }
std::string_view meaning(Question question, Answer answer) {
  if (answer == Answer::unknown) return "treated as no";
  return answer == Answer::yes ? words(question).yes : words(question).no;
}

std::vector<Hole> determinism_holes(const KvmProbe& probe, EngineAbilities engine) {
  std::vector<Hole> holes;
  if (!probe.usable()) return holes;
  const auto hole = [&](const char* what, const char* detail, bool acceptable = false) {
    holes.push_back({what, detail, std::string_view(what).ends_with("in programs"), acceptable});
  };
  const bool patched = probe.yes(Question::int3_exits_ring0) && engine.patches_kernel_code;
  if (!probe.yes(Question::int3_exits_ring0))
    hole("RDTSC in the kernel", "no breakpoint in guest code comes to user space, so it cannot be patched");
  else if (!patched)
    hole("RDTSC in the kernel", "could be patched here, but this build's engine does not");
  else
    hole("RDTSC in the kernel", "trapped in code that was known when it was patched, not in modules", true);
  if (!probe.yes(Question::user_rdtsc_traps))
    hole("RDTSC in programs", "reads the host's counter, also through the vDSO");
  else if (!engine.traps_user_rdtsc)
    hole("RDTSC in programs", "could be trapped here, but this build's engine does not");
  else
    hole("RDTSC in programs", "trapped under a 64-bit kernel in the upper half of the address space, not before or elsewhere", true);
  if (!probe.yes(Question::tsc_msr_traps)) hole("RDMSR of the TSC", "reads a counter of the host");
  // What is done otherwise than by a processor, and so than by the soft engine.
  if (!probe.yes(Question::syscall_enters_ring0)) hole("SYSCALL in programs", "does not enter the kernel as a processor does");
  if (!probe.yes(Question::int_n_ring3)) hole("INT n in programs", "does not enter the kernel: #UD, or a triple fault, instead");
  if (!probe.yes(Question::ldt_code)) hole("LDT code in programs", "IRETQ to a code segment of the LDT does not go there");
  if (!probe.yes(Question::iret_nulls_selectors))
    hole("selectors in programs", "IRETQ leaves the kernel's in DS, ES, FS and GS, which a processor empties");
  if (!probe.yes(Question::ring3_sees_itself)) hole("DS and RFLAGS in programs", "read as this KVM's own, not as the guest's");
  if (!probe.yes(Question::compat_instructions))
    hole("32-bit code in programs", "some instructions raise #UD: AAA, DAA, BOUND and the like (see compat_instructions)");
  if (!probe.yes(Question::x87_pointers)) {
    // What a thread switch on the host drops shows in what is stored, so the digests tell.
    const bool dropped = probe.x87_pointers_dropped && !probe.x87_pointers_differ;
    hole("x87 pointers", dropped ? "FNSTENV and FNSAVE show zero for FIP, FDP and FOP where the host has switched threads since"
                                 : "FIP, FDP or FOP are stored otherwise than the soft engine does for this processor",
         dropped);
  }
  if (!probe.yes(Question::rep_single_step))
    hole("single steps through REP", "#DB comes behind other iterations than a processor's, or pushes another RF, where KVM emulates the instruction");
  if (!probe.yes(Question::cpuid_holds_ring0))
    hole("CPUID in the kernel", patched ? "shows features of the host where it is not patched: as RDTSC, and in 32-bit code"
                                        : "shows features of the host");
  if (!probe.yes(Question::cpuid_holds_ring3)) hole("CPUID in programs", "shows features of the host");
  if (!probe.yes(Question::rdrand_hidden))
    hole("RDRAND and RDSEED", "give the host's random numbers to who uses them without asking CPUID", true);
  return holes;
}

EngineChoice choose_engine(const KvmProbe& probe, EngineAbilities engine) {
  EngineChoice choice;
  const auto against = [&](std::string reason) { choice.reasons.push_back(std::move(reason)); };
  if (!probe.usable()) {
    against(probe.problem);
    return choice;
  }
  for (const HostCapabilities::Found& found : probe.capabilities.found)
    if (found.capability->required && !found.enough()) against(fmt::format("KVM lacks {}", found.capability->name));
  for (const Question needed :
       {Question::ring0_native, Question::ring3_native, Question::dirty_log})
    if (!probe.yes(needed)) against(std::string(meaning(needed, Answer::no)));
  for (const Hole& hole : determinism_holes(probe, engine))
    if (!hole.acceptable) against(fmt::format("{}: {}", hole.what, hole.detail));
  if (!engine.tried_on_hardware) against("this engine has not been tried on hardware yet; ask for it with --engine=kvm");
  choice.kvm = choice.reasons.empty();
  if (choice.kvm) against("guests run on the CPU, and what they can see of the host is trapped");
  return choice;
}

}  // namespace retrovisor::kvm
