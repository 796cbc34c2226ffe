#include "vmm/board/dma_port.h"

#include <xxhash.h>

namespace retrovisor {

bool DmaPort::is_ram(PhysAddr begin, size_t size) const {
  if (size > UINT64_MAX - begin.value) return false;
  for (uint64_t done = 0; done < size;) {
    if (!memory_.is_ram(begin + done)) return false;
    done += kPageSize - ((begin.value + done) & (kPageSize - 1));
  }
  return true;
}

bool DmaPort::read(PhysAddr from, std::span<uint8_t> out) const { return is_ram(from, out.size()) && memory_.read(from, out); }

bool DmaPort::write(PhysAddr to, std::span<const uint8_t> bytes) {
  if (!is_ram(to, bytes.size())) return false;
  if (journal_.wants(EventKind::dma)) journal_.log(EventKind::dma, to.value, bytes.size(), XXH3_64bits(bytes.data(), bytes.size()));
  return memory_.write(to, bytes);
}

}  // namespace retrovisor
