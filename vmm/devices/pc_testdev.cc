#include "vmm/devices/pc_testdev.h"

#include <cstring>

#include "vmm/board/device_context.h"

namespace retrovisor {

void PcTestdev::reset(const PowerOn&) {
  register_ = 0;
  memory_.fill(0);
}

uint64_t PcTestdev::read(const BusAccess& access) {
  if (access.space == AddressSpace::memory) {
    uint64_t value = 0;
    std::memcpy(&value, memory_.data() + access.offset, access.size);
    return value;
  }
  return access.address < kFlush ? register_ >> access.offset * 8 : 0;
}

void PcTestdev::write(const BusAccess& access, uint64_t value) {
  if (access.space == AddressSpace::memory) {
    std::memcpy(memory_.data() + access.offset, &value, access.size);
  } else if (access.address >= kLines) {
    const auto line = static_cast<unsigned>(access.offset);
    (line < kIsaLines ? wiring_.isa : wiring_.gsi).set_irq(line, value != 0);
  } else if (access.address < kFlush) {
    std::memcpy(reinterpret_cast<uint8_t*>(&register_) + access.offset, &value, access.size);
  }
}

void PcTestdev::save(StateWriter& out) const {
  out.section(name());
  out.u32("register", register_);
  out.bytes("memory", memory_);
}

void PcTestdev::restore(StateReader& in) {
  in.section(name());
  in.u32("register", register_);
  in.bytes("memory", memory_);
}

constinit const DeviceType kPcTestdevDevice{
    .name = "pc-testdev",
    .help = "a device for test kernels: a register, memory at 0xff000000, interrupt lines to drive by hand",
    .make =
        [](DeviceContext& c) {
          auto& device = c.add<PcTestdev>(c.wiring());
          c.claim_ports({.first = PcTestdev::kRegister, .count = 4, .device = &device, .width = 4});
          c.claim_ports({.first = PcTestdev::kFlush, .count = 4, .device = &device, .width = 4});
          c.claim_ports({.first = PcTestdev::kLines, .count = PcTestdev::kLineCount, .device = &device});
          c.claim_memory({.first = PcTestdev::kMemory, .count = PcTestdev::kMemorySize, .device = &device});
        },
};

}  // namespace retrovisor
