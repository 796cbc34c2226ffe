#include "vmm/bus.h"

#include "vmm/assert.h"

namespace retrovisor {
namespace {

constexpr uint64_t all_ones(unsigned size) { return size >= 8 ? ~uint64_t{0} : (uint64_t{1} << (size * 8)) - 1; }

}  // namespace

void PortBus::map(uint16_t first, unsigned count, PortDevice& device) {
  for (unsigned i = 0; i < count; ++i) RV_ASSERT(find(first + i) == nullptr);
  mappings_.push_back({first, count, &device});
}

PortDevice* PortBus::find(uint32_t port) const {
  for (const Mapping& m : mappings_)
    if (port - m.first < m.count) return m.device;
  return nullptr;
}

uint32_t PortBus::read(uint16_t port, unsigned size) {
  uint32_t value = 0;
  for (unsigned done = 0; done < size;) {
    const auto at = static_cast<uint16_t>(port + done);
    PortDevice* device = find(at);
    const unsigned width = device == nullptr ? 1 : std::min(device->port_width(), size - done);
    const uint32_t part = device == nullptr ? 0xff : device->read(at, width) & static_cast<uint32_t>(all_ones(width));
    value |= part << (done * 8);
    done += width;
  }
  journal_.log(EventKind::port_read, port, size, value);
  return value;
}

void PortBus::write(uint16_t port, unsigned size, uint32_t value) {
  journal_.log(EventKind::port_write, port, size, value);
  for (unsigned done = 0; done < size;) {
    const auto at = static_cast<uint16_t>(port + done);
    PortDevice* device = find(at);
    const unsigned width = device == nullptr ? 1 : std::min(device->port_width(), size - done);
    if (device != nullptr) device->write(at, width, (value >> (done * 8)) & static_cast<uint32_t>(all_ones(width)));
    done += width;
  }
}

void MmioBus::map(PhysRange range, MmioDevice& device) { mappings_.push_back({range, &device}); }

void MmioBus::remap(MmioDevice& device, PhysRange range) {
  for (Mapping& m : mappings_)
    if (m.device == &device) m.range = range;
}

const MmioBus::Mapping* MmioBus::find(PhysAddr addr, unsigned size) const {
  for (const Mapping& m : mappings_) {
    const uint64_t offset = addr.value - m.range.begin.value;
    if (offset < m.range.size && m.range.size - offset >= size) return &m;
  }
  return nullptr;
}

uint64_t MmioBus::read(PhysAddr addr, unsigned size) {
  const Mapping* m = find(addr, size);
  const uint64_t value =
      (m == nullptr ? ~uint64_t{0} : m->device->mmio_read(addr - m->range.begin, size)) & all_ones(size);
  journal_.log(EventKind::mmio_read, addr.value, size, value);
  return value;
}

void MmioBus::write(PhysAddr addr, unsigned size, uint64_t value) {
  journal_.log(EventKind::mmio_write, addr.value, size, value & all_ones(size));
  if (const Mapping* m = find(addr, size); m != nullptr)
    m->device->mmio_write(addr - m->range.begin, size, value & all_ones(size));
}

}  // namespace retrovisor
