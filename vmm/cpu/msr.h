// Model-specific registers of the CPU model. Source: SDM 4 chapter 2, SDM 3A 11.11 (MTRRs), 11.12 (PAT).
#pragma once

#include <span>

#include "vmm/vcpu.h"

namespace retrovisor {

// RDMSR and WRMSR at guest time `now`. False: #GP(0), nothing changed. The APIC base, the x2APIC range and the TSC
// deadline are answered by the vCPU's local APIC. Unknown registers fault, but for a few that operating systems touch
// on every processor of this family without looking first:
//   17h IA32_PLATFORM_ID     reads as zero
//   2Ah EBL_CR_POWERON       reads as zero
//   79h IA32_BIOS_UPDT_TRIG  writes are ignored: there is no microcode to update
//   8Bh IA32_BIOS_SIGN_ID    reads as a fixed revision, new enough for every erratum; writes are ignored
//  1D9h IA32_DEBUGCTL        reads as zero; writes of the architectural bits (0, 1, 6-15) are ignored: no branch recording
// What is written is kept as it is, or faults: reserved bits, addresses that are not canonical, memory types that there are not. But for
// the registers above, what is written and does not stay is
//   174h IA32_SYSENTER_CS     bits 63-32, which it does not have
//  1A0h IA32_MISC_ENABLE      bits 7, 11 and 12, which are read-only (SDM 4 table 2-2)
//   C0000080h IA32_EFER       LMA, which is read-only
// After a write of EFER the engine has to flush its TLB and look at the mode again.
bool read_msr(const Vcpu& vcpu, VirtualTime now, uint32_t index, uint64_t& value);
bool write_msr(Vcpu& vcpu, VirtualTime now, uint32_t index, uint64_t value);

// Registers that are pure state of the processor, switched often: engines that run on a host's processor leave them to it. All
// others have an effect beyond it, or are answered by the model.
bool msr_kept_by_cpu(uint32_t index);
std::span<const uint32_t> msrs_kept_by_cpu();  // ascending

// Are all eight bytes memory types a PAT may hold?
bool valid_pat(uint64_t value);
// Bits a saved or written register may have.
bool valid_mtrr_def_type(uint64_t value);
bool valid_mtrr_fixed(uint64_t value);
bool valid_mtrr_var(unsigned number, uint64_t value);  // even: PHYSBASE, odd: PHYSMASK

// IA32_MISC_ENABLE (SDM 4 table 2-2): fast strings on, no branch trace store, no PEBS. Three kinds of bits:
// what the guest may change, and it stays: fast strings (0), the limit of CPUID's leaves (22);
// what it may not, and writes are ignored: performance monitoring (7), no BTS (11), no PEBS (12);
// all others raise #GP(0) if set, be they reserved or switches of what this model does not have (thermal control, SpeedStep,
// MONITOR, xTPR) or has always (execute-disable): CPUID says which.
inline constexpr uint64_t kMiscEnableReset = 0x1801;
inline constexpr uint64_t kMiscEnableWritable = 1 | uint64_t{1} << 22;
inline constexpr uint64_t kMiscEnableReadOnly = uint64_t{1} << 7 | uint64_t{1} << 11 | uint64_t{1} << 12;

}  // namespace retrovisor
