// Which values the control registers of the CPU model can hold: for whoever writes them, be it the guest, a saved state or a debugger.
#pragma once

#include "vmm/cpu/cpuid.h"

namespace retrovisor {

// SDM 3A 2.5: paging needs protection, and NW needs CD.
constexpr bool valid_cr0(uint64_t value) {
  return (value & ~cr0::all) == 0 && (value & (cr0::PG | cr0::PE)) != cr0::PG && (value & (cr0::CD | cr0::NW)) != cr0::NW;
}
constexpr bool valid_cr4(uint64_t value) { return (value & ~kCr4Supported) == 0; }
// XCR0 alone there is, and x87 state is always enabled (SDM 1 13.3).
constexpr bool valid_xcr0(uint64_t value) { return (value & ~kXcr0Supported) == 0 && (value & 1) != 0; }
// A page directory pointer as a load of CR3 takes it (SDM 3A table 4-8). Processors that read them in each walk check that later.
constexpr bool valid_pdpte(uint64_t entry) {
  constexpr uint64_t reserved = 0x1e6 | ~((uint64_t{1} << kPhysicalBits) - 1);
  return (entry & pte::P) == 0 || (entry & reserved) == 0;
}

}  // namespace retrovisor
