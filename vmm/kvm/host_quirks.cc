#include "vmm/kvm/host_quirks.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "vmm/cpu/msr.h"
#include "vmm/cpu/page_walk.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/msr_filter.h"
#include "vmm/kvm/tiny_guest.h"
#include "vmm/kvm/vcpu_state.h"

namespace retrovisor::kvm {

namespace {

// Flat segments, a little like what a loader leaves.
CpuState protected_mode() {
  CpuState s = CpuState::at_reset(VcpuId(0));
  for (Segment& g : s.segment) g = {0, 0xffffffff, seg::P | seg::S | seg::DB | seg::G | 3, 0x18};
  s.segment[CS] = {0, 0xffffffff, seg::P | seg::S | seg::DB | seg::G | 11, 0x10};
  s.cr0 = cr0::ET | cr0::NE | cr0::PE;
  return s;
}

Result<bool> keeps_legacy_paging(const KvmVcpu& vcpu) {
  CpuState s = protected_mode();
  s.cr0 |= cr0::PG;
  s.cr3 = 0x1000;
  RV_TRY(vcpu.set_sregs(to_sregs(s, {})));
  kvm_sregs seen{};
  RV_TRY(vcpu.get_sregs(seen));
  return (seen.cr0 & cr0::PG) != 0;
}

Result<bool> keeps_vm86(const KvmVcpu& vcpu) {
  CpuState s = protected_mode();
  for (Segment& g : s.segment) g = {0x1000, 0xffff, seg::P | seg::S | seg::DPL | 3, 0x100};
  s.rflags |= flag::VM | flag::IOPL;
  RV_TRY(vcpu.set_sregs(to_sregs(s, {})));
  RV_TRY(vcpu.set_regs(to_regs(s)));
  kvm_regs seen{};
  RV_TRY(vcpu.get_regs(seen));
  return (seen.rflags & flag::VM) != 0;
}

Result<bool> adds_host_cpuid(const KvmVcpu& vcpu) {
  const auto table = cpuid_table(VcpuId(0), 1);
  RV_TRY(auto in_force, install_cpuid(vcpu, table));
  // KVM itself only moves bits in or out that follow the state, none of leaf 7.
  const CpuidResult want = lookup_cpuid(table, 7, 0);
  const CpuidResult got = lookup_cpuid(in_force, 7, 0);
  return (got.ebx & ~want.ebx) != 0 || (got.ecx & ~want.ecx) != 0 || (got.edx & ~want.edx) != 0;
}

// Whether an interrupt window that is asked for with interrupts off opens late in ring 0.
Result<bool> opens_interrupt_window_late(const Kvm& kvm) {
  constexpr std::chrono::milliseconds kLimit(100);
  RV_TRY(auto guest, TinyGuest::create(kvm, tiny_cpuid()));
  // sti; nop (in STI's shadow); nop, 16 times; out 80h, al
  std::array<uint8_t, 20> code;
  code.fill(0x90);
  code[0] = 0xfb;
  code[18] = 0xe6;
  code[19] = 0x80;
  RV_TRY(guest->load(TinyGuest::Ring::kernel, code));
  kvm_run& run = guest->vcpu().run_area();
  run.request_interrupt_window = 1;
  auto end = guest->run(kLimit);
  run.request_interrupt_window = 0;
  if (!end) return std::move(end).error();
  return run.exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN || end->rip != TinyGuest::kCode + 2;
}

// A value of each register that write_msr() refuses, with the registers as TinyGuest has them.
struct BadValue {
  uint32_t index;
  uint64_t value;
};
constexpr uint64_t kNonCanonical = uint64_t{1} << 47, kBit32 = uint64_t{1} << 32;
constexpr BadValue kBadValues[] = {
    {msr::SYSENTER_ESP, kNonCanonical},
    {msr::SYSENTER_EIP, kNonCanonical},
    {msr::PAT, 2},  // memory type 2
    {msr::EFER, 0x501 | uint64_t{1} << 9},
    {msr::EFER, 0x401},  // LME off in 64-bit mode
    {msr::LSTAR, kNonCanonical},
    {msr::CSTAR, kNonCanonical},
    {msr::SFMASK, kBit32},
    {msr::FS_BASE, kNonCanonical},
    {msr::GS_BASE, kNonCanonical},
    {msr::KERNEL_GS_BASE, kNonCanonical},
    {msr::TSC_AUX, kBit32},
};

}  // namespace

// Loads and saves FIP on this thread; its own FPU state is as before afterwards.
bool drops_fpu_pointers() {
  constexpr size_t fip = 8;
  alignas(16) std::array<uint8_t, 512> own{}, loaded{}, saved{};
  asm volatile("fxsave64 %0" : "+m"(own));
  loaded = own;
  loaded[2] = loaded[3] = 0;  // FSW: nothing waits
  for (size_t i = 0; i < 4; ++i) loaded[fip + i] = static_cast<uint8_t>(i + 1);
  // In one piece: no other code may meet the changed registers. XMM registers and MXCSR are loaded with what they have.
  asm volatile("fxsave64 %0\n\tfxrstor64 %2\n\tfxsave64 %1\n\tfxrstor64 %0" : "+m"(own), "+m"(saved) : "m"(loaded));
  return !std::equal(saved.begin() + fip, saved.begin() + fip + 4, loaded.begin() + fip);
}

Result<std::vector<uint32_t>> unchecked_msrs(const Kvm& kvm, std::span<const uint32_t> asked) {
  constexpr std::chrono::milliseconds kLimit(100);
  VmOptions options;
  options.filter_msrs = false;  // KVM itself is asked
  RV_TRY(auto guest, TinyGuest::create(kvm, tiny_cpuid(), false, options));
  std::vector<uint32_t> unchecked;
  for (const BadValue& bad : kBadValues) {
    if (std::find(asked.begin(), asked.end(), bad.index) == asked.end()) continue;
    const auto byte = [](uint64_t value, unsigned i) { return static_cast<uint8_t>(value >> (8 * i)); };
    const uint64_t i = bad.index, v = bad.value;
    // mov ecx, index; mov eax, low half; mov edx, high half; wrmsr
    const std::array<uint8_t, 17> code = {0xb9, byte(i, 0), byte(i, 1), byte(i, 2), byte(i, 3), 0xb8, byte(v, 0), byte(v, 1), byte(v, 2),
                                          byte(v, 3), 0xba, byte(v, 4), byte(v, 5), byte(v, 6), byte(v, 7), 0x0f, 0x30};
    RV_TRY(guest->load(TinyGuest::Ring::kernel, code));
    RV_TRY(auto end, guest->run(kLimit));
    const bool taken = end.kind == TinyGuest::End::Kind::halted;
    if (taken && (unchecked.empty() || unchecked.back() != bad.index)) unchecked.push_back(bad.index);
  }
  return unchecked;
}

bool may_hide_exception(uint8_t last_exception, const CpuState& s, GuestMemory& memory) {
  constexpr uint8_t kBreakpoint = 3, kOverflow = 4, kInt3 = 0xcc, kInto = 0xce;
  if (last_exception != kBreakpoint && last_exception != kOverflow) return false;
  const PageWalk walk = walk_page(s, memory, s.linear_code(s.rip - 1), {}, false);
  uint8_t before = 0;
  return walk.ok && memory.read(walk.phys, std::span(&before, 1)) && (before == kInt3 || before == kInto);
}

Result<HostQuirks> probe_quirks(const Kvm& kvm) {
  HostQuirks quirks;
  quirks.drops_fpu_pointers = drops_fpu_pointers();
  RV_TRY(auto vm, kvm.create_vm());
  RV_TRY(auto vcpu, vm.create_vcpu(0));
  RV_TRY(quirks.adds_host_cpuid, adds_host_cpuid(vcpu));
  RV_TRY(auto paging, keeps_legacy_paging(vcpu));
  quirks.no_legacy_paging = !paging;
  RV_TRY(auto vm86, keeps_vm86(vcpu));
  quirks.no_vm86 = !vm86;
  RV_TRY(quirks.late_interrupt_window, opens_interrupt_window_late(kvm));
  RV_TRY(quirks.unchecked_msrs, unchecked_msrs(kvm, written_msrs(kvm.capabilities(), {})));
  return quirks;
}

}  // namespace retrovisor::kvm
