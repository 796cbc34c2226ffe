// ORC: the tables by which x86-64 kernels find the caller of a function at any of its instructions.
//
// Sources: Documentation/x86/orc-unwinder.rst, arch/x86/include/asm/orc_types.h of Linux 5.0 to 6.12, which differ in how they pack an
// entry. Nothing in memory says which packing a kernel has, and version numbers lie where distributions take patches back; but the
// entries show it: most are of calls, and those of register frames are signals.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/linux/kernel_memory.h"
#include "vmm/result.h"

namespace retrovisor {

enum class OrcRegister : uint8_t { undefined = 0, prev_sp = 1, dx = 2, di = 3, bp = 4, sp = 5, r10 = 6, r13 = 7, bp_indirect = 8,
                                   sp_indirect = 9 };
enum class OrcType : uint8_t { undefined, end_of_stack, call, regs, regs_partial };

struct OrcEntry {
  int16_t sp_offset = 0, bp_offset = 0;
  OrcRegister sp_reg{}, bp_reg{};
  OrcType type{};
  bool operator==(const OrcEntry&) const = default;
};

enum class OrcPacking : uint8_t {
  end_bit,         // type: 2 bits, end: up to 6.2
  signal_and_end,  // type: 2 bits, signal, end: 6.3
  wide_type,       // type: 3 bits, signal: from 6.4 on
};

// The table of one image: the kernel's or a module's.
class OrcTable {
 public:
  // `count` instructions' addresses, each as its distance from where it lies, ascending, and as many entries. An error says what is
  // wrong with them. Without a packing, it is found out from the entries.
  static Result<OrcTable> read(const KernelMemory& memory, uint64_t addresses, uint64_t entries, uint64_t count,
                               std::optional<OrcPacking> packing = std::nullopt);

  OrcPacking packing() const { return packing_; }
  size_t size() const { return addresses_.size(); }
  // The entry of the instruction at `ip`; nothing before the first. What lies behind the image has the last one's: the caller knows
  // where that ends.
  std::optional<OrcEntry> find(uint64_t ip) const;

 private:
  std::vector<uint64_t> addresses_;
  std::vector<OrcEntry> entries_;
  OrcPacking packing_{};
};

}  // namespace retrovisor
