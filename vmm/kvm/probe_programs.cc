// Probes for what programs meet under this host's KVM: how they enter the kernel, what they see of themselves, which of their
// instructions are missing.
#include <fmt/format.h>

#include <array>

#include "vmm/cpu/msr.h"
#include "vmm/cpu/registers.h"
#include "vmm/kvm/host_model.h"
#include "vmm/kvm/host_quirks.h"
#include "vmm/kvm/probe_trial.h"

namespace retrovisor::kvm {
namespace {

using Kind = TinyGuest::End::Kind;
using Ring = TinyGuest::Ring;

constexpr uint8_t kBreakpointVector = 3, kGeneralProtection = 13;
constexpr uint16_t kCompatibilityCode = 0x23;

const char* name(Ring ring) { return ring == Ring::compatibility ? "32-bit code" : "64-bit code"; }

// The end of code in ring 3 that ran: behind it is HLT.
bool ran(const Trial& trial, size_t bytes) {
  return trial.end.kind == Kind::exception && trial.end.vector == kGeneralProtection &&
         trial.guest->fault_rip() == TinyGuest::kCode + bytes;
}

// The vector, and behind which instruction: a software interrupt's is the next (SDM 3A 6.6).
Finding ask_int_n(const Kvm& kvm) {
  struct Try {
    Ring ring;
    Code code;
    uint8_t vector;
    const char* what;
  };
  const std::array<Try, 3> tries = {{{Ring::user, {0xcd, TinyGuest::kSystemCall}, TinyGuest::kSystemCall, "INT 80h"},
                                     {Ring::compatibility, {0xcd, TinyGuest::kSystemCall}, TinyGuest::kSystemCall, "INT 80h"},
                                     {Ring::compatibility, {0xcc}, kBreakpointVector, "INT3"}}};
  for (const Try& t : tries) {
    const auto trial = try_code(kvm, t.ring, t.code);
    if (!trial) return failed(trial.error());
    const bool right = trial->end.kind == Kind::exception && trial->end.vector == t.vector &&
                       trial->guest->fault_rip() == TinyGuest::kCode + t.code.size();
    if (!right) return {Answer::no, fmt::format("{} in {}: {}", t.what, name(t.ring), trial->end.text())};
  }
  return {Answer::yes, "INT n and INT3 enter the kernel"};
}

// Ring 0: DS and FS with the kernel's selector, ES and GS with the programs'; IRETQ to `cs`, `kTarget` bytes on, where `there` is.
constexpr size_t kTarget = 64;
Code return_to(uint16_t cs, const Code& there) {
  constexpr uint8_t kData = TinyGuest::kKernelData, kUser = TinyGuest::kUserData;
  constexpr auto kStack = static_cast<uint32_t>(TinyGuest::kUserStack);
  constexpr auto kThere = static_cast<uint32_t>(TinyGuest::kCode + kTarget);
  const auto byte = [](uint32_t value, unsigned i) { return static_cast<uint8_t>(value >> (8 * i)); };
  Code code = {
      0xb8, kData, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xe0,                                     // mov eax, 18h; mov ds, ax; mov fs, ax
      0xb8, kUser, 0, 0, 0, 0x8e, 0xc0, 0x8e, 0xe8,                                     // mov eax, 2bh; mov es, ax; mov gs, ax
      0x6a, kUser,                                                                      // push ss
      0x68, byte(kStack, 0), byte(kStack, 1), byte(kStack, 2), byte(kStack, 3),         // push rsp
      0x6a, 0x02, 0x6a, static_cast<uint8_t>(cs),                                       // push rflags; push cs
      0x68, byte(kThere, 0), byte(kThere, 1), byte(kThere, 2), byte(kThere, 3), 0x48, 0xcf,  // push rip; iretq
  };
  code.resize(kTarget, 0xf4);
  code.insert(code.end(), there.begin(), there.end());
  return code;
}

Finding ask_ldt_code(const Kvm& kvm) {
  const Code code = return_to(TinyGuest::kUserCodeInLdt, {0x90});
  const auto trial = try_code(kvm, Ring::kernel, code);
  if (!trial) return failed(trial.error());
  if (ran(*trial, code.size())) return {Answer::yes, "IRETQ goes there"};
  return {Answer::no, "IRETQ to one: " + trial->end.text()};
}

// SDM 2A, IRET: to an outer level, data segments whose DPL is less than the new CPL are emptied. Compatibility mode shows it.
Finding ask_nulled_selectors(const Kvm& kvm) {
  const Code code = return_to(kCompatibilityCode, {0x8c, 0xd8, 0x8c, 0xc3, 0x8c, 0xe1, 0x8c, 0xea});  // mov eax, ds; ebx, es; ecx, fs; edx, gs
  const auto trial = try_code(kvm, Ring::kernel, code);
  if (!trial) return failed(trial.error());
  if (!ran(*trial, code.size())) return {Answer::unknown, trial->end.text()};
  const kvm_regs& r = trial->regs;
  const bool right = r.rax == 0 && r.rbx == TinyGuest::kUserData && r.rcx == 0 && r.rdx == TinyGuest::kUserData;
  return {answer(right), fmt::format("DS, ES, FS, GS {:x}, {:x}, {:x}, {:x} of {:x}, {:x}, {:x}, {:x}", r.rax, r.rbx, r.rcx, r.rdx,
                                     TinyGuest::kKernelData, TinyGuest::kUserData, TinyGuest::kKernelData, TinyGuest::kUserData)};
}

Finding ask_self(const Kvm& kvm) {
  constexpr uint64_t kInterruptsAndIopl = 0x3200;
  const Code code = {0x8c, 0xdb, 0x8c, 0xc9, 0x9c, 0x58};  // mov ebx, ds; mov ecx, cs; pushfq; pop rax
  const auto trial = try_code(kvm, Ring::user, code);
  if (!trial) return failed(trial.error());
  if (!ran(*trial, code.size())) return {Answer::unknown, trial->end.text()};
  const kvm_regs& r = trial->regs;
  const bool right =
      r.rbx == TinyGuest::kUserData && r.rcx == TinyGuest::kUserCode && (r.rax & kInterruptsAndIopl) == 0;
  return {answer(right), fmt::format("DS reads {:x}, RFLAGS {:x}; set were {:x}, 2", r.rbx, r.rax, TinyGuest::kUserData)};
}

// Each with its operand, and what it leaves in AX.
Finding ask_compat_instructions(const Kvm& kvm) {
  struct Try {
    const char* name;
    Code code;
    uint16_t ax;
  };
  const std::array<Try, 9> tries = {{
      {"AAA", {0xb0, 0x9c, 0x37}, 0x0102},
      {"AAS", {0xb0, 0x9c, 0x3f}, 0xff06},
      {"DAA", {0xb0, 0x9c, 0x27}, 0x0002},
      {"DAS", {0xb0, 0x9c, 0x2f}, 0x0036},
      {"AAM", {0xb0, 0x37, 0xd4, 0x0a}, 0x0505},
      {"AAD", {0x66, 0xb8, 0x07, 0x03, 0xd5, 0x0a}, 0x0025},
      {"INTO", {0x31, 0xc0, 0xce}, 0},
      {"BOUND", {0xbb, 0x00, 0x00, 0x02, 0x00, 0x62, 0x03}, 0},  // mov ebx, 20000h; bound eax, [ebx]: 0 within 0 to 0
      {"ARPL", {0xb9, 0x03, 0x00, 0x00, 0x00, 0x63, 0xc8}, 3},   // mov ecx, 3; arpl ax, cx
  }};
  std::string lacking;
  for (const Try& t : tries) {
    const auto trial = try_code(kvm, Ring::compatibility, t.code);
    if (!trial) return failed(trial.error());
    if (!ran(*trial, t.code.size()) || (trial->regs.rax & 0xffff) != t.ax) lacking += (lacking.empty() ? "" : ", ") + std::string(t.name);
  }
  if (lacking.empty()) return {Answer::yes, "AAA to ARPL"};
  return {Answer::no, "not " + lacking};
}

// FLD, FXSAVE: what is there without any exception. SDM 1 8.1.8: FDP and FOP on unmasked exceptions alone, where
// CPUID.(7,0):EBX[6] says so; APM 2 11.4.4.3: none of the three without one.
Finding ask_x87_pointers(const Kvm& kvm, KvmProbe& probe) {
  constexpr uint64_t kImage = TinyGuest::kData + 0x100;
  // fninit; fld dword [20000h]; fxsave64 [20100h]
  const Code code = {0xdb, 0xe3, 0xd9, 0x04, 0x25, 0x00, 0x00, 0x02, 0x00, 0x48, 0x0f, 0xae, 0x04, 0x25, 0x00, 0x01, 0x02, 0x00};
  constexpr uint64_t kLoad = TinyGuest::kCode + 2;
  const auto trial = try_code(kvm, Ring::user, code);
  if (!trial) return failed(trial.error());
  if (!ran(*trial, code.size())) return {Answer::unknown, trial->end.text()};
  const uint64_t fop = trial->guest->peek(kImage) >> 48, fip = trial->guest->peek(kImage + 8), fdp = trial->guest->peek(kImage + 16);
  const ProcessorModel model = host_processor_model();
  const bool tracked = model == ProcessorModel::model || model == ProcessorModel::intel;
  const uint64_t want_fip = tracked ? kLoad : 0;
  const uint64_t want_fdp = model == ProcessorModel::model ? TinyGuest::kData : 0;
  const uint64_t want_fop = model == ProcessorModel::model ? 0x104 : 0;
  probe.x87_pointers_differ = fip != want_fip || fdp != want_fdp || fop != want_fop;
  probe.x87_pointers_dropped = drops_fpu_pointers();
  const auto text = [](uint64_t a, uint64_t b, uint64_t c) { return fmt::format("FIP {:x}, FDP {:x}, FOP {:x}", a, b, c); };
  std::string seen = "FXSAVE shows " + text(fip, fdp, fop);
  if (probe.x87_pointers_differ) seen += ", the soft engine " + text(want_fip, want_fdp, want_fop);
  if (probe.x87_pointers_dropped) seen += "; loading another thread's state loses them";
  return {answer(!probe.x87_pointers_differ && !probe.x87_pointers_dropped), seen};
}

// #DB between two iterations, and the flags that it pushes. SDM 3B 17.3.1.1: RF set; AMD's processors leave it as it was
// (docs/vendors.md). KVM's emulator traps behind as many iterations as it does at once.
Finding ask_rep_trap(const Kvm& kvm) {
  constexpr uint8_t kDebugVector = 1;
  constexpr uint8_t kCount = 2;
  const Code code = {0xb9, kCount, 0, 0, 0, 0x9c, 0x80, 0x4c, 0x24, 0x01, 0x01, 0x9d, 0xf3, 0xac};  // mov ecx, kCount; TF by popfq; rep lodsb
  const ProcessorModel model = host_processor_model();
  const bool want = vendor_of(model) != ProcessorModel::amd;
  std::string seen;
  bool right = true;
  for (const Ring ring : {Ring::kernel, Ring::user}) {
    const auto trial = try_code(kvm, ring, code);
    if (!trial) return failed(trial.error());
    if (trial->end.kind != Kind::exception || trial->end.vector != kDebugVector) return {Answer::unknown, trial->end.text()};
    const bool set = (trial->guest->fault_rflags() & flag::RF) != 0;
    const uint64_t done = kCount - trial->regs.rcx;
    right = right && set == want && done == 1;
    seen += fmt::format("{}ring {}: behind {} of {}, RF={:d}", seen.empty() ? "" : "; ", ring == Ring::kernel ? 0 : 3, done, kCount, set);
  }
  return {answer(right), seen + (right ? "" : fmt::format("; this host's processor: behind 1, RF={:d}", want))};
}

Finding ask_wrmsr(const Kvm& kvm) {
  const auto unchecked = unchecked_msrs(kvm, msrs_kept_by_cpu());
  if (!unchecked) return failed(unchecked.error());
  std::string names;
  for (const uint32_t index : *unchecked) names += fmt::format("{}{:x}h", names.empty() ? "" : ", ", index);
  return {answer(names.empty()), names.empty() ? "non-canonical addresses and reserved bits are refused" : "takes anything for " + names};
}

}  // namespace

void ask_programs(const Kvm& kvm, KvmProbe& probe) {
  probe[Question::int_n_ring3] = ask_int_n(kvm);
  probe[Question::ldt_code] = ask_ldt_code(kvm);
  probe[Question::iret_nulls_selectors] = ask_nulled_selectors(kvm);
  probe[Question::ring3_sees_itself] = ask_self(kvm);
  probe[Question::compat_instructions] = ask_compat_instructions(kvm);
  probe[Question::x87_pointers] = ask_x87_pointers(kvm, probe);
  probe[Question::rep_single_step] = ask_rep_trap(kvm);
  probe[Question::wrmsr_checked] = ask_wrmsr(kvm);
}

}  // namespace retrovisor::kvm
