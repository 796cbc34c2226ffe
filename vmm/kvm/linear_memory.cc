#include "vmm/kvm/linear_memory.h"

#include <algorithm>

#include "vmm/cpu/page_walk.h"

namespace retrovisor::kvm {
namespace {

// As many bytes as can be read.
size_t read_some(const CpuState& s, GuestMemory& memory, LinearAddr from, std::span<uint8_t> out) {
  size_t have = 0;
  while (have < out.size()) {
    const PageWalk walk = walk_page(s, memory, from + have, {}, false);
    const size_t piece = std::min<size_t>(out.size() - have, kPageSize - (walk.phys.value & ~kPageMask));
    if (!walk.ok || !memory.read(walk.phys, out.subspan(have, piece))) break;
    have += piece;
  }
  return have;
}

}  // namespace

bool read_linear(const CpuState& s, GuestMemory& memory, LinearAddr from, std::span<uint8_t> out) {
  return read_some(s, memory, from, out) == out.size();
}

size_t read_code(const CpuState& s, GuestMemory& memory, std::span<uint8_t, kLongestInstruction> out) {
  return read_some(s, memory, s.linear_rip(), out);
}

}  // namespace retrovisor::kvm
