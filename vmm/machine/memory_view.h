// Guest memory as a debugger addresses it: by linear address through the page tables of a vCPU, or by physical address.
// Looking changes nothing: no A or D flags, no device reads. Only RAM is there; MMIO registers are not read or written.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "vmm/cpu/page_walk.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor {

class MemoryView {
 public:
  MemoryView(GuestMemory& memory, const CpuState& state, bool physical)
      : memory_(memory), state_(state), physical_(physical) {}

  // Where the byte at `address` lies, if it is RAM.
  std::optional<PhysAddr> locate(uint64_t address) const;
  // Reads from `address` on and returns how many bytes there were before the first that is no RAM.
  size_t read(uint64_t address, std::span<uint8_t> out) const;
  // All or nothing.
  bool write(uint64_t address, std::span<const uint8_t> data) const;

 private:
  GuestMemory& memory_;
  const CpuState& state_;
  bool physical_;
};

// The address of a CPU in 16- or 32-bit mode, of which debuggers may send sign-extended forms, or as it is.
uint64_t linear_address(const CpuState& state, uint64_t address);

}  // namespace retrovisor
