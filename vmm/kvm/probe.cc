#include "vmm/kvm/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <sstream>

#include "vmm/kvm/probe_trial.h"
#include "vmm/kvm/tsc_trap.h"

namespace retrovisor::kvm {

Result<Trial> try_code(const Kvm& kvm, TinyGuest::Ring ring, std::span<const uint8_t> code, uint64_t cr4,
                       const kvm_guest_debug* debug) {
  RV_TRY(auto guest, TinyGuest::create(kvm, tiny_cpuid()));
  RV_TRY(guest->load(ring, code, cr4));
  if (debug != nullptr) RV_TRY(guest->vcpu().set_guest_debug(*debug));
  RV_TRY(const auto end, guest->run(kLimit));
  Trial trial{std::move(guest), end, {}};
  RV_TRY(trial.guest->vcpu().get_regs(trial.regs));
  return trial;
}

namespace {

using std::chrono::milliseconds;
using End = TinyGuest::End;
using Kind = End::Kind;
using Ring = TinyGuest::Ring;

constexpr milliseconds kSpeedTime{6};     // for measuring speed
constexpr milliseconds kCountLimit{200};  // for the counted stretches: thousands of instructions, emulated
// An emulator makes one or two million instructions a second, a CPU more than a thousand; between them is nothing.
constexpr double kNativeSpeed = 50e6;

const Code kUd2 = {0x0f, 0x0b};
constexpr uint8_t kInvalidOpcode = 6, kBreakpointVector = 3, kGeneralProtection = 13;

const char* name(Ring ring) { return ring == Ring::kernel ? "ring 0" : "ring 3"; }

// Instructions per second of "next: inc rcx; jmp next".
Result<double> measure_speed(const Kvm& kvm, Ring ring) {
  RV_TRY(auto guest, TinyGuest::create(kvm, tiny_cpuid()));
  const Code loop = {0x48, 0xff, 0xc1, 0xeb, 0xfb};
  RV_TRY(guest->load(ring, loop));
  for (const milliseconds time : {milliseconds(1), kSpeedTime}) {  // the first run pays for page faults
    kvm_regs before{}, after{};
    RV_TRY(guest->vcpu().get_regs(before));
    const auto start = std::chrono::steady_clock::now();
    const auto end = guest->run(time);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (!end) return end.error();
    if (end->kind != Kind::time_limit)
      return Error{ErrorCode::unsupported, "an endless loop ended: " + end->text(), name(ring)};
    RV_TRY(guest->vcpu().get_regs(after));
    if (time == kSpeedTime) return 2 * static_cast<double>(after.rcx - before.rcx) / took.count();
  }
  return 0.0;
}

Finding ask_speed(const Kvm& kvm, Ring ring, double& speed) {
  const auto measured = measure_speed(kvm, ring);
  if (!measured) return failed(measured.error());
  speed = *measured;
  return {answer(speed >= kNativeSpeed), fmt::format("{:.{}f} million instructions/s", speed / 1e6, speed < 100e6 ? 1 : 0)};
}

Finding ask_syscall(const Kvm& kvm) {
  const auto trial = try_code(kvm, Ring::user, Code{0x0f, 0x05});
  if (!trial) return failed(trial.error());
  if (trial->end.kind == Kind::exception && trial->end.vector == kGeneralProtection)
    return {Answer::no, "SYSCALL's handler runs in ring 3"};
  return {answer(trial->end.kind == Kind::syscall), trial->end.text()};
}

// CPUID leaf 1 against the table; what KVM and the APIC change by themselves is left out.
Finding ask_cpuid(const Kvm& kvm, Ring ring) {
  constexpr uint32_t kOsxsave = uint32_t{1} << 27, kApic = uint32_t{1} << 9, kEbxOwn = 0x00ffffff;
  Code code = {0xb8, 0x01, 0x00, 0x00, 0x00, 0x31, 0xc9, 0x0f, 0xa2};  // mov eax, 1; xor ecx, ecx; cpuid
  if (ring == Ring::user) code.insert(code.end(), kUd2.begin(), kUd2.end());
  const auto trial = try_code(kvm, ring, code);
  if (!trial) return failed(trial.error());
  const bool ended = ring == Ring::user ? trial->end.kind == Kind::exception && trial->end.vector == kInvalidOpcode
                                        : trial->end.kind == Kind::halted;
  if (!ended) return {Answer::unknown, trial->end.text()};
  const auto table = tiny_cpuid();
  const kvm_cpuid_entry2& set = table[1];
  const kvm_regs& r = trial->regs;
  const bool same = static_cast<uint32_t>(r.rax) == set.eax && ((r.rbx ^ set.ebx) & kEbxOwn) == 0 &&
                    ((r.rcx ^ set.ecx) & ~kOsxsave & UINT32_MAX) == 0 && ((r.rdx ^ set.edx) & ~kApic & UINT32_MAX) == 0;
  if (same) return {Answer::yes, "leaf 1 as it was set"};
  return {Answer::no, fmt::format("leaf 1 reads {:08x} {:08x} {:08x}, set were {:08x} {:08x} {:08x}", r.rax, r.rcx, r.rdx,
                                  set.eax, set.ecx, set.edx)};
}

Finding ask_user_rdtsc(const Kvm& kvm) {
  switch (probe_tsc_trap(kvm)) {
    case TscTrap::cr4: return {Answer::yes, "#GP with CR4.TSD"};
    case TscTrap::cr4_prctl: return {Answer::yes, "#GP with CR4.TSD and PR_SET_TSC on the vCPU's thread"};
    case TscTrap::none: break;
  }
  return {Answer::no, "reads a time counter in spite of CR4.TSD"};
}

Finding ask_rdrand(const Kvm& kvm) {
  for (const Ring ring : {Ring::kernel, Ring::user}) {
    const auto trial = try_code(kvm, ring, Code{0x0f, 0xc7, 0xf0});  // rdrand eax; behind it is HLT, #GP in ring 3
    if (!trial) return failed(trial.error());
    const End& end = trial->end;
    const bool ran = end.kind == Kind::halted || (end.kind == Kind::exception && end.vector == kGeneralProtection);
    if (ran) return {Answer::no, fmt::format("gives random numbers in {}, whatever CPUID shows", name(ring))};
    const bool stopped =
        end.kind == Kind::emulation_failure || (end.kind == Kind::exception && end.vector == kInvalidOpcode);
    if (!stopped) return {Answer::unknown, end.text()};
  }
  return {Answer::yes, "#UD where CPUID does not show it"};
}

Finding ask_tsc_msr(const Kvm& kvm) {
  const auto trial = try_code(kvm, Ring::kernel, Code{0xb9, 0x10, 0x00, 0x00, 0x00, 0x0f, 0x32});  // mov ecx, 10h; rdmsr
  if (!trial) return failed(trial.error());
  return {answer(trial->end.kind == Kind::read_msr), trial->end.text()};
}

kvm_guest_debug debug_control(uint32_t control) {
  kvm_guest_debug debug{};
  debug.control = KVM_GUESTDBG_ENABLE | control;
  return debug;
}

std::string not_stopped(const End& end) {
  if (end.kind == Kind::exception && end.vector == kInvalidOpcode) return "does not stop";  // went on to the UD2
  return "does not stop: " + end.text();
}

Finding ask_breakpoint(const Kvm& kvm, Ring ring) {
  constexpr uint64_t kAt = TinyGuest::kCode + 4;
  Code code(8, 0x90);
  code.insert(code.end(), kUd2.begin(), kUd2.end());
  kvm_guest_debug debug = debug_control(KVM_GUESTDBG_USE_HW_BP);
  debug.arch.debugreg[0] = kAt;
  debug.arch.debugreg[7] = 0x400 | 2;  // G0: execution, one byte (SDM 3B 17.2.4)
  const auto trial = try_code(kvm, ring, code, 0, &debug);
  if (!trial) return failed(trial.error());
  if (trial->end.kind != Kind::debug) return {Answer::no, not_stopped(trial->end)};
  return {answer(trial->end.rip == kAt), trial->end.rip == kAt ? "stops before the instruction" : "stops elsewhere"};
}

Finding ask_step(const Kvm& kvm, Ring ring) {
  Code code(8, 0x90);
  code.insert(code.end(), kUd2.begin(), kUd2.end());
  const kvm_guest_debug debug = debug_control(KVM_GUESTDBG_SINGLESTEP);
  auto trial = try_code(kvm, ring, code, 0, &debug);
  if (!trial) return failed(trial.error());
  for (uint64_t step = 1; step <= 4; ++step) {
    if (trial->end.kind != Kind::debug) return {Answer::no, not_stopped(trial->end)};
    if (trial->end.rip != TinyGuest::kCode + step) return {Answer::no, "stops elsewhere"};
    const auto end = trial->guest->run(kLimit);
    if (!end) return failed(end.error());
    trial->end = *end;
  }
  return {Answer::yes, "stops after each instruction"};
}

Finding ask_int3(const Kvm& kvm, Ring ring) {
  constexpr uint64_t kAt = TinyGuest::kCode + 1;
  const kvm_guest_debug debug = debug_control(KVM_GUESTDBG_USE_SW_BP);
  // Also with a REX prefix: that is what a patched RDRAND of 64 bits is.
  for (const Code& code : {Code{0x90, 0xcc}, Code{0x90, 0x48, 0xcc}}) {
    const auto trial = try_code(kvm, ring, code, 0, &debug);
    if (!trial) return failed(trial.error());
    const End& end = trial->end;
    if (end.kind == Kind::exception && end.vector == kBreakpointVector) return {Answer::no, "#BP goes to the guest"};
    if (end.kind != Kind::debug && end.kind != Kind::emulation_failure) return {Answer::no, end.text()};
    // KVM gives the address of the instruction, or of the CC behind its prefix.
    if (end.rip != kAt && end.rip != TinyGuest::kCode + code.size() - 1) return {Answer::no, "exits at another address"};
    if (code.size() == 3) return {Answer::yes, end.text()};
  }
  return {};
}

// What `counter` counts while the guest in `guest` runs `code` to its HLT.
Result<uint64_t> count(TinyGuest& guest, ProgressCounter& counter, std::span<const uint8_t> code) {
  RV_TRY(guest.load(Ring::kernel, code));
  const auto before = counter.read();
  RV_TRY(const auto end, guest.run(kCountLimit));
  const auto after = counter.read();
  if (!before || !after) return Error{ErrorCode::unsupported, "it cannot be read", std::string(counter.name())};
  if (end.kind != Kind::halted) return Error{ErrorCode::unsupported, end.text(), std::string(counter.name())};
  return *after - *before;
}

// Code of which the counter must see `n` more than of code(0).
Code counted_code(ProgressKind kind, uint32_t n) {
  if (kind == ProgressKind::emulated_instructions) return Code(n, 0x90);
  Code code = {0xb9, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc};  // mov ecx, n + 1; next: dec ecx; jnz next
  for (unsigned i = 0; i < 4; ++i) code[1 + i] = static_cast<uint8_t>((n + 1) >> (8 * i));
  return code;
}

Finding ask_progress(const Kvm& kvm, ProgressKind& exact) {
  std::string seen;
  for (const ProgressKind kind : {ProgressKind::conditional_branches, ProgressKind::emulated_instructions}) {
    auto guest = TinyGuest::create(kvm, tiny_cpuid());
    if (!guest) return failed(guest.error());
    auto counter = open_progress_counter(kind, (*guest)->vcpu());
    std::string problem;
    if (!counter) {
      problem = counter.error().text();
    } else {
      const auto base = count(**guest, **counter, counted_code(kind, 0));
      for (const uint32_t n : {1000U, 3000U, 1000U, 2000U}) {
        const auto counted = base ? count(**guest, **counter, counted_code(kind, n)) : base;
        if (!counted)
          problem = counted.error().text();
        else if (*counted - *base != n)
          problem = fmt::format("{} counts {} for {}", (*counter)->name(), *counted - *base, n);
        if (!problem.empty()) break;
      }
    }
    if (problem.empty()) {
      exact = kind;
      return {Answer::yes, std::string((*counter)->name())};
    }
    seen += (seen.empty() ? "" : "; ") + problem;
  }
  return {Answer::no, seen};
}

Finding ask_dirty_log(const Kvm& kvm) {
  constexpr uint64_t kPage = TinyGuest::kData >> 12;
  auto guest = TinyGuest::create(kvm, tiny_cpuid(), true);
  if (!guest) return failed(guest.error());
  const Code code = {0x89, 0x04, 0x25, 0x00, 0x00, 0x02, 0x00};  // mov [20000h], eax
  if (const auto loaded = (*guest)->load(Ring::kernel, code); !loaded) return failed(loaded.error());
  std::array<uint64_t, TinyGuest::kMemorySize / 4096 / 64> log{};
  const auto end = (*guest)->run(kLimit);
  if (!end) return failed(end.error());
  if (const auto got = (*guest)->vm().get_dirty_log(0, log); !got) return failed(got.error());
  const auto dirty = [&](uint64_t page) { return (log[page / 64] >> (page % 64) & 1) != 0; };
  // Accessed flags in the page tables (pages 4 to 6) are writes too; nothing beyond those.
  for (uint64_t page = 7; page < log.size() * 64; ++page)
    if (dirty(page) != (page == kPage))
      return {Answer::no, dirty(page) ? "names pages that were not written" : "misses a written page"};
  return {Answer::yes, "names the pages written"};
}

Finding ask_dirty_ring(const Kvm& kvm) {
  const auto bytes =
      kvm.file().call(KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", static_cast<unsigned long>(KVM_CAP_DIRTY_LOG_RING));
  if (!bytes) return failed(bytes.error());
  if (*bytes == 0) return {Answer::no, "no KVM_CAP_DIRTY_LOG_RING"};
  return {Answer::yes, fmt::format("up to {} entries", static_cast<size_t>(*bytes) / sizeof(kvm_dirty_gfn))};
}

}  // namespace

bool host_has_virtualization() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {  // the first processor's paragraph
    if (!line.starts_with("flags")) continue;
    std::istringstream flags(line.substr(line.find(':') + 1));
    for (std::string flag; flags >> flag;)
      if (flag == "vmx" || flag == "svm") return true;
  }
  return false;
}

KvmProbe probe_kvm(const char* path) {
  KvmProbe probe;
  probe.hardware = host_has_virtualization();
  const auto kvm = Kvm::open(system_calls(), path);
  if (!kvm) {
    probe.problem = kvm.error().text();
    return probe;
  }
  probe.capabilities = kvm->capabilities();
  // A host that cannot run this much cannot run anything.
  if (const auto trial = try_code(*kvm, Ring::kernel, Code{0x90}); !trial || trial->end.kind != Kind::halted) {
    probe.problem = "a guest of two instructions does not run: " + (trial ? trial->end.text() : trial.error().text());
    return probe;
  }
  probe[Question::ring0_native] = ask_speed(*kvm, Ring::kernel, probe.ring0_per_second);
  probe[Question::ring3_native] = ask_speed(*kvm, Ring::user, probe.ring3_per_second);
  probe[Question::syscall_enters_ring0] = ask_syscall(*kvm);
  ask_programs(*kvm, probe);
  probe[Question::cpuid_holds_ring0] = ask_cpuid(*kvm, Ring::kernel);
  probe[Question::cpuid_holds_ring3] = ask_cpuid(*kvm, Ring::user);
  probe[Question::user_rdtsc_traps] = ask_user_rdtsc(*kvm);
  probe[Question::rdrand_hidden] = ask_rdrand(*kvm);
  probe[Question::tsc_msr_traps] = ask_tsc_msr(*kvm);
  probe[Question::breakpoint_ring0] = ask_breakpoint(*kvm, Ring::kernel);
  probe[Question::breakpoint_ring3] = ask_breakpoint(*kvm, Ring::user);
  probe[Question::step_ring0] = ask_step(*kvm, Ring::kernel);
  probe[Question::step_ring3] = ask_step(*kvm, Ring::user);
  probe[Question::int3_exits_ring0] = ask_int3(*kvm, Ring::kernel);
  probe[Question::int3_exits_ring3] = ask_int3(*kvm, Ring::user);
  probe[Question::progress_exact] = ask_progress(*kvm, probe.progress);
  probe[Question::dirty_log] = ask_dirty_log(*kvm);
  probe[Question::dirty_ring] = ask_dirty_ring(*kvm);
  return probe;
}

}  // namespace retrovisor::kvm
