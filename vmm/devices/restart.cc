#include "vmm/devices/restart.h"

#include <array>

#include "vmm/byte_builder.h"
#include "vmm/board/device_context.h"
#include "vmm/devices/apic_bus.h"
#include "vmm/devices/local_apic.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

enum Code : uint8_t { jump_behind_eoi = 0x05, jump = 0x0a, iret_from_stack = 0x0b, retf_from_stack = 0x0c };
constexpr bool goes_on(uint8_t code) { return code == jump_behind_eoi || (code >= jump && code <= retf_from_stack); }
constexpr PhysAddr kPointer(0x467);
static_assert(machine_map::kRestartCode % kPageSize == 0 && machine_map::kRestartCode < 0x100000, "where a start-up IPI can start");

// Leaves the registers of the reset as they are, but for CS:IP, and SS:SP where that is what the pointer is.
std::vector<uint8_t> start_code(FarPointer where, uint8_t code) {
  ByteBuilder b;
  if (code == jump_behind_eoi) {
    b.u8(0xb0).u8(0x20);                         // mov al, 20h: non-specific EOI
    b.u8(0xe6).u8(machine_map::kPic1);           // out 0a0h, al
    b.u8(0xe6).u8(machine_map::kPic0);           // out 20h, al
    b.u8(0xb0).u8(0);                            // mov al, 0
  }
  if (code == iret_from_stack || code == retf_from_stack) {
    b.u8(0xb8).u16(where.segment);                    // mov ax, segment
    b.u8(0x8e).u8(0xd0);                              // mov ss, ax
    b.u8(0xbc).u16(where.offset);                     // mov sp, offset
    b.u8(0xb8).u16(0);                                // mov ax, 0
    b.u8(code == iret_from_stack ? 0xcf : 0xcb);      // iret, retf
  } else {
    b.u8(0xea).u16(where.offset).u16(where.segment);  // jmp segment:offset
  }
  return b.data();
}

}  // namespace

Restart::Restart(DeviceContext& context)
    : control_(context.control()), dma_(context.dma()), apics_(context.shared<ApicBus>()), code_(context.offered<ShutdownCode>()) {}

void Restart::reset_processors(uint64_t detail) {
  const uint8_t code = code_ != nullptr ? code_->shutdown_code() : 0;
  std::array<uint8_t, 4> p{};
  if (goes_on(code) && dma_.read(kPointer, p)) {
    const FarPointer pointer{static_cast<uint16_t>(p[2] | p[3] << 8), static_cast<uint16_t>(p[0] | p[1] << 8)};
    if (restart(start_code(pointer, code))) return code_->clear_shutdown_code();
  }
  control_.request_stop({StopReason::reset, detail});
}

bool Restart::restart_at(FarPointer where) { return restart(start_code(where, jump)); }

bool Restart::restart(std::span<const uint8_t> code) {
  if (apics_.apics().empty() || !dma_.write(PhysAddr(machine_map::kRestartCode), code)) return false;
  for (LocalApic* apic : apics_.apics()) apic->reset_processor(machine_map::kRestartCode >> kPageShift);
  return true;
}

}  // namespace retrovisor
