// What a reset of the processors comes to on a PC: firmware looks at the shutdown code in CMOS memory, by which real-mode programs and
// kernels of the 80286's days come back from protected mode, and goes on where the program said, or starts the machine anew.
// Sources: IBM PC/AT Technical Reference, BIOS (shutdown code, 40:67); Ralf Brown's CMOS.LST, register 0Fh.
//
// The machine has no ROM to start in. What firmware's code would do there, a few instructions do that are written into the BIOS area and
// started as a start-up IPI starts a processor: so all that lies between the reset and its effect is state of vCPUs and memory.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "vmm/types.h"

namespace retrovisor {

class ApicBus;
class DeviceContext;
class DmaPort;
class MachineControl;

// CMOS register 0Fh, for whoever resets processors.
class ShutdownCode {
 public:
  static constexpr std::string_view kShared = "shutdown code";  // DeviceContext::offered()
  virtual ~ShutdownCode() = default;
  virtual uint8_t shutdown_code() const = 0;
  virtual void clear_shutdown_code() = 0;
};

struct FarPointer {
  uint16_t segment = 0;
  uint16_t offset = 0;
};

class Restart {
 public:
  explicit Restart(DeviceContext& context);

  // The reset line of the processors is pulsed. Ends the run (StopReason::reset with this detail) unless the shutdown code says where
  // to go on: 05h and 0Ah at the pointer in 40:67, 05h behind an EOI to both 8259As; 0Bh and 0Ch by IRET and RETF from the stack at
  // 40:67. 09h returns into a BIOS's own block move, by a frame that no program can know: a reset, as the machine's INT 15h does not
  // move blocks so (SeaBIOS refuses it, too). Memory and devices stay as they are but for local APICs.
  void reset_processors(uint64_t detail);
  // Resets all processors; the boot processor goes on in real mode there. False, with nothing done, if that cannot be.
  bool restart_at(FarPointer where);

 private:
  bool restart(std::span<const uint8_t> code);

  MachineControl& control_;
  DmaPort& dma_;
  ApicBus& apics_;
  ShutdownCode* const code_;  // null: there is no CMOS memory
};

}  // namespace retrovisor
