// The pointers to the last x87 instruction (FIP, FDP, FOP and their selectors), by vendor (vendor_of()).
#pragma once

#include "vmm/cpu/state.h"
#include "vmm/processor_model.h"

namespace retrovisor {

inline constexpr uint16_t kX87ErrorSummary = 1 << 7;  // FSW.ES: an unmasked exception waits

// What FXSAVE and XSAVE tell of the pointers. AMD: zeros unless an unmasked exception waits (APM 2 11.4.4; measured: Zen 3,
// which has CPUID 80000008h EBX[2], so that FXRSTOR and XRSTOR load them always). FNSTENV and FNSAVE tell them anyway.
inline bool x87_pointers_saved(ProcessorModel model, const X87State& f) {
  return model != ProcessorModel::amd || (f.fsw & kX87ErrorSummary) != 0;
}

// What is left of the pointers when the guest goes on behind an exit from KVM to user space: its FPU has been in memory,
// in the 64-bit form of XSAVE, which has no room for selectors.
inline void x87_pointers_through_memory(ProcessorModel model, X87State& f) {
  if (model != ProcessorModel::amd) return;
  f.fcs = f.fds = 0;
  if (x87_pointers_saved(model, f)) return;
  f.fop = 0;
  f.fip = f.fdp = 0;
}

}  // namespace retrovisor
