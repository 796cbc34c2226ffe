// How devices reach guest memory: RAM alone, never a device; checked, told to the journal and to observers, seen by whoever keeps account of pages.
#pragma once

#include <span>

#include "vmm/platform.h"

namespace retrovisor {

class DmaPort {
 public:
  explicit DmaPort(const Platform& platform) : platform_(platform) {}
  // False, with nothing done, if not all of the bytes are RAM.
  bool read(PhysAddr from, std::span<uint8_t> out) const;
  bool write(PhysAddr to, std::span<const uint8_t> bytes);

 private:
  bool is_ram(PhysAddr begin, size_t size) const;
  void tell(Observation::Kind kind, PhysAddr begin, std::span<const uint8_t> bytes) const;

  const Platform& platform_;
};

}  // namespace retrovisor
