// States to and from a vCPU: MSRs, and the order of the ioctls.
#include <array>
#include <cstring>
#include <memory>
#include <type_traits>

#include "vmm/cpu/cpuid.h"
#include "vmm/kvm/vcpu_state.h"

namespace retrovisor::kvm {

namespace {

// EFER, FS_BASE and GS_BASE are in SREGS. IA32_APIC_BASE and the TSC deadline belong to the local APIC, the TSC to the
// clock.
constexpr uint32_t kStateMsrs[] = {
    msr::SYSENTER_CS, msr::SYSENTER_ESP, msr::SYSENTER_EIP, msr::MCG_STATUS, msr::MISC_ENABLE,
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,  // MTRRs
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, msr::PAT, msr::MTRR_DEF_TYPE,
    msr::STAR, msr::LSTAR, msr::CSTAR, msr::SFMASK, msr::KERNEL_GS_BASE, msr::TSC_AUX,
};
static_assert(std::size(kStateMsrs) <= kMaxMsrEntries);

template <class State>
auto field_of(State& s, uint32_t index) -> decltype(&s.star) {
  if (index >= msr::MTRR_PHYSBASE0 && index < msr::MTRR_PHYSBASE0 + s.mtrr_var.size()) {
    return &s.mtrr_var[index - msr::MTRR_PHYSBASE0];
  }
  if (index == msr::MTRR_FIX64K) return &s.mtrr_fixed[0];
  if (index == 0x258 || index == 0x259) return &s.mtrr_fixed[index - 0x258 + 1];
  if (index >= 0x268 && index <= 0x26f) return &s.mtrr_fixed[index - 0x268 + 3];
  switch (index) {
    case msr::SYSENTER_CS: return &s.sysenter_cs;
    case msr::SYSENTER_ESP: return &s.sysenter_esp;
    case msr::SYSENTER_EIP: return &s.sysenter_eip;
    case msr::MCG_STATUS: return &s.mcg_status;
    case msr::MISC_ENABLE: return &s.misc_enable;
    case msr::PAT: return &s.pat;
    case msr::MTRR_DEF_TYPE: return &s.mtrr_def_type;
    case msr::STAR: return &s.star;
    case msr::LSTAR: return &s.lstar;
    case msr::CSTAR: return &s.cstar;
    case msr::SFMASK: return &s.sfmask;
    case msr::KERNEL_GS_BASE: return &s.kernel_gs_base;
    case msr::TSC_AUX: return &s.tsc_aux;
    default: return nullptr;
  }
}

}  // namespace

std::span<const uint32_t> state_msrs() { return kStateMsrs; }
const uint64_t* msr_field(const CpuState& s, uint32_t index) { return field_of(s, index); }
uint64_t* msr_field(CpuState& s, uint32_t index) { return field_of(s, index); }

StateCarrier::StateCarrier(const HostCapabilities& host, const HostQuirks& quirks)
    : sregs2_(host.has(KVM_CAP_SREGS2)), quirks_(quirks) {
  for (const uint32_t index : kStateMsrs) {
    if (host.has_msr(index)) msrs_.push_back(index);
  }
}

bool StateCarrier::carries(const CpuState& s) const {
  const bool legacy_paging = s.paging() && !s.long_mode();
  return !(quirks_.no_legacy_paging && legacy_paging) && !(quirks_.no_vm86 && s.vm86());
}

Result<void> StateCarrier::check_mode(const CpuState& s) const {
  if (carries(s)) return {};
  return Error{ErrorCode::unsupported,
               std::string("this host's KVM has no ") + (s.vm86() ? "virtual-8086 mode" : "paging outside of long mode") +
                   " (it takes such a state and forgets the mode); use --engine=soft", {}};
}

// SREGS first: EFER, CR0 and CR4 decide how KVM takes the rest, and with in-kernel emulation of real mode RFLAGS is kept
// apart for it. XCR0 before the area it allows. Events last: setting registers drops pending exceptions.
Result<void> StateCarrier::load(KvmVcpu& vcpu, const CpuState& s, const Surroundings& around, uint32_t parts) const {
  RV_TRY(check_mode(s));
  vcpu.run_area().kvm_dirty_regs = 0;  // or an earlier load_synced() would win at the next entry
  if (parts == part::all) RV_TRY(vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE));
  if ((parts & part::sregs) != 0) {
    taken_.reset();
    if (sregs2_ && s.pae_paging()) {
      RV_TRY(vcpu.set_sregs2(to_sregs2(s, around)));
    } else {
      RV_TRY(vcpu.set_sregs(to_sregs(s, around)));
    }
    vcpu.run_area().cr8 = around.cr8;  // KVM_RUN takes it from here
  }
  if ((parts & part::regs) != 0) RV_TRY(vcpu.set_regs(to_regs(s)));
  if ((parts & part::fpu) != 0) {
    auto area = std::make_unique<XsaveArea>();
    to_xsave(s, *area);
    RV_TRY(vcpu.set_xcr0(s.xcr0));
    RV_TRY(vcpu.set_xsave(*area));
  }
  if ((parts & part::msrs) != 0 && !msrs_.empty()) {
    std::array<kvm_msr_entry, kMaxMsrEntries> entries{};
    for (size_t i = 0; i < msrs_.size(); ++i) {
      entries[i].index = msrs_[i];
      entries[i].data = *msr_field(s, msrs_[i]);
    }
    RV_TRY(vcpu.set_msrs(std::span(entries).first(msrs_.size())));
  }
  if ((parts & part::debug) != 0) RV_TRY(vcpu.set_debugregs(to_debugregs(s)));
  if ((parts & part::events) != 0) RV_TRY(vcpu.set_events(to_events(s, around)));
  return {};
}

Result<void> StateCarrier::store(const KvmVcpu& vcpu, CpuState& s, Surroundings& around, uint32_t parts) const {
  if ((parts & part::regs) != 0) {
    kvm_regs regs{};
    RV_TRY(vcpu.get_regs(regs));
    from_regs(regs, s);
  }
  if ((parts & part::sregs) != 0) {
    taken_.reset();
    if (sregs2_) {
      kvm_sregs2 sregs{};
      RV_TRY(vcpu.get_sregs2(sregs));
      from_sregs2(sregs, s, around);
    } else {
      kvm_sregs sregs{};
      RV_TRY(vcpu.get_sregs(sregs));
      from_sregs(sregs, s, around);
    }
  }
  if ((parts & part::fpu) != 0) {
    auto area = std::make_unique<XsaveArea>();
    uint64_t xcr0 = 0;
    RV_TRY(vcpu.get_xcr0(xcr0));
    if ((xcr0 & ~kXcr0Supported) != 0) {
      // Our CPUID table does not offer them: KVM should have refused XSETBV (see HostQuirks::adds_host_cpuid).
      return Error{ErrorCode::unsupported,
                   "the guest has switched on XSAVE components that the CPU model does not have (KVM_GET_XCRS shows "
                   "XCR0 = " + std::to_string(xcr0) + "); use --engine=soft", {}};
    }
    s.xcr0 = xcr0;
    RV_TRY(vcpu.get_xsave(*area));
    from_xsave(*area, s, quirks_.drops_fpu_pointers);
  }
  if ((parts & part::msrs) != 0 && !msrs_.empty()) {
    std::array<kvm_msr_entry, kMaxMsrEntries> entries{};
    for (size_t i = 0; i < msrs_.size(); ++i) entries[i].index = msrs_[i];
    RV_TRY(vcpu.get_msrs(std::span(entries).first(msrs_.size())));
    for (size_t i = 0; i < msrs_.size(); ++i) *msr_field(s, msrs_[i]) = entries[i].data;
  }
  if ((parts & part::debug) != 0) {
    kvm_debugregs debug{};
    RV_TRY(vcpu.get_debugregs(debug));
    from_debugregs(debug, s);
  }
  if ((parts & part::events) != 0) {
    kvm_vcpu_events events{};
    RV_TRY(vcpu.get_events(events));
    from_events(events, s, around);
  }
  return {};
}

void StateCarrier::ask_for_sync(KvmVcpu& vcpu, uint32_t parts) const {
  RV_ASSERT(parts == part::core || parts == part::regs);
  constexpr uint32_t kCore = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
  vcpu.run_area().kvm_valid_regs = parts == part::core ? kCore : uint32_t{KVM_SYNC_X86_REGS};
}

Result<void> StateCarrier::load_synced(KvmVcpu& vcpu, const CpuState& s, const Surroundings& around) const {
  RV_TRY(check_mode(s));
  kvm_run& run = vcpu.run_area();
  kvm_sync_regs& sync = run.s.regs;
  sync.regs = to_regs(s);
  sync.events = to_events(s, around);
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS;
  run.cr8 = around.cr8;
  taken_.reset();
  if (sregs2_ && s.pae_paging()) return vcpu.set_sregs2(to_sregs2(s, around));
  sync.sregs = to_sregs(s, around);
  run.kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
  return {};
}

Result<void> StateCarrier::store_synced(const KvmVcpu& vcpu, CpuState& s, Surroundings& around) const {
  const kvm_sync_regs& sync = vcpu.run_area().s.regs;
  from_regs(sync.regs, s);
  if ((vcpu.run_area().kvm_valid_regs & KVM_SYNC_X86_SREGS) == 0) return {};
  // Most exits leave them as they were.
  if (!taken_ || std::memcmp(&*taken_, &sync.sregs, sizeof(kvm_sregs)) != 0) {
    from_sregs(sync.sregs, s, around);
    taken_ = sync.sregs;
  }
  around.cr8 = static_cast<uint8_t>(sync.sregs.cr8 & 15);
  from_events(sync.events, s, around);
  if (sregs2_ && s.pae_paging()) return store(vcpu, s, around, part::sregs);
  return {};
}

}  // namespace retrovisor::kvm
