#include "vmm/machine/memory_view.h"

#include <algorithm>
#include <cstring>

#include "vmm/cpu/canonical.h"

namespace retrovisor {

uint64_t linear_address(const CpuState& state, uint64_t address) {
  return state.long_mode() ? address : address & 0xffffffff;
}

std::optional<PhysAddr> MemoryView::locate(uint64_t address) const {
  PhysAddr phys(address);
  if (!physical_) {
    const uint64_t linear = linear_address(state_, address);
    if (state_.long_mode() && !is_canonical(linear)) return std::nullopt;
    const PageWalk walk = walk_page(state_, memory_, LinearAddr(linear), {}, false);
    if (!walk.ok) return std::nullopt;
    phys = walk.phys;
  }
  if (!memory_.is_ram(phys)) return std::nullopt;
  return phys;
}

size_t MemoryView::read(uint64_t address, std::span<uint8_t> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const auto phys = locate(address + done);
    if (!phys) break;
    const size_t n = std::min<size_t>(out.size() - done, kPageSize - (phys->value & ~kPageMask));
    std::memcpy(out.data() + done, memory_.host(*phys), n);
    done += n;
  }
  return done;
}

bool MemoryView::write(uint64_t address, std::span<const uint8_t> data) const {
  for (const bool really : {false, true}) {
    for (size_t done = 0; done < data.size();) {
      const auto phys = locate(address + done);
      if (!phys) return false;
      const size_t n = std::min<size_t>(data.size() - done, kPageSize - (phys->value & ~kPageMask));
      if (really && !memory_.write(*phys, data.subspan(done, n))) return false;
      done += n;
    }
  }
  return true;
}

}  // namespace retrovisor
