#include "vmm/cpu/msr.h"

#include <algorithm>
#include <iterator>

#include "vmm/cpu/canonical.h"
#include "vmm/cpu/cpuid.h"

namespace retrovisor {

namespace {

constexpr uint32_t kPlatformId = 0x17, kEblCrPoweron = 0x2a, kBiosUpdateTrigger = 0x79, kDebugCtl = 0x1d9;
constexpr uint64_t kDebugCtlDefined = 0xffc3;  // SDM 3B figure 17-11
constexpr uint64_t kMicrocodeRevision = uint64_t{0x20e} << 32;
constexpr uint64_t kMtrrCap = 8 | 1 << 8 | 1 << 10;  // eight variable ranges, fixed ranges, write-combining

// Memory types: UC 0, WC 1, WT 4, WP 5, WB 6; the PAT knows UC- (7) as well.
constexpr bool valid_type(uint64_t type) { return type == 0 || type == 1 || (type >= 4 && type <= 6); }

// Index into mtrr_fixed: 64K_00000, 16K_80000, 16K_A0000, 4K_C0000 .. 4K_F8000. -1: none.
int fixed_index(uint32_t index) {
  if (index == 0x250) return 0;
  if (index == 0x258 || index == 0x259) return static_cast<int>(index - 0x258 + 1);
  if (index >= 0x268 && index <= 0x26f) return static_cast<int>(index - 0x268 + 3);
  return -1;
}

bool is_variable(uint32_t index) { return index >= msr::MTRR_PHYSBASE0 && index < msr::MTRR_PHYSBASE0 + 16; }

bool of_local_apic(uint32_t index) {
  return index == msr::APIC_BASE || index == msr::TSC_DEADLINE || (index >= msr::X2APIC_FIRST && index <= msr::X2APIC_LAST);
}

bool store_canonical(uint64_t& target, uint64_t value) {
  if (!is_canonical(value)) return false;
  target = value;
  return true;
}

bool write_efer(CpuState& s, uint64_t value) {
  if ((value & ~kEferSupported) != 0) return false;
  if (((value ^ s.efer) & efer::LME) != 0 && s.paging()) return false;  // SDM 3A 2.2.1
  s.efer = (value & ~efer::LMA) | (s.efer & efer::LMA);                // LMA is the processor's
  return true;
}

// Moves the time stamp counter by `delta` (SDM 3B 17.17.3: both registers move together).
bool move_tsc(Vcpu& vcpu, uint64_t delta) {
  vcpu.state.tsc_offset += delta;
  vcpu.state.tsc_adjust += delta;
  if (vcpu.interrupts != nullptr) vcpu.interrupts->tsc_changed();
  return true;
}

}  // namespace

namespace {

// SYSENTER and SYSCALL targets are read by the processor itself; PAT only tells how the guest's RAM is cached; FS_BASE, GS_BASE,
// KERNEL_GS_BASE are part of every context switch; EFER changes the mode; TSC_AUX is read by RDTSCP.
constexpr uint32_t kKeptByCpu[] = {
    msr::SYSENTER_CS, msr::SYSENTER_ESP, msr::SYSENTER_EIP, msr::PAT,     msr::EFER,           msr::STAR,
    msr::LSTAR,       msr::CSTAR,        msr::SFMASK,       msr::FS_BASE, msr::GS_BASE,        msr::KERNEL_GS_BASE,
    msr::TSC_AUX,
};

}  // namespace

std::span<const uint32_t> msrs_kept_by_cpu() { return kKeptByCpu; }
bool msr_kept_by_cpu(uint32_t index) { return std::binary_search(std::begin(kKeptByCpu), std::end(kKeptByCpu), index); }

bool valid_pat(uint64_t value) {
  for (unsigned i = 0; i < 8; ++i) {
    const uint64_t type = value >> (8 * i) & 0xff;
    if (!valid_type(type) && type != 7) return false;
  }
  return true;
}

bool valid_mtrr_def_type(uint64_t value) { return (value & ~uint64_t{0xcff}) == 0 && valid_type(value & 0xff); }

bool valid_mtrr_fixed(uint64_t value) {
  for (unsigned i = 0; i < 8; ++i) {
    if (!valid_type(value >> (8 * i) & 0xff)) return false;
  }
  return true;
}

bool valid_mtrr_var(unsigned number, uint64_t value) {
  if ((value >> kPhysicalBits) != 0) return false;
  return (number & 1) == 0 ? (value & 0xf00) == 0 && valid_type(value & 0xff) : (value & 0x7ff) == 0;
}

bool read_msr(const Vcpu& vcpu, VirtualTime now, uint32_t index, uint64_t& value) {
  const CpuState& s = vcpu.state;
  if (of_local_apic(index)) return vcpu.interrupts != nullptr && vcpu.interrupts->read_msr(index, value);
  if (is_variable(index)) {
    value = s.mtrr_var[index - msr::MTRR_PHYSBASE0];
    return true;
  }
  if (const int i = fixed_index(index); i >= 0) {
    value = s.mtrr_fixed[static_cast<unsigned>(i)];
    return true;
  }
  switch (index) {
    case msr::TSC: value = s.tsc(now); return true;
    case msr::TSC_ADJUST: value = s.tsc_adjust; return true;
    case kPlatformId: case kEblCrPoweron: case kDebugCtl: value = 0; return true;
    case msr::BIOS_SIGN_ID: value = kMicrocodeRevision; return true;
    case msr::MTRRCAP: value = kMtrrCap; return true;
    case msr::SYSENTER_CS: value = s.sysenter_cs; return true;
    case msr::SYSENTER_ESP: value = s.sysenter_esp; return true;
    case msr::SYSENTER_EIP: value = s.sysenter_eip; return true;
    case msr::MCG_CAP: value = 0; return true;  // no banks
    case msr::MCG_STATUS: value = s.mcg_status; return true;
    case msr::MISC_ENABLE: value = s.misc_enable; return true;
    case msr::PAT: value = s.pat; return true;
    case msr::MTRR_DEF_TYPE: value = s.mtrr_def_type; return true;
    case msr::EFER: value = s.efer; return true;
    case msr::STAR: value = s.star; return true;
    case msr::LSTAR: value = s.lstar; return true;
    case msr::CSTAR: value = s.cstar; return true;
    case msr::SFMASK: value = s.sfmask; return true;
    case msr::FS_BASE: value = s.segment[FS].base; return true;
    case msr::GS_BASE: value = s.segment[GS].base; return true;
    case msr::KERNEL_GS_BASE: value = s.kernel_gs_base; return true;
    case msr::TSC_AUX: value = s.tsc_aux; return true;
    default: return false;
  }
}

bool write_msr(Vcpu& vcpu, VirtualTime now, uint32_t index, uint64_t value) {
  CpuState& s = vcpu.state;
  if (of_local_apic(index)) return vcpu.interrupts != nullptr && vcpu.interrupts->write_msr(index, value);
  if (is_variable(index)) {
    const uint32_t number = index - msr::MTRR_PHYSBASE0;
    if (!valid_mtrr_var(number, value)) return false;
    s.mtrr_var[number] = value;
    return true;
  }
  if (const int i = fixed_index(index); i >= 0) {
    if (!valid_mtrr_fixed(value)) return false;
    s.mtrr_fixed[static_cast<unsigned>(i)] = value;
    return true;
  }
  switch (index) {
    case msr::TSC: return move_tsc(vcpu, value - s.tsc(now));
    case msr::TSC_ADJUST: return move_tsc(vcpu, value - s.tsc_adjust);
    case kBiosUpdateTrigger: case msr::BIOS_SIGN_ID: return true;
    case kDebugCtl: return (value & ~kDebugCtlDefined) == 0;
    case msr::SYSENTER_CS: s.sysenter_cs = value & 0xffffffff; return true;
    case msr::SYSENTER_ESP: return store_canonical(s.sysenter_esp, value);
    case msr::SYSENTER_EIP: return store_canonical(s.sysenter_eip, value);
    case msr::MCG_STATUS:  // writing anything but zero faults (SDM 3B 15.3.1.2)
      if (value != 0) return false;
      s.mcg_status = 0;
      return true;
    case msr::MISC_ENABLE:
      if ((value & ~(kMiscEnableWritable | kMiscEnableReadOnly)) != 0) return false;
      s.misc_enable = (s.misc_enable & ~kMiscEnableWritable) | (value & kMiscEnableWritable);
      return true;
    case msr::PAT:
      if (!valid_pat(value)) return false;
      s.pat = value;
      return true;
    case msr::MTRR_DEF_TYPE:
      if (!valid_mtrr_def_type(value)) return false;
      s.mtrr_def_type = value;
      return true;
    case msr::EFER: return write_efer(s, value);
    case msr::STAR: s.star = value; return true;
    case msr::LSTAR: return store_canonical(s.lstar, value);
    case msr::CSTAR: return store_canonical(s.cstar, value);
    case msr::SFMASK:
      if ((value >> 32) != 0) return false;
      s.sfmask = value;
      return true;
    case msr::FS_BASE: return store_canonical(s.segment[FS].base, value);
    case msr::GS_BASE: return store_canonical(s.segment[GS].base, value);
    case msr::KERNEL_GS_BASE: return store_canonical(s.kernel_gs_base, value);
    case msr::TSC_AUX:
      if ((value >> 32) != 0) return false;
      s.tsc_aux = value;
      return true;
    default: return false;
  }
}

}  // namespace retrovisor
