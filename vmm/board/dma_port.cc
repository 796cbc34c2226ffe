#include "vmm/board/dma_port.h"

#include <xxhash.h>

namespace retrovisor {

bool DmaPort::is_ram(PhysAddr begin, size_t size) const {
  if (size > UINT64_MAX - begin.value) return false;
  for (uint64_t done = 0; done < size;) {
    if (!platform_.memory.is_ram(begin + done)) return false;
    done += kPageSize - ((begin.value + done) & (kPageSize - 1));
  }
  return true;
}

void DmaPort::tell(Observation::Kind kind, PhysAddr begin, std::span<const uint8_t> bytes) const {
  if (!platform_.observers.wants(kind)) return;
  Observation o;
  o.kind = kind;
  o.position = platform_.clock.position();
  o.writer = Writer::outside;
  o.size = bytes.size();
  o.bytes = {begin, bytes.size()};
  o.data = bytes;
  if (platform_.observers.tell(o)) platform_.control.request_stop({StopReason::observed, 0});
}

bool DmaPort::read(PhysAddr from, std::span<uint8_t> out) const {
  if (!is_ram(from, out.size()) || !platform_.memory.read(from, out)) return false;
  tell(Observation::Kind::dma_read, from, out);
  return true;
}

bool DmaPort::write(PhysAddr to, std::span<const uint8_t> bytes) {
  if (!is_ram(to, bytes.size())) return false;
  Journal& journal = platform_.journal;
  if (journal.wants(EventKind::dma)) journal.log(EventKind::dma, to.value, bytes.size(), XXH3_64bits(bytes.data(), bytes.size()));
  if (!platform_.memory.write(to, bytes)) return false;
  tell(Observation::Kind::dma_write, to, bytes);
  return true;
}

}  // namespace retrovisor
