// How devices reach guest memory: RAM alone, never a device; checked, told to the journal, seen by whoever keeps account of pages.
#pragma once

#include <span>

#include "vmm/journal.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor {

class DmaPort {
 public:
  DmaPort(GuestMemory& memory, Journal& journal) : memory_(memory), journal_(journal) {}
  // False, with nothing done, if not all of the bytes are RAM.
  bool read(PhysAddr from, std::span<uint8_t> out) const;
  bool write(PhysAddr to, std::span<const uint8_t> bytes);

 private:
  bool is_ram(PhysAddr begin, size_t size) const;

  GuestMemory& memory_;
  Journal& journal_;
};

}  // namespace retrovisor
