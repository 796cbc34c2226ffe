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
//  1D9h IA32_DEBUGCTL        reads as zero, writes are ignored: no branch recording
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

// IA32_MISC_ENABLE: fast strings on, no branch trace store, no PEBS; bits the guest may change.
inline constexpr uint64_t kMiscEnableReset = 0x1801;
inline constexpr uint64_t kMiscEnableWritable = 1 | uint64_t{1} << 22;

}  // namespace retrovisor
