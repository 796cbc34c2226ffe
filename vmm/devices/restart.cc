#include "vmm/devices/restart.h"

#include <array>

#include "vmm/board/byte_builder.h"
#include "vmm/board/device_context.h"
#include "vmm/devices/apic_bus.h"
#include "vmm/devices/local_apic.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

enum Code : uint8_t { jump_behind_eoi = 0x05, jump = 0x0a };
constexpr PhysAddr kPointer(0x467);
static_assert(machine_map::kRestartCode % kPageSize == 0 && machine_map::kRestartCode < 0x100000, "where a start-up IPI can start");

// Leaves the registers of the reset as they are, but for CS:IP.
std::vector<uint8_t> start_code(FarPointer where, bool end_of_interrupt) {
  ByteBuilder b;
  if (end_of_interrupt) {
    b.u8(0xb0).u8(0x20);                         // mov al, 20h: non-specific EOI
    b.u8(0xe6).u8(machine_map::kPic1);           // out 0a0h, al
    b.u8(0xe6).u8(machine_map::kPic0);           // out 20h, al
    b.u8(0xb0).u8(0);                            // mov al, 0
  }
  b.u8(0xea).u16(where.offset).u16(where.segment);  // jmp segment:offset
  return b.data();
}

}  // namespace

Restart::Restart(DeviceContext& context)
    : control_(context.control()), dma_(context.dma()), apics_(context.shared<ApicBus>()), code_(context.offered<ShutdownCode>()) {}

void Restart::reset_processors(uint64_t detail) {
  const uint8_t code = code_ != nullptr ? code_->shutdown_code() : 0;
  std::array<uint8_t, 4> p{};
  if ((code == jump || code == jump_behind_eoi) && dma_.read(kPointer, p)) {
    const FarPointer where{static_cast<uint16_t>(p[2] | p[3] << 8), static_cast<uint16_t>(p[0] | p[1] << 8)};
    if (restart_at(where, code == jump_behind_eoi)) return code_->clear_shutdown_code();
  }
  control_.request_stop({StopReason::reset, detail});
}

bool Restart::restart_at(FarPointer where, bool end_of_interrupt) {
  if (apics_.apics().empty() || !dma_.write(PhysAddr(machine_map::kRestartCode), start_code(where, end_of_interrupt))) return false;
  for (LocalApic* apic : apics_.apics()) apic->reset_processor(machine_map::kRestartCode >> kPageShift);
  return true;
}

}  // namespace retrovisor
